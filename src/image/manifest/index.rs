//! Indexes: one image for several platforms, or the table of contents of a layout.

use super::{
    DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
    Platform,
};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::json::Node;
use crate::image::reference::Reference;
use std::collections::BTreeMap;
use std::fmt;

/// Maximum number of nested indexes; an image behind more is refused.
pub const MAX_INDEX_DEPTH: usize = 4;

/// Annotation with the name of an entry in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Annotation with the full name of an image in containerd and Docker.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Annotation of a manifest that contains attestations for another one (BuildKit).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Selection of one image in a layout or an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The only image.
    Only,
    /// The image with this name, short or full.
    Name(String),
    /// The image with this digest.
    Digest(Digest),
    /// The image at this position, counted from 0.
    Number(usize),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Only => f.write_str("image"),
            Choice::Name(name) => write!(f, "ref {name:?}"),
            Choice::Digest(digest) => write!(f, "image {digest}"),
            Choice::Number(number) => write!(f, "image @{number}"),
        }
    }
}

/// An image index or a manifest list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    what: String,
    /// All entries, in order. [`Index::select`] and [`Index::chosen`] return only usable ones.
    pub manifests: Vec<Descriptor>,
    /// Digests of unsupported algorithms. The digest of such an entry in `manifests` is the SHA-256 of the
    /// text here, which only identifies the entry.
    unsupported: BTreeMap<Digest, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    pub(super) fn read(root: &Node) -> Result<Index> {
        // Docker 25 writes null for an image saved without a tag.
        let manifests = match root.get("manifests")? {
            None if root.has("manifests") => Vec::new(),
            _ => root.need("manifests")?.list()?,
        };
        let mut unsupported = BTreeMap::new();
        let entries = manifests.iter().map(|node| {
            let digest = node.need("digest")?;
            let text = digest.text()?;
            if !has_unsupported_algorithm(text) {
                return Descriptor::read(node);
            }
            let identity = Digest::sha256(text.as_bytes());
            unsupported.insert(identity, text.to_string());
            Descriptor::read_with(node, identity)
        });
        Ok(Index {
            what: root.what().to_string(),
            manifests: entries.collect::<Result<_>>()?,
            unsupported,
            annotations: super::read_annotations(root)?,
        })
    }

    /// Returns the entries that are images or indexes of images, without artifacts and attestations
    /// (`unknown/unknown`).
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| is_image(entry))
    }

    /// Returns the entry that suits `platform` best; among equals, the first.
    ///
    /// A single entry without a platform is accepted: its config has the platform.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor> {
        let suitable = self
            .manifests
            .iter()
            .filter(|entry| may_be_image(entry))
            .filter_map(|entry| {
                let distance = platform.distance(entry.platform.as_ref()?)?;
                let is_unsupported = self.unsupported.contains_key(&entry.digest);
                Some(((!is_image(entry), distance, is_unsupported), entry))
            });
        if let Some((_, entry)) = suitable.min_by_key(|(order, _)| *order) {
            return self.usable(entry);
        }
        let mut silent = self.images().filter(|entry| entry.platform.is_none());
        match (silent.next(), silent.next()) {
            (Some(entry), None) => self.usable(entry),
            (Some(_), Some(_)) => Err(self.error("has several images without a platform")),
            (None, _) => Err(self.no_image_for(platform)),
        }
    }

    /// Refuses an entry whose digest has an unsupported algorithm.
    fn usable<'e>(&self, entry: &'e Descriptor) -> Result<&'e Descriptor> {
        match self.unsupported.get(&entry.digest) {
            None => Ok(entry),
            Some(text) => Err(self.error(format_args!(
                "names the image by the digest {text:?}: the algorithm is neither sha256 nor sha512"
            ))),
        }
    }

    fn no_image_for(&self, platform: &Platform) -> Error {
        let platforms = self.images().filter_map(|entry| entry.platform.as_ref());
        let why = format_args!(
            "has no image for {platform}, only for {}",
            listed(platforms)
        );
        Error::unsupported(&self.what, why).hint("select another one with --platform")
    }

    /// Returns the entries that may be the chosen image, each digest once; at least one.
    ///
    /// Source: OCI image-layout.md, "index.json file"; containerd's `AnnotationImageName`.
    pub fn chosen(&self, choice: &Choice) -> Result<Vec<&Descriptor>> {
        let entries: Vec<_> = match choice {
            Choice::Only => match self.images().count() {
                0 => self.manifests.iter().filter(|e| may_be_image(e)).collect(),
                _ => self.images().collect(),
            },
            Choice::Name(name) => self
                .manifests
                .iter()
                .filter(|e| is_called(e, name))
                .collect(),
            Choice::Digest(digest) => self
                .manifests
                .iter()
                .filter(|e| e.digest == *digest)
                .collect(),
            Choice::Number(number) => self.manifests.get(*number).into_iter().collect(),
        };
        let mut distinct: Vec<&Descriptor> = Vec::new();
        for entry in entries {
            if !distinct.iter().any(|other| other.digest == entry.digest) {
                distinct.push(entry);
            }
        }
        let Some(first) = distinct.first().copied() else {
            return Err(match choice {
                Choice::Only => self.error("has no image"),
                _ => self.error(format_args!(
                    "has no {choice}, only {}",
                    self.names(&self.manifests)
                )),
            });
        };
        distinct.retain(|entry| !self.unsupported.contains_key(&entry.digest));
        if distinct.is_empty() {
            self.usable(first)?;
        }
        Ok(distinct)
    }

    /// Returns the error for a choice that fits all of `entries`.
    pub fn ambiguous(&self, choice: &Choice, entries: &[&Descriptor]) -> Error {
        let names = self.names(entries.iter().copied());
        let why = match choice {
            Choice::Only => format!("has several images: {names}"),
            _ => format!("the {choice} names several images: {names}"),
        };
        self.error(why).hint(
            "append :NAME, @DIGEST or :@NUMBER, its position in index.json from 0, to the path",
        )
    }

    /// Lists the entries with the choice that selects each of them.
    fn names<'e>(&self, entries: impl IntoIterator<Item = &'e Descriptor>) -> String {
        listed(entries.into_iter().map(|entry| self.label(entry)))
    }

    /// Returns the shortest choice that fits only this entry.
    fn label(&self, entry: &Descriptor) -> String {
        let is_unique = |name: &str| {
            let mut others = self
                .manifests
                .iter()
                .filter(|other| other.digest != entry.digest);
            !others.any(|other| is_called(other, name))
        };
        let full = entry.annotations.get(CONTAINERD_NAME).map(String::as_str);
        let names = [ref_name(entry), full].into_iter().flatten();
        match names.into_iter().find(|name| is_unique(name)) {
            Some(name) => name.to_string(),
            None => {
                let number = self.manifests.iter().position(|e| e.digest == entry.digest);
                let platform = entry.platform.as_ref().map(|p| format!(" for {p}"));
                let digest = entry.digest.to_string();
                format!(
                    "@{} ({}{})",
                    number.unwrap_or(0),
                    self.unsupported.get(&entry.digest).unwrap_or(&digest),
                    platform.unwrap_or_default()
                )
            }
        }
    }

    fn error(&self, why: impl fmt::Display) -> Error {
        Error::digest(&self.what, why)
    }
}

/// Returns true for a well-formed digest of an algorithm that imrun does not support.
///
/// Source: OCI descriptor.md, "Digests".
fn has_unsupported_algorithm(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else {
        return false;
    };
    let is_name = |part: &str| {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !part.is_empty() && part.bytes().all(is_letter)
    };
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte);
    !matches!(algorithm, "sha256" | "sha512")
        && algorithm.split(['+', '.', '_', '-']).all(is_name)
        && !encoded.is_empty()
        && encoded.bytes().all(is_digit)
}

fn ref_name(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

fn is_called(entry: &Descriptor, name: &str) -> bool {
    let full = entry.annotations.get(CONTAINERD_NAME);
    ref_name(entry) == Some(name) || full.is_some_and(|full| is_same_name(full, name))
}

/// Returns true if Docker reads two names as the same: `redis` is `docker.io/library/redis:latest`.
pub(super) fn is_same_name(one: &str, other: &str) -> bool {
    let tagged = |name: &str| name.parse::<Reference>().ok().map(|name| name.tagged());
    one == other || tagged(one).is_some_and(|one| tagged(other) == Some(one))
}

/// Returns true if the descriptor is an image's. A manifest without an `artifactType` has the media
/// type of its config as one (OCI descriptor.md), so an image may have it.
fn is_image(entry: &Descriptor) -> bool {
    let of_config = |kind: &String| matches!(kind.as_str(), OCI_CONFIG | DOCKER_CONFIG);
    may_be_image(entry) && entry.artifact_type.as_ref().is_none_or(of_config)
}

/// Returns true if only the document behind the entry can tell.
fn may_be_image(entry: &Descriptor) -> bool {
    let unknown =
        |platform: &Platform| platform.os == "unknown" || platform.architecture == "unknown";
    matches!(
        entry.media_type.as_str(),
        OCI_INDEX | OCI_MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST
    ) && !entry.annotations.contains_key(REFERENCE_TYPE)
        && !entry.platform.as_ref().is_some_and(unknown)
}

/// Returns "a, b" without repetition, cut so that a hostile document cannot flood the terminal.
pub(super) fn listed<T: ToString>(items: impl Iterator<Item = T>) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<String> = Vec::new();
    for name in items.map(|item| item.to_string()) {
        if names.len() == SHOWN {
            names.push("…".to_string());
            break;
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        "nothing".to_string()
    } else {
        names.join(", ")
    }
}
