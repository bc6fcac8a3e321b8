//! Servers of a repository, and whether imrun contacts them with TLS.

use crate::base::tls;
use crate::image::reference::Reference;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Docker Hub, and the host of its registry.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Directories in which Docker, Podman, containerd and imrun search for a registry's certificates, in
/// subdirectories named `HOST[:PORT]`.
const CERTIFICATES: [&str; 3] = [
    "/etc/containers/certs.d",
    "/etc/docker/certs.d",
    "/etc/containerd/certs.d",
];

/// A server with a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `HOST[:PORT]`, as in names and files of credentials.
    pub registry: String,
    /// Name of the repository on this server.
    pub repository: String,
    /// Use of TLS.
    pub scheme: Scheme,
    /// Path before the repository's name, usually `/v2`.
    pub path: String,
    /// Registry that a mirror answers for, sent as the query `ns`; `None` sends no query.
    pub namespace: Option<String>,
    /// Certificates in the host's configuration.
    pub tls: Tls,
    /// Additional headers of each request.
    pub headers: Vec<(String, String)>,
    /// Name in errors: `the registry`, `the mirror HOST`.
    pub title: String,
    /// True if this is not the registry of the name itself.
    pub is_mirror: bool,
    /// True if it may resolve tags.
    pub knows_tags: bool,
}

/// Use of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TLS; on this machine, imrun determines it.
    Usual,
    /// TLS only.
    Https,
    /// No TLS.
    Http,
    /// TLS or not; imrun determines it.
    Either,
}

/// Certificates in addition to those in the usual directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Roots in addition to the system's.
    pub roots: Vec<PathBuf>,
    /// Client certificate.
    pub client: Option<tls::Client>,
}

impl Endpoint {
    /// Returns the registry of the name itself.
    pub fn of(name: &Reference) -> Endpoint {
        Endpoint {
            registry: name.registry.clone(),
            repository: name.repository.clone(),
            scheme: Scheme::Usual,
            path: "/v2".to_string(),
            namespace: None,
            tls: Tls::default(),
            headers: Vec::new(),
            title: "the registry".to_string(),
            is_mirror: false,
            knows_tags: true,
        }
    }
}

/// Returns the `HOST[:PORT]` to connect to.
pub fn authority(registry: &str) -> &str {
    match registry {
        name if name == HUB.0 => HUB.1,
        other => other,
    }
}

/// Returns true if packets to the host never leave this machine. `host` may have brackets.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Returns the existing directories with a registry's certificates. A directory with a `hosts.toml`
/// names its files there.
pub fn certificates(registry: &str) -> Vec<PathBuf> {
    let names = [
        authority(registry).to_string(),
        portable(authority(registry)),
    ];
    let directories = CERTIFICATES
        .iter()
        .flat_map(|parent| names.iter().map(move |name| Path::new(parent).join(name)));
    let mut found: Vec<PathBuf> = directories
        .filter(|path| path.is_dir() && !path.join("hosts.toml").exists())
        .collect();
    found.dedup();
    found
}

/// Returns a registry's name for file systems without colons: `HOST_PORT_`. Source: containerd,
/// docs/hosts.md.
pub fn portable(registry: &str) -> String {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}_{port}_"),
        _ => registry.to_string(),
    }
}

/// Returns `HOST[:PORT]` without its port.
pub fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for name in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1:5000",
            "127.8.9.1",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(host(name)), "{name}");
        }
        for name in [
            "localhost.example",
            "10.0.0.1:5000",
            "[::2]",
            "127.0.0.1.example",
            "0.0.0.0",
            "docker.io",
        ] {
            assert!(!is_loopback(host(name)), "{name}");
        }
    }
}
