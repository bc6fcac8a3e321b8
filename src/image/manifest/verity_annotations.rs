//! Verity annotations of a manifest: the fs-verity digests of the image's files, which the kernel
//! measures. The manifest's digest covers them.
//!
//! | annotation | in | value |
//! |---|---|---|
//! | `dev.imrun.verity` | a layer's descriptor | fs-verity digest of the layer's uncompressed tar |
//! | `dev.imrun.verity.tree.N` | the manifest | fs-verity digest of the tree image that writer version N makes |
//! | `dev.imrun.tree.N` | the manifest | digest of that tree image's bytes |
//!
//! fs-verity digests use SHA-256, blocks of 4,096 bytes and no salt ([`crate::image::verity`]).

use super::{Descriptor, Manifest};
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Error, Result};
use crate::image::erofs::WRITER_VERSION;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const VERITY: &str = "dev.imrun.verity";
const TREE: &str = "dev.imrun.tree";

/// Complete verity annotations of a manifest, for the tree image that this version of imrun writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityAnnotations {
    /// Digest of the tree image's bytes.
    pub tree: Digest,
    /// fs-verity digests: of the tree image, then of the layers, lowest first.
    pub measures: Vec<Digest>,
}

impl VerityAnnotations {
    /// Returns the annotation of a layer's descriptor.
    pub(super) fn of_layer(&self, number: usize) -> Value {
        json!({ VERITY: self.measures[number + 1] })
    }

    /// Returns the annotations of the manifest.
    pub(super) fn of_manifest(&self) -> [(String, Value); 2] {
        [
            (tree_verity(), json!(self.measures[0])),
            (tree(), json!(self.tree)),
        ]
    }
}

impl Manifest {
    /// Returns the verity annotations. `None` if one is missing, or if those of the tree image belong to
    /// another writer version: the others mean nothing then.
    ///
    /// # Errors
    /// An annotation that is not a SHA-256 digest.
    pub fn verity_annotations(&self) -> Result<Option<VerityAnnotations>> {
        let tree = read(&self.annotations, &tree())?;
        let of_tree = read(&self.annotations, &tree_verity())?;
        let of_layer = |layer: &Descriptor| read(&layer.annotations, VERITY);
        let of_layers = self
            .layers
            .iter()
            .map(of_layer)
            .collect::<Result<Vec<_>>>()?;
        let measures = std::iter::once(of_tree)
            .chain(of_layers)
            .collect::<Option<_>>();
        Ok(tree
            .zip(measures)
            .map(|(tree, measures)| VerityAnnotations { tree, measures }))
    }
}

fn tree() -> String {
    format!("{TREE}.{WRITER_VERSION}")
}

fn tree_verity() -> String {
    format!("{VERITY}.tree.{WRITER_VERSION}")
}

fn read(annotations: &BTreeMap<String, String>, name: &str) -> Result<Option<Digest>> {
    let parse = |text: &String| match text.parse::<Digest>() {
        Ok(digest) if digest.algorithm() == Algorithm::Sha256 => Ok(digest),
        Ok(_) => Err(wrong(name, text, "is not a SHA-256 digest")),
        Err(error) => Err(wrong(name, text, &error.why)),
    };
    annotations.get(name).map(parse).transpose()
}

fn wrong(name: &str, text: &str, why: &str) -> Error {
    Error::digest(format_args!("manifest: annotation {name:?}, {text:?}"), why)
}

#[cfg(test)]
mod tests {
    use super::super::{Document, write};
    use super::*;

    fn sample() -> VerityAnnotations {
        let digest = |number: u8| Digest::sha256(&[number]);
        VerityAnnotations {
            tree: digest(0),
            measures: vec![digest(1), digest(2), digest(3)],
        }
    }

    fn text() -> String {
        let layers = [(Digest::sha256(b"a"), 1), (Digest::sha256(b"b"), 2)];
        let config = (Digest::sha256(b"c"), 3);
        String::from_utf8(write(config, &layers, None, Some(&sample()))).unwrap()
    }

    fn read(text: &str) -> Result<Option<VerityAnnotations>> {
        match Document::parse("manifest", text.as_bytes(), None)? {
            Document::Manifest(manifest) => manifest.verity_annotations(),
            Document::Index(_) => unreachable!("it has layers"),
        }
    }

    #[test]
    fn annotations_are_read_as_they_were_written() {
        assert_eq!(read(&text()).unwrap(), Some(sample()));
    }

    #[test]
    fn incomplete_annotations_or_those_of_another_writer_version_are_ignored() {
        let names = [
            format!("\"{VERITY}\""),
            format!("\"{}\"", tree()),
            format!("\"{}\"", tree_verity()),
        ];
        for name in names {
            let other = text().replacen(&name, &format!("{}0\"", &name[..name.len() - 1]), 1);
            assert_ne!(other, text(), "{name}");
            assert_eq!(read(&other).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn an_annotation_that_is_not_a_sha_256_is_an_error() {
        let digests = sample().measures.into_iter().chain([sample().tree]);
        for digest in digests.map(|digest| digest.to_string()) {
            let sha512 = Digest::of(Algorithm::Sha512, b"");
            for wrong in [sha512.to_string(), String::new(), "sha256:0".into()] {
                let error = read(&text().replace(&digest, &wrong)).unwrap_err();
                assert!(error.what.contains("annotation \"dev.imrun."), "{error}");
            }
        }
    }
}
