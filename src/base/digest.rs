//! Digests: the identity of every byte that imrun touches.
//!
//! Source: OCI image specification 1.1, descriptor.md, "Digests".

use crate::base::error::{Error, Result};
use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;

/// Hash algorithms that imrun supports; all others are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// `sha256:` and 64 lower-case hex digits.
    Sha256,
    /// `sha512:` and 128 lower-case hex digits.
    Sha512,
}

impl Algorithm {
    /// Returns the name before the colon, which is also a directory below `blobs/`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Returns the size of a hash, in bytes.
    pub fn size(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

/// A hash with its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the SHA-256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Digest {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// Wraps a SHA-256 that is computed elsewhere.
    pub fn from_sha256(hash: [u8; 32]) -> Digest {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&hash);
        Digest {
            algorithm: Algorithm::Sha256,
            bytes,
        }
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hash: 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// Returns the lower-case hex digits after the colon.
    pub fn hex(&self) -> String {
        hex(self.as_bytes())
    }

    /// Checks that this is the digest of `bytes`; `what` names them in the error.
    pub fn verify(&self, what: &str, bytes: &[u8]) -> Result<()> {
        self.expect(what, Digest::of(self.algorithm, bytes))
    }

    /// Checks that a computed digest equals this one; `what` names the object in the error.
    pub fn expect(&self, what: &str, computed: Digest) -> Result<()> {
        if computed == *self {
            return Ok(());
        }
        Err(Error::digest(
            format_args!("{what} {self}"),
            format_args!("its bytes hash to {computed}"),
        ))
    }
}

/// Encodes `bytes` as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Err(Error::usage(format_args!("digest {text:?}"), why));
        let Some((name, digits)) = text.split_once(':') else {
            return wrong("is not ALGORITHM:HEX");
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return wrong("the algorithm is neither sha256 nor sha512"),
        };
        if digits.len() != 2 * algorithm.size() {
            return wrong(match algorithm {
                Algorithm::Sha256 => "sha256 has 64 hex digits",
                Algorithm::Sha512 => "sha512 has 128 hex digits",
            });
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return wrong("only the digits 0-9 and a-f are allowed");
            };
            *byte = high << 4 | low;
        }
        Ok(Digest { algorithm, bytes })
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream piece by piece.
#[derive(Clone)]
pub enum Hasher {
    /// A running SHA-256.
    Sha256(sha2::Sha256),
    /// A running SHA-512.
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Returns a hasher without input.
    pub fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(sha2::Sha512::new())),
        }
    }

    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(piece),
            Hasher::Sha512(hasher) => hasher.update(piece),
        }
    }

    /// Returns the digest of all pieces.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self {
            Hasher::Sha256(hasher) => {
                bytes[..32].copy_from_slice(&hasher.finalize());
                Algorithm::Sha256
            }
            Hasher::Sha512(hasher) => {
                bytes.copy_from_slice(&hasher.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_empty_string_has_its_known_digest() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::sha256(b""));
        let long = Digest::of(Algorithm::Sha512, b"abc");
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
        assert!(long.hex().starts_with("ddaf35a193617aba"));
    }

    #[test]
    fn only_complete_lower_case_digests_of_known_algorithms_are_accepted() {
        for wrong in [
            "",
            "sha256",
            "sha256:",
            "sha256:abc",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &EMPTY.to_uppercase(),
            &EMPTY.replace('e', "E"),
            &format!("{EMPTY}0"),
            &EMPTY.replace("sha256", "sha512"),
            &EMPTY.replace('3', "g"),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn other_bytes_are_refused_with_both_digests() {
        let error = Digest::sha256(b"").verify("config", b"x").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("config {EMPTY}: its bytes hash to sha256:2d71"))
        );
    }
}
