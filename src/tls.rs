//! TLS for all that goes over the network: rustls with ring, TLS 1.2 and 1.3.
//!
//! Whom to trust is the host's choice: the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` as
//! OpenSSL reads them), or those of one file alone. There is no switch that turns checking off.
#![forbid(unsafe_code)]

#[cfg(feature = "registry")]
mod agent;
#[cfg(feature = "tls")]
mod trust;

use std::path::PathBuf;

/// Certificates and keys by their files, in PEM form; the default takes the system's roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// In place of the system's roots.
    pub ca: Option<PathBuf>,
    /// What this side shows of itself.
    pub client: Option<Client>,
}

impl Settings {
    /// Whether any of them is in a file, which may change.
    pub fn has_files(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The chain, this side's own certificate first.
    pub cert: PathBuf,
    /// Its private key (PKCS#8, PKCS#1 or SEC1), without a password.
    pub key: PathBuf,
}

#[cfg(all(test, feature = "registry"))]
mod tests;
