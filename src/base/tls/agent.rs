//! What a host's settings mean to ureq, which speaks to registries.

use super::Settings;
use super::trust::{certificates, provider, read, unusable};
use crate::base::error::Result;
use rustls::pki_types::CertificateDer;
use std::path::PathBuf;
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

impl Settings {
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
}

fn owned(certificates: &[CertificateDer<'_>]) -> Vec<Certificate<'static>> {
    certificates
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect()
}
