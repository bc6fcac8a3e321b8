//! Where the registry of a name is, and whether it is spoken to by TLS.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The host of Docker Hub's registry, which is none of its names.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Where Docker, Podman and imrun look for a registry's own certificates, in directories that are
/// named `HOST[:PORT]`.
const CERTIFICATES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

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

/// The directories with certificates for a registry that are there.
pub fn certificates(registry: &str) -> Vec<PathBuf> {
    let directory = |parent| Path::new(parent).join(authority(registry));
    CERTIFICATES
        .map(directory)
        .into_iter()
        .filter(|path| path.is_dir())
        .collect()
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
