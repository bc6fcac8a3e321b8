//! Servers that sent the data of a pull: a digest that turns out wrong leads to the one to pass over.

use super::endpoint::Endpoint;
use crate::base::digest::Digest;
use crate::base::error::Error;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// First server that sent data for each digest.
#[derive(Default)]
pub struct Senders(Mutex<BTreeMap<Digest, Endpoint>>);

impl Senders {
    /// Records that the server sends data for a digest.
    pub fn note(&self, digest: Digest, server: &Endpoint) {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        senders.entry(digest).or_insert_with(|| server.clone());
    }

    /// Returns the server that sent the data of an error.
    pub fn of(&self, error: &Error) -> Option<Endpoint> {
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = senders.iter();
        let found = all.find(|(digest, _)| error.what.contains(&digest.to_string()));
        found.map(|(_, sender)| sender.clone())
    }
}
