//! Pulls from and pushes to registries. Source: OCI distribution specification 1.1.
//!
//! ```text
//! mirrors, hosts_toml, registries_conf   servers in the host's configuration for a repository
//! endpoint, location, proxy      addresses of requests
//! challenge, credentials, token  authentication
//! explanation                    a server's explanation of an error
//! agents, client, retry          requests with redirects and retries
//! transfer, range                a blob as a stream that resumes after an interruption
//! senders                        the server that sent each document and layer
//! pull, push                     images
//! ```
//! imrun does not trust a registry: a tag's digest only determines what is fetched next, and everything
//! is hashed before it is parsed.
#![forbid(unsafe_code)]

mod agents;
pub mod challenge;
mod client;
pub mod credentials;
pub mod endpoint;
mod explanation;
pub mod hosts_toml;
pub mod location;
pub mod mirrors;
mod proxy;
pub mod pull;
pub mod push;
pub mod range;
pub mod registries_conf;
mod retry;
mod senders;
mod token;
mod transfer;

use std::time::Duration;

/// Settings for connections to a registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connects without TLS.
    pub plain_http: bool,
    /// Maximum time without any data.
    pub timeout: Duration,
    /// Maximum time of a transfer.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            plain_http: false,
            timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(3600),
        }
    }
}
