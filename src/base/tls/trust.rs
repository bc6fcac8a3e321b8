//! TLS configuration of rustls.

use super::{Client, Settings};
use crate::base::error::{Error, Result};
use crate::base::files;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Maximum size of a file of certificates or a key, in bytes: many times the size of all public roots.
const MAX_FILE: u64 = 8 << 20;

impl Settings {
    /// Returns the configuration of a connection.
    ///
    /// # Errors
    /// A file cannot be read or has no usable content, or the host has no roots.
    pub fn rustls(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(self.roots()?);
        if usable == 0 {
            return Err(self.no_roots());
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for each version")
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(client) => builder
                .with_client_auth_cert(certificates(&client.cert)?, key(&client.key)?)
                .map_err(|error| client.fault(&error))?,
        };
        // There is one long-lived connection, so resumption is not worth its memory.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    pub(super) fn roots(&self) -> Result<Vec<CertificateDer<'static>>> {
        match &self.ca {
            Some(file) => certificates(file),
            None => host_roots(),
        }
    }

    fn no_roots(&self) -> Error {
        match &self.ca {
            Some(file) => unusable(file, "has no usable certificate"),
            None => Error::unsupported("TLS", "this host has no root certificates")
                .hint("install the package ca-certificates, or set SSL_CERT_FILE"),
        }
    }
}

/// Returns the roots of the host. OpenSSL's variables name others; what they name may be anything, so a
/// file is read as carefully as one of the command line.
fn host_roots() -> Result<Vec<CertificateDer<'static>>> {
    match std::env::var_os("SSL_CERT_FILE") {
        Some(file) => certificates(Path::new(&file)),
        // A file among them that cannot be read is no reason to refuse: the others may do.
        None => Ok(rustls_native_certs::load_native_certs().certs),
    }
}

impl Client {
    /// Returns the error about a pair, with the name of the file at fault.
    fn fault(&self, error: &rustls::Error) -> Error {
        match error {
            rustls::Error::InvalidCertificate(fault) => unusable(
                &self.cert,
                format_args!("is no certificate that can be used: {fault:?}"),
            ),
            rustls::Error::InconsistentKeys(_) => unusable(
                &self.cert,
                format_args!("is not the certificate of the key in {:?}", self.key),
            ),
            _ => unusable(&self.key, error),
        }
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    files::read_regular(file, MAX_FILE)
}

pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(file)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<std::result::Result<_, _>>();
    let certificates: Vec<_> = certificates.map_err(|error| unusable(file, error))?;
    if certificates.is_empty() {
        Err(unusable(file, "has no certificate in PEM form"))
    } else {
        Ok(certificates)
    }
}

pub(super) fn key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|_| unusable(file, "has no private key in PEM form without a password"))
}

pub(super) fn unusable(file: &Path, why: impl std::fmt::Display) -> Error {
    Error::usage(format_args!("TLS: {file:?}"), why)
}
