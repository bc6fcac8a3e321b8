//! The launch record: everything that determines a run. The digest of its canonical form is the launch's
//! id, so the same image, configuration and host give the same id.
#![forbid(unsafe_code)]

use crate::base::digest::Digest;
use crate::base::json;
use serde_json::{Value, json};

/// Everything that determines a run. It contains fingerprints of environment values, not the values.
pub struct Record {
    /// Digests of the manifest, config, layers and tree image; or a directory.
    pub image: Value,
    /// Integrity level of the launch.
    pub integrity: &'static str,
    /// Root filesystem driver, and how it reads the backing files.
    pub driver: Value,
    /// Program and its arguments.
    pub args: Vec<String>,
    /// User and groups in the container.
    pub user: Value,
    /// Working directory in the container.
    pub workdir: String,
    /// Host name in the container.
    pub hostname: String,
    /// Names and fingerprints of the environment.
    pub env: Vec<(String, String)>,
    /// Network mode (`--net`), and the digests of the host's name files.
    pub network: Value,
    /// Settings that only a bundle of the OCI runtime specification has.
    pub bundle: Option<Value>,
    /// Process 1 in front of the app: its name and digest.
    pub init: Option<Value>,
    /// Resource limits; empty if there are none.
    pub limits: Value,
    /// Policy for stalls, stops and side effects.
    pub policy: Value,
    /// Sinks, without credentials, with the meaning of their acknowledgements.
    pub sinks: Vec<Value>,
}

impl Record {
    /// Returns the complete record and its digest.
    pub fn finish(&self) -> (Value, Digest) {
        // A list, not an object: a search engine would make a field of each key.
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
