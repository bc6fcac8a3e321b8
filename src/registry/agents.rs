//! HTTP agents, one for each server, with the server's timeouts, root certificates and proxy.

use super::endpoint::{self, Tls};
use super::{Settings, proxy};
use crate::base::error::{Error, Result};
use crate::base::tls;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::Agent;
use ureq::http::Uri;

/// Maximum time to establish a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Agents by server.
pub struct Agents {
    /// Maximum time without any data from a server.
    silence: Duration,
    /// Server with certificates of its own, in addition to those in the usual directories.
    own: (String, Tls),
    made: Mutex<BTreeMap<String, Agent>>,
}

impl Agents {
    /// Creates an empty set; `tls` applies only to `authority`.
    pub fn new(settings: &Settings, authority: &str, tls: &Tls) -> Agents {
        Agents {
            own: (authority.to_string(), tls.clone()),
            silence: settings.timeout.min(settings.deadline),
            made: Mutex::default(),
        }
    }

    /// Returns the agent for requests to `url`, which reuses connections.
    ///
    /// # Errors
    /// Invalid certificates on the host, or a proxy variable that is not the URL of a proxy.
    pub fn to(&self, url: &Uri) -> Result<Agent> {
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let server = format!("{}://{authority}", url.scheme_str().unwrap_or_default());
        // The map is consistent even after a panic of another thread.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = made.get(&server) {
            return Ok(agent.clone());
        }
        let agent = self.make(url, authority)?;
        made.insert(server, agent.clone());
        Ok(agent)
    }

    fn make(&self, url: &Uri, authority: &str) -> Result<Agent> {
        let mut config = Agent::config_builder()
            .timeout_resolve(Some(self.silence))
            .timeout_connect(Some(self.silence.min(CONNECT)))
            .timeout_recv_response(Some(self.silence))
            .timeout_per_read(Some(self.silence))
            .timeout_per_write(Some(self.silence))
            .http_status_as_error(false)
            // Digests cover the bytes as sent, so nothing may compress them.
            .accept_encoding("identity")
            // The client follows redirects itself and decides for each if it may send a secret.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy::of(url, |name| std::env::var(name).ok())?)
            .user_agent(concat!("imrun/", env!("CARGO_PKG_VERSION")));
        if url.scheme_str() == Some("https") {
            let (mut more, mut settings) = own_certificates(&endpoint::certificates(authority))?;
            if self.own.0 == authority {
                more.extend(self.own.1.roots.iter().cloned());
                settings.client = self.own.1.client.clone().or(settings.client);
            }
            config = config.tls_config(settings.ureq_with(&more)?);
        }
        Ok(config.build().new_agent())
    }
}

/// Returns the roots (`*.crt`) and the client certificate (`*.cert` with `*.key`) in the directories.
///
/// Source: containers-certs.d(5).
fn own_certificates(directories: &[PathBuf]) -> Result<(Vec<PathBuf>, tls::Settings)> {
    let (mut roots, mut settings) = (Vec::new(), tls::Settings::default());
    for directory in directories {
        for file in sorted(directory)? {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => roots.push(file),
                Some("cert") => {
                    let key = file.with_extension("key");
                    settings.client = Some(tls::Client { cert: file, key });
                }
                _ => {}
            }
        }
    }
    Ok((roots, settings))
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error: std::io::Error| {
        Error::system(
            format_args!("readdir({directory:?})"),
            crate::base::error::reason_of(&error),
        )
    };
    let entries = std::fs::read_dir(directory).map_err(unreadable)?;
    let files: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = files.map_err(unreadable)?;
    files.sort();
    Ok(files)
}
