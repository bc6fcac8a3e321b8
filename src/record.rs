//! The launch record: everything that decides a run. The digest of its canonical form is the
//! launch's id, so the same image, configuration and host give the same id.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::json;
use serde_json::{Value, json};

/// What decides a run. Environment values are not in it, only their fingerprints.
pub struct Record {
    /// The digests of the manifest, the config, the layers and the tree image; or a directory.
    pub image: Value,
    /// The integrity level that held.
    pub integrity: &'static str,
    /// The root filesystem driver, and how it reads the backing files.
    pub driver: Value,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// In the container.
    pub user: Value,
    /// In the container.
    pub workdir: String,
    /// In the container.
    pub hostname: String,
    /// Names and fingerprints.
    pub env: Vec<(String, String)>,
    /// `--net`, and the digests of the host's files that come with it.
    pub network: Value,
    /// What only a bundle of the OCI runtime specification says.
    pub bundle: Option<Value>,
    /// The process 1 in front of the app, by its name and digest.
    pub init: Option<Value>,
    /// Resource limits; empty without.
    pub limits: Value,
    /// How stalls, stops and side effects are met.
    pub policy: Value,
    /// The sinks, without credentials, and what their acknowledgements mean.
    pub sinks: Vec<Value>,
}

impl Record {
    /// The record and its digest.
    pub fn seal(&self) -> (Value, Digest) {
        // A list, not an object: to a search engine each of its keys would be a field of its own.
        let env: Vec<_> = self
            .env
            .iter()
            .map(|(name, print)| json!({ "name": name, "hmac": print }))
            .collect();
        let mut value = json!({
            "version": 1,
            "imrun": { "version": env!("CARGO_PKG_VERSION"), "build": env!("IMRUN_BUILD") },
            "kernel": kernel(),
            "image": self.image,
            "integrity": self.integrity,
            "driver": self.driver,
            "args": self.args,
            "user": self.user,
            "workdir": self.workdir,
            "hostname": self.hostname,
            "env": env,
            "network": self.network,
            "limits": self.limits,
            "policy": self.policy,
            "sink": self.sinks.first(),
        });
        if let Some(bundle) = &self.bundle {
            value["bundle"] = bundle.clone();
        }
        if let Some(init) = &self.init {
            value["init"] = init.clone();
        }
        if self.sinks.len() > 1 {
            value["sinks"] = self.sinks.clone().into();
        }
        let digest = Digest::sha256(json::canonical(&value).as_bytes());
        (value, digest)
    }
}

fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    let parts = name.as_ref().map(|name| {
        [
            name.sysname(),
            name.release(),
            name.version(),
            name.machine(),
        ]
    });
    match parts {
        Ok(parts) => parts.map(std::ffi::OsStr::to_string_lossy).join(" "),
        Err(errno) => format!("unknown ({errno})"),
    }
}
