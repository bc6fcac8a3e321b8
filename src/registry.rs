//! Registries: pull and push by digest. Source: OCI distribution specification 1.1.
//!
//! ```text
//! mirrors, hosts_toml, registries_conf   which servers the host names for a repository
//! endpoint, location, proxy      where requests go
//! challenge, credentials, token  who makes them
//! explanation                    a refusal in the server's own words
//! agents, client, retry          a request with all that can happen to it
//! transfer, range                a blob as a stream that goes on where it broke off
//! pull, push                     an image
//! ```
//! Nothing that a registry says is believed: a tag's digest is only ever what is fetched next, and
//! what is fetched is hashed before it is read.
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
mod token;
mod transfer;

use std::time::Duration;

/// How a registry is spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Without TLS.
    pub plain_http: bool,
    /// How long it may say nothing.
    pub timeout: Duration,
    /// How long all of it may take.
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
