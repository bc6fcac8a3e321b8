//! Fingerprints: they show whether a value is the same as last time, without storing it.

use crate::base::digest::hex;
use crate::base::error::{Error, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Text mixed into the machine id, so that the id itself is never a key.
const PURPOSE: &[u8] = b"imrun fingerprint v1";

/// Returns the key: `IMRUN_FINGERPRINT_KEY` if the operator `configured` one, so that fingerprints are
/// comparable across hosts, else a key derived from the bytes of machine-id(5).
pub fn fingerprint_key(configured: Option<&[u8]>, machine_id: &[u8]) -> Result<Vec<u8>> {
    let hint = "set IMRUN_FINGERPRINT_KEY to a secret of your own";
    match (configured, machine_id.trim_ascii()) {
        (Some([]), _) => Err(Error::usage("IMRUN_FINGERPRINT_KEY", "is empty").hint(hint)),
        (Some(key), _) => Ok(key.to_vec()),
        // With a publicly known key, short values could be guessed from their fingerprints.
        (None, []) => Err(Error::usage(
            "machine-id",
            "is empty, so no fingerprint key can be derived from it",
        )
        .hint(hint)),
        (None, id) => Ok(mac(id, &[PURPOSE])),
    }
}

/// Returns the HMAC-SHA-256 (RFC 2104) of `NAME=VALUE` under `key`, as 64 lower-case hex digits.
///
/// A name contains no `=`, so no two variables share an input.
pub fn fingerprint(key: &[u8], name: &[u8], value: &[u8]) -> String {
    hex(&mac(key, &[name, b"=", value]))
}

fn mac(key: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    pieces.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().to_vec()
}
