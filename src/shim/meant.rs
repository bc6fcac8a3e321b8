//! Which image a container was created from. Its record in containerd has the image's name, which
//! may have got another meaning since; but the image that was meant then can be known again:
//!
//! - CRI keeps the digest of its config, and gives every image that digest as a name.
//! - Any container's snapshot lies on one that is named by the image's layers.
//!
//! Source: containerd, internal/cri/store/container/metadata.go, client/container_opts.go; image-spec,
//! config.md, Layer ChainID.

use super::containerd::{Containerd, Record};
use crate::digest::Digest;
use crate::error::{Error, Result};
use serde_json::Value;

/// What tells an image from all others that its name ever meant.
enum Mark {
    Config(Digest),
    /// What the snapshot lies on.
    Layers(String),
}

/// The image that a container was created from.
pub struct Meant {
    /// Its name in the container's record.
    pub name: String,
    mark: Mark,
}

impl Meant {
    /// What containerd has kept of it.
    pub fn of(containerd: &Containerd, id: &str) -> Result<Meant> {
        let record = containerd.container(id)?;
        let what = format!("container {id}");
        if record.image.is_empty() {
            return Err(Error::digest(what, "containerd knows no image of it")
                .hint("a container is started from an image, never from a directory"));
        }
        let mark = match (config(&record), record.snapshot.as_str()) {
            (Some(config), _) => Mark::Config(config),
            (None, "") => {
                let why = "it has no snapshot, which would tell what its image was";
                return Err(Error::digest(what, why));
            }
            (None, snapshot) => Mark::Layers(containerd.parent(&record.snapshotter, snapshot)?),
        };
        Ok(Meant {
            name: record.image,
            mark,
        })
    }

    /// Names under which containerd may have it.
    pub fn names(&self) -> Vec<String> {
        match &self.mark {
            Mark::Config(config) => vec![self.name.clone(), config.to_string()],
            Mark::Layers(_) => vec![self.name.clone()],
        }
    }

    /// Whether the image is the one with this config, of these layers.
    pub fn is(&self, config: &Digest, diff_ids: &[Digest]) -> bool {
        match &self.mark {
            Mark::Config(meant) => meant == config,
            Mark::Layers(parent) => {
                let rest = parent.strip_prefix(&chain_id(diff_ids));
                // With other owners a copy of the layers has their numbers behind the name.
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            }
        }
    }
}

/// What CRI says that the container's image is.
fn config(record: &Record) -> Option<Digest> {
    let known: Value = serde_json::from_slice(&record.cri).ok()?;
    known["Metadata"]["ImageRef"].as_str()?.parse().ok()
}

/// The name of layers that lie on one another; empty for none.
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
        }
    }

    fn meant(mark: Mark) -> Meant {
        Meant {
            name: "registry.example/app:1".into(),
            mark,
        }
    }

    #[test]
    fn cri_tells_the_config() {
        let digest = Digest::sha256(b"config");
        let cri = format!(r#"{{"Version":"v1","Metadata":{{"ID":"x","ImageRef":"{digest}"}}}}"#);
        assert_eq!(config(&record(&cri)), Some(digest));
        assert_eq!(config(&record(r#"{"Version":"v1","Metadata":{}}"#)), None);
        assert_eq!(config(&record("")), None);
    }

    #[test]
    fn another_image_of_the_same_name_is_not_meant() {
        let [a, b] = [b"a", b"b"].map(|layer| Digest::sha256(layer));
        let by_config = meant(Mark::Config(a));
        assert!(by_config.is(&a, &[]) && !by_config.is(&b, &[]));
        assert_eq!(by_config.names(), [by_config.name.clone(), a.to_string()]);
        // printf "$A $B" | sha256sum
        let chain = "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676";
        let by_layers = meant(Mark::Layers(chain.into()));
        assert!(by_layers.is(&a, &[a, b]));
        assert!(!by_layers.is(&a, &[b, a]) && !by_layers.is(&a, &[a]));
        assert!(!by_layers.is(&a, &[]));
        assert!(meant(Mark::Layers(String::new())).is(&a, &[]));
        assert!(meant(Mark::Layers(format!("{a}-1000-1000"))).is(&b, &[a]));
        assert!(!meant(Mark::Layers(format!("{a}0"))).is(&b, &[a]));
    }
}
