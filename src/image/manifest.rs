//! Image documents: indexes, manifests, and the configs and layers they name.
//!
//! The callers hash the bytes first. The types of oci-spec are not used: they accept unknown
//! algorithms, other media types and ambiguous documents, all of which must be refused here. The
//! build for appliances reads manifests, too, and does without that crate.
//!
//! Source: OCI image specification 1.1; Docker image manifest version 2, schema 2.

pub mod archive;
mod config;
mod index;
pub mod layout;
mod platform;
mod verity_annotations;

pub use config::Config;
pub use index::{Choice, Index, MAX_INDEX_DEPTH};
pub use platform::Platform;
pub use verity_annotations::VerityAnnotations;

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::json::{self, Node};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Maximum bytes of a document: 4 MiB, the limit of registries. Larger ones are refused unread.
pub const MAX_DOCUMENT: usize = 4 << 20;

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI uncompressed layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes, below 2^63.
    pub size: u64,
    /// In an index: the platform of the image.
    pub platform: Option<Platform>,
    /// Type of the artifact; an image's is the media type of its config.
    pub artifact_type: Option<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Other locations of the blob. imrun never fetches anything from them.
    pub urls: Vec<String>,
}

impl Descriptor {
    fn read(node: &Node) -> Result<Descriptor> {
        let digest = node.need("digest")?;
        Self::read_with(node, read_digest(&digest)?)
    }

    /// Reads everything but the digest.
    fn read_with(node: &Node, digest: Digest) -> Result<Descriptor> {
        Ok(Descriptor {
            media_type: node.need("mediaType")?.text()?.to_string(),
            digest,
            size: node.need("size")?.size()?,
            platform: node
                .get("platform")?
                .as_ref()
                .map(Platform::read)
                .transpose()?,
            artifact_type: read_text(node, "artifactType")?,
            annotations: read_annotations(node)?,
            urls: read_texts(node, "urls")?,
        })
    }

    /// Refuses a blob of another size. Callers check it before they hash the blob.
    pub fn expect_size(&self, what: &str, size: u64) -> Result<()> {
        if size == self.size {
            return Ok(());
        }
        let why = format_args!("has {size} bytes, but its descriptor says {}", self.size);
        Err(Error::digest(format_args!("{what} {}", self.digest), why))
    }
}

/// A document that a manifest digest can identify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image for several platforms.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

impl Document {
    /// Reads an index or a manifest.
    ///
    /// `media_type` is the type in the descriptor or response header that led here, if any; the
    /// document's own type must be the same. If both are missing, the members decide.
    pub fn parse(what: &str, bytes: &[u8], media_type: Option<&str>) -> Result<Document> {
        let value = read_json(what, bytes)?;
        let root = Node::root(what, &value);
        refuse_ambiguity(&root)?;
        match kind(&root, media_type)? {
            Kind::Index => Ok(Document::Index(Index::read(&root)?)),
            Kind::Manifest => Ok(Document::Manifest(Manifest::read(&root)?)),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Index,
    Manifest,
}

/// Refuses a document that some clients read as an index and others as a manifest: it would have
/// two meanings under one digest (CVE-2021-41190).
fn refuse_ambiguity(root: &Node) -> Result<()> {
    root.object()?;
    let version = root.get("schemaVersion")?;
    let of_schema_1 = ["fsLayers", "signatures"]
        .into_iter()
        .any(|key| root.has(key));
    if of_schema_1
        || version
            .as_ref()
            .is_some_and(|version| version.size().ok() == Some(1))
    {
        return Err(schema_1(root));
    }
    if root.need("schemaVersion")?.size().ok() != Some(2) {
        return Err(root.error("`schemaVersion` must be 2"));
    }
    for key in ["layers", "config"] {
        if root.has("manifests") && root.has(key) {
            let why = format_args!(
                "has both \"manifests\" and {key:?}: it could be an index or a manifest"
            );
            return Err(root.error(why));
        }
    }
    Ok(())
}

fn schema_1(root: &Node) -> Error {
    let why = "is a Docker schema 1 manifest, which does not name its layers' content";
    Error::policy(root.what(), why)
        .hint("push the image again with a current tool, which writes schema 2 or OCI")
}

fn kind(root: &Node, expected: Option<&str>) -> Result<Kind> {
    let own = root.get("mediaType")?.map(|node| node.text()).transpose()?;
    if let (Some(own), Some(expected)) = (own, expected)
        && own != expected
    {
        return Err(root.error(format_args!(
            "`mediaType` is {own:?}, expected {expected:?}"
        )));
    }
    match own.or(expected) {
        Some(OCI_INDEX | DOCKER_INDEX) => Ok(Kind::Index),
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => Ok(Kind::Manifest),
        Some(other) if other.starts_with("application/vnd.docker.distribution.manifest.v1+") => {
            Err(schema_1(root))
        }
        Some(other) => Err(root.error(format_args!(
            "is neither an index nor a manifest: its type is {other:?}"
        ))),
        None if root.has("manifests") => Ok(Kind::Index),
        None => Ok(Kind::Manifest),
    }
}

/// One image: its config and its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first; each has a `LayerKind`.
    pub layers: Vec<Descriptor>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    fn read(root: &Node) -> Result<Manifest> {
        let config = Descriptor::read(&root.need("config")?)?;
        if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            return Err(artifact(root, &config.media_type)?);
        }
        let mut layers = Vec::new();
        for node in root.need("layers")?.list()? {
            let layer = Descriptor::read(&node)?;
            if LayerKind::of(&layer.media_type).is_none() {
                let why = format_args!(
                    "the layer {} has a type that imrun does not support: {:?}",
                    layer.digest, layer.media_type
                );
                return Err(Error::unsupported(root.what(), why));
            }
            layers.push(layer);
        }
        Ok(Manifest {
            config,
            layers,
            annotations: read_annotations(root)?,
        })
    }
}

fn artifact(root: &Node, config: &str) -> Result<Error> {
    let kind = read_text(root, "artifactType")?.unwrap_or_else(|| config.to_string());
    let why = format_args!("is an artifact ({kind}), not an image: it has no image config");
    Ok(Error::policy(root.what(), why))
}

/// Returns the bytes of a manifest of plain tars. `config` and `layers` are digests with sizes;
/// `base` is the manifest that the image was made from, if any.
///
/// The JSON is canonical: the same image has the same digest on every host.
pub fn write(
    config: (Digest, u64),
    layers: &[(Digest, u64)],
    base: Option<Digest>,
    verity: Option<&VerityAnnotations>,
) -> Vec<u8> {
    // Names the manifest that an image was made from (OCI annotations.md).
    const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
    let descriptor = |media_type: &str, (digest, size): (Digest, u64)| json!({ "mediaType": media_type, "digest": digest, "size": size });
    let layer = |(number, layer): (usize, &(Digest, u64))| {
        let mut layer = descriptor(OCI_LAYER, *layer);
        if let Some(verity) = verity {
            layer["annotations"] = verity.of_layer(number);
        }
        layer
    };
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": layers.iter().enumerate().map(layer).collect::<Vec<_>>(),
    });
    let base = base.map(|base| (BASE_DIGEST.to_string(), json!(base)));
    let verity = verity.into_iter().flat_map(VerityAnnotations::of_manifest);
    let annotations: serde_json::Map<_, _> = base.into_iter().chain(verity).collect();
    if !annotations.is_empty() {
        manifest["annotations"] = annotations.into();
    }
    json::canonical(&manifest).into_bytes()
}

/// Packing of a layer's tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A plain tar: the blob's digest is the diff_id.
    Tar,
    /// Compressed with gzip or zstd; the blob's first bytes decide, since public images use either
    /// media type for both.
    Compressed,
}

impl LayerKind {
    /// Returns the kind for a media type, or `None` if it is not a layer's.
    ///
    /// "Nondistributable" and "foreign" layers are treated like ordinary ones, and their blobs must be
    /// present: imrun never follows their `urls`.
    pub fn of(media_type: &str) -> Option<LayerKind> {
        match media_type {
            OCI_LAYER
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Some(LayerKind::Tar),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd" => {
                Some(LayerKind::Compressed)
            }
            _ => None,
        }
    }
}

fn read_json(what: &str, bytes: &[u8]) -> Result<Value> {
    if bytes.len() > MAX_DOCUMENT {
        let why = format_args!("has {} bytes; the maximum is {MAX_DOCUMENT}", bytes.len());
        return Err(Error::digest(what, why));
    }
    json::parse(what, bytes)
}

fn read_digest(node: &Node) -> Result<Digest> {
    let text = node.text()?;
    text.parse()
        .map_err(|e: Error| node.error(format_args!("is {text:?}: {}", e.why)))
}

/// Returns a string that may be absent; Docker writes the empty string for an absent one.
fn read_text(node: &Node, key: &str) -> Result<Option<String>> {
    let text = node.get(key)?.map(|node| node.text()).transpose()?;
    Ok(text.filter(|text| !text.is_empty()).map(str::to_string))
}

fn read_texts(node: &Node, key: &str) -> Result<Vec<String>> {
    node.get(key)?.map_or(Ok(Vec::new()), |node| node.texts())
}

fn read_annotations(node: &Node) -> Result<BTreeMap<String, String>> {
    node.get("annotations")?
        .map_or(Ok(BTreeMap::new()), |node| node.text_map())
}

#[cfg(test)]
mod tests;
