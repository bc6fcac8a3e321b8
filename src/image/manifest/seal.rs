//! A manifest's seal: what the kernel will measure of the files that imrun makes of the image, so that
//! the manifest's digest covers it.
//!
//! | annotation | of | value |
//! |---|---|---|
//! | `dev.imrun.verity` | a layer's descriptor | fs-verity's digest of the layer's tar, uncompressed |
//! | `dev.imrun.verity.tree.N` | the manifest | fs-verity's digest of the tree image that writer version N makes |
//! | `dev.imrun.tree.N` | the manifest | the digest of that tree image's bytes |
//!
//! fs-verity's digests are those of SHA-256, blocks of 4,096 bytes and no salt ([`crate::image::verity`]).

use super::{Descriptor, Manifest};
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Error, Result};
use crate::image::erofs::WRITER_VERSION;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const VERITY: &str = "dev.imrun.verity";
const TREE: &str = "dev.imrun.tree";

/// The digests of a manifest that has all of them, for the tree image that this imrun writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Of the tree image's bytes.
    pub tree: Digest,
    /// fs-verity's: the tree image's first, then the layers', lowest first.
    pub measures: Vec<Digest>,
}

impl Seal {
    /// The annotation of a layer's descriptor.
    pub(super) fn of_layer(&self, number: usize) -> Value {
        json!({ VERITY: self.measures[number + 1] })
    }

    /// The annotations of the manifest.
    pub(super) fn of_manifest(&self) -> [(String, Value); 2] {
        [
            (tree_verity(), json!(self.measures[0])),
            (tree(), json!(self.tree)),
        ]
    }
}

impl Manifest {
    /// What it is sealed with; None where a digest is missing, or those of the tree image are of
    /// another version's: no part of it means anything then.
    ///
    /// # Errors
    /// An annotation that is no SHA-256.
    pub fn seal(&self) -> Result<Option<Seal>> {
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
        let seal = |(tree, measures)| Seal { tree, measures };
        Ok(tree.zip(measures).map(seal))
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
        Ok(_) => Err(wrong(name, text, "is not a SHA-256")),
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

    fn seal() -> Seal {
        let digest = |number: u8| Digest::sha256(&[number]);
        Seal {
            tree: digest(0),
            measures: vec![digest(1), digest(2), digest(3)],
        }
    }

    fn text() -> String {
        let layers = [(Digest::sha256(b"a"), 1), (Digest::sha256(b"b"), 2)];
        let config = (Digest::sha256(b"c"), 3);
        String::from_utf8(write(config, &layers, None, Some(&seal()))).unwrap()
    }

    fn read(text: &str) -> Result<Option<Seal>> {
        match Document::parse("manifest", text.as_bytes(), None)? {
            Document::Manifest(manifest) => manifest.seal(),
            Document::Index(_) => unreachable!("it has layers"),
        }
    }

    #[test]
    fn a_seal_is_read_as_it_was_written() {
        assert_eq!(read(&text()).unwrap(), Some(seal()));
    }

    #[test]
    fn a_seal_without_one_of_its_digests_or_of_another_writer_is_none() {
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
    fn a_digest_of_another_algorithm_or_none_at_all_is_an_error() {
        let digests = seal().measures.into_iter().chain([seal().tree]);
        for digest in digests.map(|digest| digest.to_string()) {
            let sha512 = Digest::of(Algorithm::Sha512, b"");
            for wrong in [sha512.to_string(), String::new(), "sha256:0".into()] {
                let error = read(&text().replace(&digest, &wrong)).unwrap_err();
                assert!(error.what.contains("annotation \"dev.imrun."), "{error}");
            }
        }
    }
}
