//! TLS of all network connections: rustls with ring, TLS 1.2 and 1.3.
//!
//! The host chooses the trusted roots: the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` as in OpenSSL), or those of
//! one file only. Verification cannot be turned off.
#![forbid(unsafe_code)]

#[cfg(feature = "registry")]
mod agent;
#[cfg(feature = "tls")]
mod trust;

use std::path::PathBuf;

/// Files of certificates and keys, PEM. The default uses the system's roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// File of roots that replaces the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate.
    pub client: Option<Client>,
}

impl Settings {
    /// Returns true if one of the settings is in a file, which may change.
    pub fn has_files(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

/// A client certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// File of the certificate chain, the client's own certificate first.
    pub cert: PathBuf,
    /// File of the private key (PKCS#8, PKCS#1 or SEC1), without a password.
    pub key: PathBuf,
}

#[cfg(all(test, feature = "registry"))]
mod tests;
