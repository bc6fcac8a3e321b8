//! Identity of the image that a container was created from. containerd stores the image's name, which may refer
//! to another image by now. Two facts still identify the original image:
//!
//! - CRI stores the digest of the image's config, which is also a name of the image.
//! - The container's snapshot has a parent named after the image's layers, or a copy of that parent for the owners
//!   of a user namespace, named after both.
//!
//! Source: containerd, internal/cri/store/container/metadata.go, client/container_opts.go,
//! client/snapshotter_opts_unix.go, and container_opts_unix.go of 1.7; image-spec, config.md, Layer ChainID.

use super::containerd::{Containerd, Record};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Fact that distinguishes an image from all others of the same name.
enum Evidence {
    Config(Digest),
    /// Name of the snapshot's parent, and the id mappings that may be part of it.
    Layers(String, Option<IdMappings>),
}

/// Id mappings of a user namespace, in the form that containerd 2 hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct IdMappings {
    uid_map: Vec<Range>,
    gid_map: Vec<Range>,
}

/// A `LinuxIDMapping` (runtime-spec, specs-go/config.go).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Range {
    #[serde(rename = "containerID")]
    container: u32,
    #[serde(rename = "hostID")]
    host: u32,
    size: u32,
}

impl IdMappings {
    /// Reads the mappings from a container's specification, if it has any.
    fn of(record: &Record) -> Option<IdMappings> {
        let spec: Value = serde_json::from_slice(&record.spec).ok()?;
        let map = |key: &str| {
            let mut map = Vec::<Range>::deserialize(&spec["linux"][key]).ok()?;
            map.sort_by_key(|range| range.container);
            Some(map)
        };
        Some(IdMappings {
            uid_map: map("uidMappings")?,
            gid_map: map("gidMappings")?,
        })
    }

    /// Returns the name that containerd 2 gives to a copy of a snapshot: the digest of a document about both.
    fn copied_snapshot(&self, parent: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Copy<'a> {
            parent: &'a str,
            #[serde(rename = "IDMap")]
            map: &'a IdMappings,
        }
        let copy = Copy { parent, map: self };
        let text = serde_json::to_vec(&copy).expect("numbers and text are JSON");
        Digest::sha256(&text).to_string()
    }
}

/// Identity of the image that a container was created from.
pub struct ImageIdentity {
    /// Name of the image in the container's record.
    pub name: String,
    evidence: Evidence,
}

impl ImageIdentity {
    /// Reads the identity from containerd's record of the container.
    pub fn of(containerd: &Containerd, id: &str) -> Result<ImageIdentity> {
        let record = containerd.container(id)?;
        let what = format!("container {id}");
        if record.image.is_empty() {
            return Err(Error::digest(what, "has no image in containerd")
                .hint("a container is started from an image, never from a directory"));
        }
        let evidence = match (config(&record), record.snapshot.as_str()) {
            (Some(config), _) => Evidence::Config(config),
            (None, "") => {
                let why = "it has no snapshot, which would identify its image";
                return Err(Error::digest(what, why));
            }
            (None, snapshot) => {
                let parent = containerd.parent(&record.snapshotter, snapshot)?;
                Evidence::Layers(parent, IdMappings::of(&record))
            }
        };
        Ok(ImageIdentity {
            name: record.image,
            evidence,
        })
    }

    /// Returns the names under which containerd may have the image.
    pub fn names(&self) -> Vec<String> {
        match &self.evidence {
            Evidence::Config(config) => vec![self.name.clone(), config.to_string()],
            Evidence::Layers(..) => vec![self.name.clone()],
        }
    }

    /// Returns true if an image with this config and these layers is the container's.
    pub fn matches(&self, config: &Digest, diff_ids: &[Digest]) -> bool {
        match &self.evidence {
            Evidence::Config(expected) => expected == config,
            Evidence::Layers(parent, mapped) => {
                let layers = chain_id(diff_ids);
                let rest = parent.strip_prefix(&layers);
                // containerd 1 appends the first ids to the name of a copy.
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                    || mapped
                        .as_ref()
                        .is_some_and(|ids| ids.copied_snapshot(&layers) == *parent)
            }
        }
    }
}

/// Returns the digest of the image's config from CRI's metadata.
fn config(record: &Record) -> Option<Digest> {
    let known: Value = serde_json::from_slice(&record.cri).ok()?;
    known["Metadata"]["ImageRef"].as_str()?.parse().ok()
}

/// Returns the ChainID of layers (image-spec, config.md); empty for no layers.
fn chain_id(diff_ids: &[Digest]) -> String {
    let over = |below: String, layer: &Digest| match below.as_str() {
        "" => layer.to_string(),
        below => Digest::sha256(format!("{below} {layer}").as_bytes()).to_string(),
    };
    diff_ids.iter().fold(String::new(), over)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cri: &str) -> Record {
        Record {
            image: "registry.example/app:1".into(),
            snapshotter: "overlayfs".into(),
            snapshot: "app".into(),
            cri: cri.into(),
            spec: Vec::new(),
        }
    }

    fn identity(evidence: Evidence) -> ImageIdentity {
        ImageIdentity {
            name: "registry.example/app:1".into(),
            evidence,
        }
    }

    #[test]
    fn cri_metadata_contains_the_config_digest() {
        let digest = Digest::sha256(b"config");
        let cri = format!(r#"{{"Version":"v1","Metadata":{{"ID":"x","ImageRef":"{digest}"}}}}"#);
        assert_eq!(config(&record(&cri)), Some(digest));
        assert_eq!(config(&record(r#"{"Version":"v1","Metadata":{}}"#)), None);
        assert_eq!(config(&record("")), None);
    }

    #[test]
    fn another_image_of_the_same_name_does_not_match() {
        let [a, b] = [b"a", b"b"].map(|layer| Digest::sha256(layer));
        let by_config = identity(Evidence::Config(a));
        assert!(by_config.matches(&a, &[]) && !by_config.matches(&b, &[]));
        assert_eq!(by_config.names(), [by_config.name.clone(), a.to_string()]);
        // printf "$A $B" | sha256sum
        let chain = "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676";
        let by_layers = identity(Evidence::Layers(chain.into(), None));
        assert!(by_layers.matches(&a, &[a, b]));
        assert!(!by_layers.matches(&a, &[b, a]) && !by_layers.matches(&a, &[a]));
        assert!(!by_layers.matches(&a, &[]));
        let by_name = |name: String| identity(Evidence::Layers(name, None));
        assert!(by_name(String::new()).matches(&a, &[]));
        assert!(by_name(format!("{a}-1000-1000")).matches(&b, &[a]));
        assert!(!by_name(format!("{a}0")).matches(&b, &[a]));
    }

    #[test]
    fn a_snapshot_copied_for_a_user_namespace_is_recognised_in_containerd_2() {
        let layer = Digest::sha256(b"layer");
        let other = Digest::sha256(b"other");
        let range = |host: u32| format!(r#"{{"containerID":0,"hostID":{host},"size":65536}}"#);
        let spec = |host: u32| {
            let map = range(host);
            format!(r#"{{"linux":{{"uidMappings":[{map}],"gidMappings":[{map}]}}}}"#)
        };
        // As Go's json.Marshal writes it: client/snapshotter_opts_unix.go, remappedSnapshot.ID.
        let map = range(100_000);
        let document =
            format!(r#"{{"Parent":"{layer}","IDMap":{{"UidMap":[{map}],"GidMap":[{map}]}}}}"#);
        let copy = Digest::sha256(document.as_bytes()).to_string();
        let of = |spec: String| {
            let record = Record {
                spec: spec.into(),
                ..record("")
            };
            identity(Evidence::Layers(copy.clone(), IdMappings::of(&record)))
        };
        assert!(of(spec(100_000)).matches(&other, &[layer]));
        assert!(!of(spec(100_000)).matches(&other, &[other]));
        assert!(!of(spec(100_001)).matches(&other, &[layer]));
        assert!(!of("{}".into()).matches(&other, &[layer]));
        assert!(!of(String::new()).matches(&other, &[layer]));
    }
}
