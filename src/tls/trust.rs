//! What a host's settings mean to rustls.

use super::{Client, Settings};
use crate::error::{Error, Result};
use crate::files;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Bytes of a file of certificates or a key: many times what all public authorities take.
const MAX_FILE: u64 = 8 << 20;

impl Settings {
    /// For a connection of one's own.
    ///
    /// # Errors
    /// A file that cannot be read or holds nothing of use; a host without roots.
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
        // One connection at a time, which is kept: there is nothing to resume that would be worth
        // the memory.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    pub(super) fn roots(&self) -> Result<Vec<CertificateDer<'static>>> {
        match &self.ca {
            Some(file) => certificates(file),
            // A file among them that cannot be read is no reason to refuse: the others may do.
            None => Ok(rustls_native_certs::load_native_certs().certs),
        }
    }

    fn no_roots(&self) -> Error {
        match &self.ca {
            Some(file) => unusable(file, "has no certificate that can be used"),
            None => Error::unsupported("TLS", "this host has no root certificates")
                .hint("the package ca-certificates has them; SSL_CERT_FILE names another file"),
        }
    }
}

impl Client {
    /// A fault of the pair, under the name of the file that has it.
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
    match certificates.is_empty() {
        true => Err(unusable(file, "has no certificate in PEM form")),
        false => Ok(certificates),
    }
}

pub(super) fn key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|_| unusable(file, "has no private key in PEM form without a password"))
}

pub(super) fn unusable(file: &Path, why: impl std::fmt::Display) -> Error {
    Error::usage(format_args!("TLS: {file:?}"), why)
}
