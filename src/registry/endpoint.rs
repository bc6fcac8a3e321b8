//! Where the registry of a name is, and whether it is spoken to by TLS.

use crate::reference::Reference;
use crate::tls;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The host of Docker Hub's registry, which is none of its names.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Where Docker, Podman, containerd and imrun look for a registry's own certificates, in directories that are
/// named `HOST[:PORT]`.
const CERTIFICATES: [&str; 3] = [
    "/etc/containers/certs.d",
    "/etc/docker/certs.d",
    "/etc/containerd/certs.d",
];

/// A server that has a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `HOST[:PORT]`, as in names and files of credentials.
    pub registry: String,
    /// The repository's name there.
    pub repository: String,
    /// Whether requests go by TLS.
    pub scheme: Scheme,
    /// The path before the repository's; `/v2` usually.
    pub path: String,
    /// The registry that a mirror is to answer for, where it wants to be told: the query `ns`.
    pub namespace: Option<String>,
    /// What the host's configuration has for its certificates.
    pub tls: Tls,
    /// Headers that each request has.
    pub headers: Vec<(String, String)>,
    /// Names it in errors: `the registry`, `the mirror HOST`.
    pub title: String,
    /// It is not the registry of the name.
    pub is_mirror: bool,
    /// It may be asked what a tag means.
    pub knows_tags: bool,
}

/// Whether requests go by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// By TLS; on this machine that is found out.
    Usual,
    /// By TLS alone.
    Https,
    /// Without.
    Http,
    /// It is found out.
    Either,
}

/// Certificates beside those in the usual directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Roots beside the system's.
    pub roots: Vec<PathBuf>,
    /// The certificate of this side.
    pub client: Option<tls::Client>,
}

impl Endpoint {
    /// The registry of the name itself.
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

/// `HOST[:PORT]` to connect to.
pub fn authority(registry: &str) -> &str {
    match registry {
        name if name == HUB.0 => HUB.1,
        other => other,
    }
}

/// Whether packets to it never leave this machine. `host` may have brackets.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The directories with certificates for a registry that are there. One with a `hosts.toml` names its files in that.
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

/// A registry's name where a file's cannot have a colon: `HOST_PORT_`. Source: containerd, docs/hosts.md.
pub fn portable(registry: &str) -> String {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}_{port}_"),
        _ => registry.to_string(),
    }
}

/// `HOST[:PORT]` without its port.
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
