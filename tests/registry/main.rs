//! Pull and push with a registry of the tests, which can be told to misbehave.
//!
//! The tests need root, cgroup2 and EROFS for the launches; otherwise they report this and are skipped.
#![allow(clippy::unwrap_used)]

mod access;
mod broken;
mod history;
mod lies;
mod mirrors;
mod pull;
mod push;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support"]
mod support {
    pub mod host;
    pub mod launch;
    pub mod layout;
    pub mod outcome;
    pub mod registry;
    pub mod server;
    pub mod skip;
}

use serde_json::Value;
use std::process::Command;
use support::host::Host;
use support::layout::{Layout, Packing, program, tar};
use support::outcome::Outcome;
use support::registry::Registry;

/// A registry with the image `app:1` of two layers, whose descriptors are `lower` and `upper`.
struct Served {
    registry: Registry,
    layout: Layout,
    manifest: Value,
}

impl Served {
    fn new(host: &Host, packing: Packing) -> Served {
        let registry = Registry::start();
        let layout = Layout::new(host.path("layout"));
        let manifest = layout.publish_image(&[&program(), &tar(&[("a", "1")])], packing);
        registry.publish(&layout, &manifest, "1");
        Served {
            registry,
            layout,
            manifest,
        }
    }

    /// Returns the digest of the manifest.
    fn digest(&self) -> &str {
        self.manifest["digest"].as_str().unwrap()
    }

    /// Returns `HOST:PORT/app:1`.
    fn tag(&self) -> String {
        self.registry.name("app:1")
    }

    /// Returns `HOST:PORT/app@DIGEST`.
    fn pinned(&self) -> String {
        self.registry.name(&format!("app@{}", self.digest()))
    }

    /// Returns the digest of a layer's blob.
    fn layer(&self, number: usize) -> String {
        let manifest = std::fs::read(self.layout.blob(&self.manifest)).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["layers"][number]["digest"]
            .as_str()
            .unwrap()
            .to_string()
    }

    fn config(&self) -> String {
        let manifest = std::fs::read(self.layout.blob(&self.manifest)).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["config"]["digest"].as_str().unwrap().to_string()
    }
}

/// Runs a command of imrun with no other credentials and proxies than the given ones, and removes the
/// lines about layers from its output.
fn imrun(host: &Host, args: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(support::host::IMRUN);
    command
        .args(args)
        .arg("--store")
        .arg(host.path("store"))
        .arg("--root")
        .arg(host.path("root"));
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "IMRUN_STORE",
        "IMRUN_SINK",
        "IMRUN_HOSTS_DIR",
        "CONTAINERS_REGISTRIES_CONF",
        "DOCKER_CONFIG",
        "XDG_CONFIG_HOME",
    ] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
        .env("HOME", host.path("home"))
        .env("XDG_RUNTIME_DIR", host.path("run"));
    command.envs(environment.iter().copied());
    let mut output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let told = |line: &&str| line.starts_with("imrun: ") || line.starts_with("hint: ");
    output.stderr = text
        .lines()
        .filter(told)
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .into();
    Outcome::new(format!("{command:?}\n{text}"), output, Vec::new())
}

fn pull(host: &Host, name: &str) -> Outcome {
    imrun(host, &["pull", name], &[])
}

/// Checks that the image verifies and runs.
#[track_caller]
fn assert_whole(host: &Host, digest: &str) {
    let verified = host.imrun(["verify"]).exits(0);
    assert!(
        verified.out.contains(&format!("{digest}  ok\n")),
        "{verified:?}"
    );
    host.launch_of(digest).run().exits(0).prints("ran\n");
}

/// Checks that the store has no blob, tree image or name.
#[track_caller]
fn assert_empty(host: &Host) {
    assert_eq!(host.blobs().len(), 0, "{:?}", host.blobs());
    assert_eq!(
        std::fs::read_dir(host.path("store/trees")).unwrap().count(),
        0
    );
    assert!(!host.path("store/refs.log").exists());
}
