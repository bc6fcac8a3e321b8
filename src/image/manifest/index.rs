//! Indexes: one image for several platforms, or the table of contents of a layout.

use super::{DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST, Platform};
use crate::base::error::{Error, Result};
use crate::base::json::Node;
use std::collections::BTreeMap;

/// Indexes within one another that are followed before an image is refused.
pub const MAX_INDEX_DEPTH: usize = 4;

/// The annotation by which a layout names what it holds.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Marks a manifest that holds statements about another one (BuildKit).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// An image index or a manifest list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    what: String,
    /// All entries, in order.
    pub manifests: Vec<Descriptor>,
    /// Free-form notes.
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    pub(super) fn read(root: &Node) -> Result<Index> {
        let manifests = root.need("manifests")?.list()?;
        Ok(Index {
            what: root.what().to_string(),
            manifests: manifests
                .iter()
                .map(Descriptor::read)
                .collect::<Result<_>>()?,
            annotations: super::read_annotations(root)?,
        })
    }

    /// The entries that are images or indexes of images: artifacts and attestations
    /// (`unknown/unknown`) are passed over.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| is_image(entry))
    }

    /// The entry that suits `platform` best, the first one of equals.
    ///
    /// A lone entry that does not say its platform is taken: its config says it.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor> {
        let suitable = self.images().filter_map(|entry| {
            let distance = platform.distance(entry.platform.as_ref()?)?;
            Some((distance, entry))
        });
        if let Some((_, entry)) = suitable.min_by_key(|(distance, _)| *distance) {
            return Ok(entry);
        }
        let mut silent = self.images().filter(|entry| entry.platform.is_none());
        match (silent.next(), silent.next()) {
            (Some(entry), None) => Ok(entry),
            (Some(_), Some(_)) => {
                Err(self.error("has several images that do not say their platform"))
            }
            (None, _) => Err(self.no_image_for(platform)),
        }
    }

    fn no_image_for(&self, platform: &Platform) -> Error {
        let platforms = self.images().filter_map(|entry| entry.platform.as_ref());
        let why = format_args!(
            "has no image for {platform}, only for {}",
            listed(platforms)
        );
        Error::unsupported(&self.what, why).hint("--platform names another one")
    }

    /// The entry that a layout calls `name`, or its only image where no name is given.
    ///
    /// Source: OCI image-layout.md, "index.json file".
    pub fn by_name(&self, name: Option<&str>) -> Result<&Descriptor> {
        let named = |entry: &&Descriptor| match name {
            Some(name) => ref_name(entry) == Some(name),
            None => is_image(entry),
        };
        let mut entries = self.manifests.iter().filter(named);
        let Some(first) = entries.next() else {
            return Err(match name {
                Some(name) => {
                    self.error(format_args!("has no ref {name:?}, only {}", self.names()))
                }
                None => self.error("has no image"),
            });
        };
        if entries.all(|entry| entry.digest == first.digest) {
            return Ok(first);
        }
        Err(match name {
            Some(name) => self.error(format_args!(
                "the ref {name:?} names two different manifests"
            )),
            None => {
                let error = self.error(format_args!("has several images: {}", self.names()));
                error.hint("add :REF to choose one")
            }
        })
    }

    fn names(&self) -> String {
        listed(self.manifests.iter().filter_map(ref_name))
    }

    fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::digest(&self.what, why)
    }
}

fn ref_name(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

fn is_image(entry: &Descriptor) -> bool {
    let unknown =
        |platform: &Platform| platform.os == "unknown" || platform.architecture == "unknown";
    matches!(
        entry.media_type.as_str(),
        OCI_INDEX | OCI_MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST
    ) && entry.artifact_type.is_none()
        && !entry.annotations.contains_key(REFERENCE_TYPE)
        && !entry.platform.as_ref().is_some_and(unknown)
}

/// "a, b" without repetition, cut where a hostile document would flood the terminal.
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
