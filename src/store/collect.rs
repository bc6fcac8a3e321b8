//! Garbage collection: frees what no reference and no running container needs.

use super::Store;
use super::image::Image;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

impl Store {
    /// Forgets every name of an image; says whether there was one.
    pub fn forget(&self, digest: &Digest) -> Result<bool> {
        if !self.path.is_dir() {
            return Ok(false);
        }
        let _lock = self.lock_shared()?;
        let names = super::refs::current(self.refs()?);
        let names: Vec<_> = names
            .into_iter()
            .filter(|(_, (d, _))| d == digest)
            .collect();
        for (name, _) in &names {
            self.set_ref(name, None)?;
        }
        Ok(!names.is_empty())
    }

    /// Removes what neither names nor `running` images need; the bytes freed.
    ///
    /// # Errors
    /// An image whose documents are damaged: what it needs cannot be known, so nothing is removed.
    pub fn collect(&self, running: &[Digest]) -> Result<u64> {
        if !self.path.is_dir() {
            return Ok(0);
        }
        let _lock = self.lock_exclusive()?;
        let needed = self.needed(running)?;
        let mut freed = 0;
        for directory in ["blobs/sha256", "blobs/sha512", "trees"] {
            freed += remove_all_but(&needed, &self.path.join(directory))?;
        }
        let names = needed.iter().filter_map(|path| path.file_stem());
        let trees = names.map(|name| name.to_string_lossy().into_owned());
        Ok(freed + self.collect_unpacked(&trees.collect())?)
    }

    /// The files that names and `running` images need.
    pub(super) fn needed(&self, running: &[Digest]) -> Result<BTreeSet<PathBuf>> {
        let mut needed = BTreeSet::new();
        let roots = self.images()?;
        for digest in roots.iter().chain(running) {
            let image = Image::load(self, digest).map_err(|error| {
                error.hint(format_args!(
                    "nothing was removed; import {digest} again, or: imrun rm {digest}"
                ))
            })?;
            needed.insert(self.tree_path(&image.tree_identity()));
            needed.extend(image.blobs().iter().map(|blob| self.blob_path(blob)));
        }
        // The index that led to an image is named by its own digest.
        let names = super::refs::current(self.refs()?).into_keys();
        needed.extend(
            names
                .filter_map(|name| name.parse().ok())
                .map(|digest| self.blob_path(&digest)),
        );
        Ok(needed)
    }
}

fn remove_all_but(needed: &BTreeSet<PathBuf>, directory: &Path) -> Result<u64> {
    let mut freed = 0;
    for name in files::names_if_there(directory)? {
        let path = directory.join(name);
        if needed.contains(&path) {
            continue;
        }
        let metadata = std::fs::symlink_metadata(&path).context(|| format!("lstat({path:?})"))?;
        std::fs::remove_file(&path).context(|| format!("unlink({path:?})"))?;
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
