//! Garbage collection: frees what no reference and no running container needs.

use super::Store;
use super::image::Image;
use super::refs::Meanings;
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The default of `gc --keep`.
pub const KEEP: usize = 3;

/// What a collection is told.
pub struct Collection<'a> {
    /// The images of running containers.
    pub running: &'a [Digest],
    /// Meanings of each name that stay, the present one included.
    pub keep: usize,
    /// Whether nothing is removed, only counted.
    pub dry_run: bool,
}

impl Store {
    /// Takes every name from an image; says whether there was one.
    pub fn forget(&self, digest: &Digest) -> Result<bool> {
        if !self.path.is_dir() {
            return Ok(false);
        }
        let _lock = self.lock_shared()?;
        let names = super::refs::current(self.whole_refs()?);
        let names: Vec<_> = names
            .into_iter()
            .filter(|(_, (d, _))| d == digest)
            .collect();
        for (name, _) in &names {
            self.set_ref(name, None)?;
        }
        Ok(!names.is_empty())
    }

    /// The names that an image was an earlier meaning of.
    pub fn earlier_names(&self, digest: &Digest) -> Result<Vec<String>> {
        let changes = self.refs()?;
        let names = super::refs::meanings(&changes).into_iter();
        let meant = names.filter(|(_, meanings)| meanings.earlier.contains(digest));
        Ok(meant.map(|(name, _)| name.to_string()).collect())
    }

    /// Removes what neither kept meanings of names nor running containers need; the bytes freed.
    ///
    /// # Errors
    /// An image whose documents are damaged, or a damaged line in the log of names: what is needed
    /// cannot be known, so nothing is removed.
    pub fn collect(&self, collection: &Collection<'_>) -> Result<u64> {
        if !self.path.is_dir() {
            return Ok(0);
        }
        let _lock = self.lock_exclusive()?;
        let needed = self.needed(collection.running, collection.keep)?;
        let mut freed = 0;
        for directory in ["blobs/sha256", "blobs/sha512", "trees"] {
            freed += remove_all_but(&needed, &self.path.join(directory), collection.dry_run)?;
        }
        let names = needed.iter().filter_map(|path| path.file_stem());
        let trees = names.map(|name| name.to_string_lossy().into_owned());
        Ok(freed + self.collect_unpacked(&trees.collect(), collection.dry_run)?)
    }

    /// The files that `running` images and the last `keep` meanings of each name need.
    pub(super) fn needed(&self, running: &[Digest], keep: usize) -> Result<BTreeSet<PathBuf>> {
        let mut needed = BTreeSet::new();
        let changes = self.whole_refs()?;
        let names = super::refs::meanings(&changes);
        let now = names.values().filter_map(|meanings| meanings.now);
        for digest in now.chain(running.iter().copied()).collect::<BTreeSet<_>>() {
            self.need(&mut needed, &digest).map_err(|error| {
                error.hint(format_args!(
                    "nothing was removed; import {digest} again, or: imrun rm {digest}"
                ))
            })?;
        }
        let earlier = |meanings: &'_ Meanings| {
            let earlier = meanings.earlier.iter().take(keep.saturating_sub(1));
            earlier.copied().collect::<Vec<_>>()
        };
        for digest in names.values().flat_map(earlier).collect::<BTreeSet<_>>() {
            // What is not there cannot come back.
            if Image::is_there(self, &digest)? {
                self.need(&mut needed, &digest).map_err(|error| {
                    error.hint(format_args!("nothing was removed; import {digest} again, or give up all earlier meanings: imrun gc --keep 1"))
                })?;
            }
        }
        // The index that led to an image is named by its own digest.
        let indexes = names.iter().filter(|(_, meanings)| meanings.now.is_some());
        let indexes = indexes.filter_map(|(name, _)| name.parse().ok());
        needed.extend(indexes.map(|digest| self.blob_path(&digest)));
        Ok(needed)
    }

    fn need(&self, needed: &mut BTreeSet<PathBuf>, digest: &Digest) -> Result<()> {
        let image = Image::load(self, digest)?;
        needed.insert(self.tree_path(&image.tree_identity()));
        needed.extend(image.blobs().iter().map(|blob| self.blob_path(blob)));
        Ok(())
    }
}

fn remove_all_but(needed: &BTreeSet<PathBuf>, directory: &Path, dry_run: bool) -> Result<u64> {
    let mut freed = 0;
    for name in super::file_names(directory)? {
        let path = directory.join(name);
        if needed.contains(&path) {
            continue;
        }
        let metadata = match std::fs::symlink_metadata(&path) {
            // A name that is no text was not read as it is.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                log::warn!("{path:?}: has a name that is no text: left where it is");
                continue;
            }
            metadata => metadata.context(|| format!("lstat({path:?})"))?,
        };
        if metadata.is_dir() {
            log::warn!("{path:?}: is a directory, none of the store's: left where it is");
            continue;
        }
        if !dry_run {
            std::fs::remove_file(&path).context(|| format!("unlink({path:?})"))?;
        }
        freed += metadata.len();
    }
    Ok(freed)
}

impl Image {
    /// Every blob that the image consists of, or was imported from.
    pub fn blobs(&self) -> Vec<Digest> {
        let layers = self.manifest.layers.iter().map(|layer| layer.digest);
        let documents = [self.digest, self.manifest.config.digest];
        let indexes = self.indexes.iter().copied();
        documents
            .into_iter()
            .chain(indexes)
            .chain(layers)
            .chain(self.config.diff_ids.clone())
            .collect()
    }
}

/// Refuses a digest that no name means.
pub fn unknown(store: &Store, digest: &Digest) -> Error {
    Error::usage(
        digest,
        format_args!("is no image of the store {}", store.path().display()),
    )
    .hint("imrun images lists those that are there")
}
