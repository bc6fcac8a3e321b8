//! TLS configuration of ureq, the client of registries.

use super::Settings;
use super::trust::{certificates, provider, read, unusable};
use crate::base::error::Result;
use rustls::pki_types::CertificateDer;
use std::path::PathBuf;
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

impl Settings {
    /// Returns the configuration of ureq.
    ///
    /// # Errors
    /// As [`Settings::rustls`].
    pub fn ureq(&self) -> Result<TlsConfig> {
        self.ureq_with(&[])
    }

    /// Returns the configuration of ureq, with additional roots from these files.
    ///
    /// # Errors
    /// As [`Settings::rustls`].
    pub fn ureq_with(&self, more: &[PathBuf]) -> Result<TlsConfig> {
        // Report a wrong key or an unusable root now, not at the first request.
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
}

fn owned(certificates: &[CertificateDer<'_>]) -> Vec<Certificate<'static>> {
    certificates
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect()
}
