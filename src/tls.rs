//! TLS for all that goes over the network: rustls with ring, TLS 1.2 and 1.3.
//!
//! Whom to trust is the host's choice: the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` as
//! OpenSSL reads them), or those of one file alone. There is no switch that turns checking off.
#![forbid(unsafe_code)]

use crate::error::{Context, Error, Result};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// Certificates and keys by their files, in PEM form; the default takes the system's roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// In place of the system's roots.
    pub ca: Option<PathBuf>,
    /// What this side shows of itself.
    pub client: Option<Client>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The chain, this side's own certificate first.
    pub cert: PathBuf,
    /// Its private key (PKCS#8, PKCS#1 or SEC1), without a password.
    pub key: PathBuf,
}

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
                .map_err(|error| unusable(&client.key, error))?,
        };
        // One connection at a time, which is kept: there is nothing to resume that would be worth
        // the memory.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For ureq.
    ///
    /// # Errors
    /// As [`Settings::rustls`].
    pub fn ureq(&self) -> Result<TlsConfig> {
        self.ureq_with(&[])
    }

    /// For ureq, with the roots in these files beside the others.
    ///
    /// # Errors
    /// As [`Settings::rustls`].
    pub fn ureq_with(&self, more: &[PathBuf]) -> Result<TlsConfig> {
        // A wrong key or an unusable root is an error now, not at the first request.
        if more.is_empty() {
            self.rustls()?;
        }
        let mut roots = self.roots()?;
        for file in more {
            roots.extend(certificates(file)?);
        }
        let client = match &self.client {
            None => None,
            Some(client) => {
                let key = PrivateKey::from_pem(&read(&client.key)?);
                let key = key.map_err(|error| unusable(&client.key, error))?;
                Some(ClientCert::new_with_certs(
                    &owned(&certificates(&client.cert)?),
                    key,
                ))
            }
        };
        Ok(TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider())
            .root_certs(RootCerts::Specific(Arc::new(owned(&roots))))
            .client_cert(client)
            .build())
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>> {
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).context(|| format!("read({file:?})"))
}

fn owned(certificates: &[CertificateDer<'_>]) -> Vec<Certificate<'static>> {
    certificates
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(file)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<std::result::Result<_, _>>();
    let certificates: Vec<_> = certificates.map_err(|error| unusable(file, error))?;
    match certificates.is_empty() {
        true => Err(unusable(file, "has no certificate in PEM form")),
        false => Ok(certificates),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|_| unusable(file, "has no private key in PEM form without a password"))
}

fn unusable(file: &Path, why: impl std::fmt::Display) -> Error {
    Error::usage(format_args!("TLS: {file:?}"), why)
}

#[cfg(test)]
mod tests;
