//! Image names as in Docker and containerd, and the digests that imrun runs.
//!
//! Source: the grammar of the package `distribution/reference`. The registry of a name without one is
//! `docker.io`, by convention.

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Registry of a name without one.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Old name of the default registry.
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Namespace in the default registry of repositories whose name is a single word.
const DEFAULT_NAMESPACE: &str = "library/";
/// Tag of a name without one.
const DEFAULT_TAG: &str = "latest";
/// Maximum bytes of `REGISTRY/REPOSITORY`.
const MAX_NAME: usize = 255;
/// Maximum bytes of a tag.
const MAX_TAG: usize = 128;

/// `NAME[:TAG][@DIGEST]`, normalised: `redis` is `docker.io/library/redis`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Registry as `HOST[:PORT]`.
    pub registry: String,
    /// Path within the registry.
    pub repository: String,
    /// Tag, which can name another image later.
    pub tag: Option<String>,
    /// Digest, which always names the same image.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Returns `REGISTRY/REPOSITORY`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the tag; `latest` if there is none.
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }

    /// Returns `REGISTRY/REPOSITORY:TAG`, without the digest: the key in the name history.
    pub fn tagged(&self) -> String {
        format!("{}:{}", self.name(), self.tag())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        read(text).map_err(|why| Error::usage(format_args!("image name {text:?}"), why))
    }
}

/// Parses a reference; the error is the reason.
fn read(text: &str) -> std::result::Result<Reference, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|e: Error| e.why)?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let path = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path..].find(':') {
        Some(colon) => (&rest[..path + colon], Some(&rest[path + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag must be 1 to 128 letters, digits, `_`, `.` or `-`".to_string());
    }
    let (registry, repository) = split_registry(name);
    if !is_registry(registry) {
        return Err(format!(
            "{registry:?} is not a registry: expected HOST[:PORT]"
        ));
    }
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} bytes"));
    }
    Ok(Reference {
        registry: registry.to_string(),
        repository,
        tag: tag.map(str::to_string),
        digest,
    })
}

/// Splits a name into registry and repository; the first word is a registry if it looks like a host.
fn split_registry(name: &str) -> (&str, String) {
    let like_a_host = |word: &str| {
        word == "localhost"
            || word.contains(['.', ':'])
            || word.bytes().any(|b| b.is_ascii_uppercase())
    };
    let (registry, repository) = match name.split_once('/') {
        Some((OLD_DEFAULT_REGISTRY, rest)) => (DEFAULT_REGISTRY, rest),
        Some((word, rest)) if like_a_host(word) => (word, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        (registry, format!("{DEFAULT_NAMESPACE}{repository}"))
    } else {
        (registry, repository.to_string())
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_host(host) && port.is_none_or(is_port)
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    host.split('.').all(|label| {
        let ends_well = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        ends_well(bytes.first())
            && ends_well(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

fn check_repository(repository: &str) -> std::result::Result<(), String> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be in lower case".to_string());
    }
    match repository
        .split('/')
        .find(|component| !is_component(component))
    {
        Some(component) => Err(format!(
            "{component:?} must be lower-case letters and digits, joined by `.`, `_`, `__` or dashes"
        )),
        None => Ok(()),
    }
}

/// Returns true if the text matches `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = component.starts_with(alphanumeric) && component.ends_with(alphanumeric);
    let mut between = component
        .split(alphanumeric)
        .filter(|separator| !separator.is_empty());
    edges && between.all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// Returns true if the text matches `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.bytes().next().is_some_and(first)
        && tag.len() <= MAX_TAG
        && tag.bytes().all(|b| first(b) || matches!(b, b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// An image as given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageArgument {
    /// `sha256:HEX`, which identifies an image by itself.
    Digest(Digest),
    /// A name, with or without a digest.
    Named(Reference),
}

impl ImageArgument {
    /// Returns the digest, if the argument has one; only a digest identifies an image.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            ImageArgument::Digest(digest) => Some(*digest),
            ImageArgument::Named(reference) => reference.digest,
        }
    }
}

impl FromStr for ImageArgument {
    type Err = Error;

    fn from_str(text: &str) -> Result<ImageArgument> {
        if text.starts_with("sha256:") || text.starts_with("sha512:") {
            return text.parse().map(ImageArgument::Digest);
        }
        if format!("sha256:{text}").parse::<Digest>().is_ok() {
            let error = Error::usage(
                format_args!("image {text:?}"),
                "is a digest without its algorithm",
            );
            return Err(error.hint(format_args!("sha256:{text}")));
        }
        text.parse().map(ImageArgument::Named)
    }
}

impl fmt::Display for ImageArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageArgument::Digest(digest) => digest.fmt(f),
            ImageArgument::Named(reference) => reference.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
