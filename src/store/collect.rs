//! Garbage collection: removes data that neither names nor running containers need.

use super::Store;
use super::image::Image;
use super::refs::Meanings;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Default of `gc --keep`.
pub const KEEP: usize = 3;

/// Settings of a garbage collection.
pub struct Collection<'a> {
    /// Images of running containers.
    pub running: &'a [Digest],
    /// Number of digests of each name that are kept: the current one and the latest earlier ones.
    pub keep: usize,
    /// Counts the bytes without removing anything.
    pub dry_run: bool,
}

impl Store {
    /// Removes all names of an image. Returns false if it had none.
    pub fn remove_names(&self, digest: &Digest) -> Result<bool> {
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

    /// Returns the names that an image had earlier.
    pub fn earlier_names(&self, digest: &Digest) -> Result<Vec<String>> {
        let changes = self.refs()?;
        let names = super::refs::meanings(&changes).into_iter();
        let meant = names.filter(|(_, meanings)| meanings.earlier.contains(digest));
        Ok(meant.map(|(name, _)| name.to_string()).collect())
    }

    /// Removes data that neither the kept digests of names nor running containers need. Returns the
    /// number of bytes freed.
    ///
    /// # Errors
    /// An image's documents or a line in the log of names is damaged. Nothing is removed then, because
    /// imrun cannot determine what is needed.
    pub fn collect(&self, collection: &Collection<'_>) -> Result<u64> {
        if !self.path.is_dir() {
            return Ok(0);
        }
        let _lock = self.lock_exclusive()?;
        self.refuse_lost_log()?;
        let needed = self.needed(collection.running, collection.keep)?;
        let mut freed = 0;
        for (directory, ending) in [
            ("blobs/sha256", ""),
            ("blobs/sha512", ""),
            ("trees", ".erofs"),
        ] {
            let directory = self.path.join(directory);
            freed += remove_all_but(&needed, &directory, ending, collection.dry_run)?;
        }
        let names = needed.iter().filter_map(|path| path.file_stem());
        let trees = names.map(|name| name.to_string_lossy().into_owned());
        Ok(freed + self.collect_unpacked(&trees.collect(), collection.dry_run)?)
    }

    /// Refuses a log without a line beside whole images: somebody emptied or removed it.
    fn refuse_lost_log(&self) -> Result<()> {
        if !self.whole_refs()?.is_empty() {
            return Ok(());
        }
        match self.unnamed_image()? {
            None => Ok(()),
            Some(digest) => Err(Error::digest(
                "refs.log",
                format_args!(
                    "is empty or missing, but the store has the image {digest}: nothing was removed"
                ),
            )
            .hint("imrun verify --repair names such images by their digests")),
        }
    }

    /// Returns the files that `running` images and the last `keep` digests of each name need.
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
            // A missing image cannot be restored by keeping the rest of it.
            if Image::is_complete(self, &digest)? {
                self.need(&mut needed, &digest).map_err(|error| {
                    error.hint(format_args!("nothing was removed; import {digest} again, or drop all earlier digests of names: imrun gc --keep 1"))
                })?;
            }
        }
        // The name of an index that led to an image is the index's own digest.
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

/// Removes the files `HEX` + `ending` of a directory that are not needed, and what killed writers left.
fn remove_all_but(
    needed: &BTreeSet<PathBuf>,
    directory: &Path,
    ending: &str,
    dry_run: bool,
) -> Result<u64> {
    let mut freed = 0;
    for name in files::names_if_there(directory)? {
        let path = directory.join(&name);
        if needed.contains(&path) {
            continue;
        }
        let metadata = match std::fs::symlink_metadata(&path) {
            // The name is not UTF-8, so the path differs from the file's.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                log::warn!("{path:?}: its name is not UTF-8: not removed");
                continue;
            }
            metadata => metadata.context(|| format!("lstat({path:?})"))?,
        };
        if metadata.is_dir() {
            log::warn!("{path:?}: is a directory that does not belong to the store: not removed");
            continue;
        }
        let is_own = split_hex(&name)
            .is_some_and(|rest| rest == ending || rest.starts_with(super::REPLACING));
        if !is_own {
            log::warn!("{path:?}: does not belong to the store: not removed");
            continue;
        }
        if !dry_run {
            std::fs::remove_file(&path).context(|| format!("unlink({path:?})"))?;
        }
        freed += metadata.len();
    }
    Ok(freed)
}

/// Returns what follows the hex digits of a digest in the name of a file; `None` if it does not begin
/// with those of a digest.
pub(super) fn split_hex(name: &str) -> Option<&str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digits = name.bytes().take_while(|byte| is_digit(*byte)).count();
    matches!(digits, 64 | 128).then(|| &name[digits..])
}

impl Image {
    /// Returns all blobs that the image consists of or was imported from.
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

/// Returns the error for a digest that has no name.
pub fn unknown(store: &Store, digest: &Digest) -> Error {
    Error::usage(
        digest,
        format_args!("is not an image in the store {}", store.path().display()),
    )
    .hint("imrun images lists the images in the store")
}
