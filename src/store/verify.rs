//! `imrun verify`: hashes every byte of the store again.

use super::Store;
use super::image::Image;
use super::refs::{Change, Log};
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use std::collections::BTreeSet;

/// Result of verifying one object.
pub struct Finding {
    /// Digest of the image, or `blob DIGEST`.
    pub what: String,
    /// Error; `None` if every byte is right.
    pub error: Option<Error>,
}

impl Store {
    /// Verifies the given images, or all images and every blob that belongs to none. `check` verifies an
    /// image.
    pub fn verify(
        &self,
        digests: &[Digest],
        check: impl Fn(&Image) -> Result<()>,
        mut tell: impl FnMut(Finding),
    ) -> Result<()> {
        let all = digests.is_empty();
        if all {
            for line in self.log()?.damaged {
                let (what, why) = (line.to_string(), "expected time, name and digest");
                let error = Some(Error::digest(&what, why));
                tell(Finding { what, error });
            }
        }
        let images = if all {
            self.images()?
        } else {
            digests.to_vec()
        };
        let mut seen = BTreeSet::new();
        for digest in images {
            let verified = Image::load(self, &digest).and_then(|image| {
                check(&image)?;
                seen.extend(image.blobs());
                Ok(())
            });
            let error = verified.err();
            tell(Finding {
                what: digest.to_string(),
                error,
            });
        }
        if all {
            for digest in self
                .blobs()?
                .into_iter()
                .filter(|digest| !seen.contains(digest))
            {
                let error = self.verify_blob(&digest).err();
                tell(Finding {
                    what: format!("blob {digest}"),
                    error,
                });
            }
        }
        Ok(())
    }

    /// Repairs the log of names: removes damaged lines, and names each complete image without a name by its
    /// own digest, so that garbage collection keeps it. Returns one line per change.
    pub fn repair(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        if !self.path.is_dir() {
            return Ok(done);
        }
        let _lock = self.lock_exclusive()?;
        let Log {
            mut changes,
            damaged,
        } = self.log()?;
        let known: BTreeSet<_> = changes.iter().filter_map(|change| change.digest).collect();
        let names: BTreeSet<_> = changes.iter().map(|change| change.name.clone()).collect();
        for digest in self.blobs()? {
            let name = digest.to_string();
            if known.contains(&digest) || names.contains(&name) {
                continue;
            }
            let Some(image) = self.image_of(&digest)? else {
                continue;
            };
            done.push(format!("{name}  named by its digest"));
            changes.push(Change {
                time: crate::base::time::now(),
                name,
                digest: Some(image),
            });
        }
        done.extend(damaged.iter().map(|line| format!("{line}  removed")));
        if !done.is_empty() {
            self.rewrite_refs(&changes)?;
        }
        Ok(done)
    }

    /// Returns a whole image that the store has, whatever its names.
    pub(super) fn unnamed_image(&self) -> Result<Option<Digest>> {
        for digest in self.blobs()? {
            if let Some(image) = self.image_of(&digest)? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Returns the image that a manifest or an index leads to, if the store has the whole image.
    fn image_of(&self, blob: &Digest) -> Result<Option<Digest>> {
        let size = std::fs::metadata(self.blob_path(blob)).map_or(u64::MAX, |file| file.len());
        if size > crate::image::manifest::MAX_DOCUMENT as u64 {
            return Ok(None);
        }
        match Image::load(self, blob) {
            Ok(image) if Image::is_complete(self, blob)? => Ok(Some(image.digest)),
            _ => Ok(None),
        }
    }

    /// Returns the digests of all names, each once.
    pub fn images(&self) -> Result<Vec<Digest>> {
        let names = super::refs::current(self.refs()?);
        let digests: BTreeSet<_> = names.into_values().map(|(digest, _)| digest).collect();
        Ok(digests.into_iter().collect())
    }

    /// Hashes one blob.
    pub fn verify_blob(&self, digest: &Digest) -> Result<()> {
        let file = self.open_blob("blob", digest)?;
        let computed = super::digest_of(&file, digest.algorithm());
        digest.expect("blob", computed.context(|| format!("read({digest})"))?)
    }

    /// Returns the digests that name files under `blobs/`.
    pub fn blobs(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = self.path.join("blobs").join(algorithm.name());
            for name in files::names_if_there(&directory)? {
                // The temporary file of a killed writer does not parse as a digest; `gc` removes it.
                digests.extend(format!("{}:{name}", algorithm.name()).parse::<Digest>());
            }
        }
        Ok(digests)
    }
}
