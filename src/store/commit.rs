//! Commits an image whose layers are in the store: writes its tree image and documents, enables
//! fs-verity, and finally sets its names.

use super::image::{devices, merge};
use super::{Store, open_regular};
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::parallel::in_parallel;
use crate::image::erofs;
use crate::image::layer::Layer;
use crate::image::verity;
use crate::image::verity::Measured;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::Path;

/// A tree image that was written.
pub struct TreeImage {
    /// Digest of its bytes.
    pub digest: Digest,
    /// fs-verity digest.
    pub measure: Digest,
}

/// Writes the tree image of layers and stores it, unless the store has an identical one.
pub fn add_tree(store: &Store, diff_ids: &[Digest], layers: Vec<Layer>) -> Result<TreeImage> {
    let devices = devices(diff_ids, &layers);
    let merged = merge(layers)?;
    let tree = store.new_file()?;
    let mut out = Measured::new(&tree.file, true);
    erofs::write(&merged, &devices, &mut out)?;
    let measure = out.finish().expect("it is wanted");
    let digest_of = |file: &File| super::digest_of(file, Algorithm::Sha256);
    let digest = digest_of(&tree.file).context(|| "read(tree image)")?;
    let identity = erofs::identity(diff_ids);
    store.mend_unpacked(&identity, diff_ids, &merged)?;
    let path = store.tree_path(&identity);
    let stored = open_stored(&path)?.map(|file| digest_of(&file)).transpose();
    if stored.context(|| format!("read({path:?})"))? != Some(digest) {
        tree.link(&path)?;
    }
    Ok(TreeImage { digest, measure })
}

/// An image of which the store has only the layers and the tree image.
pub struct NewImage {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Manifest, config and indexes.
    pub documents: Vec<(Digest, Vec<u8>)>,
    /// Digests of the layers.
    pub diff_ids: Vec<Digest>,
    /// Names that the image gets.
    pub names: Vec<String>,
}

/// Stores the documents and then the names. The caller holds the store's lock.
pub fn commit(store: &Store, image: NewImage) -> Result<()> {
    protect(store, &image.diff_ids)?;
    for (digest, bytes) in &image.documents {
        add_document(store, digest, bytes)?;
    }
    store.sync_names()?;
    image
        .names
        .iter()
        .try_for_each(|name| store.name(name, &image.digest))
}

/// Enables fs-verity for the tree image and the layers, including those that the store already had.
/// Does nothing if the file system does not support it.
fn protect(store: &Store, diff_ids: &[Digest]) -> Result<()> {
    let mut paths: Vec<_> = diff_ids.iter().map(|id| store.blob_path(id)).collect();
    paths.push(store.tree_path(&erofs::identity(diff_ids)));
    // An image can contain a layer twice.
    paths.sort_unstable();
    paths.dedup();
    in_parallel(&paths, |path| match open_stored(path)? {
        Some(file) => verity::enable(&file).map_err(|e| Error {
            what: format!("{path:?}: {}", e.what),
            ..e
        }),
        None => Ok(false), // removed meanwhile: the launch reports it
    })
    .map(drop)
}

/// Opens a file of the store. A link or a fifo in its place counts as missing and is replaced.
pub(super) fn open_stored(path: &Path) -> Result<Option<File>> {
    match open_regular(path) {
        Err(error) if error.reason == Reason::Digest => Ok(None),
        opened => opened,
    }
}

/// Stores a document, unless the store has it undamaged.
fn add_document(store: &Store, digest: &Digest, bytes: &[u8]) -> Result<()> {
    let there = open_stored(&store.blob_path(digest))?.is_some_and(|file| {
        super::read_document("document", file).is_ok_and(|stored| stored == bytes)
    });
    if there {
        Ok(())
    } else {
        store.add_document(digest, bytes)
    }
}

impl Store {
    /// Removes blobs of a failed import unless an image needs them. If another process is using the store,
    /// it keeps them, because that process may need them.
    pub(super) fn discard(&self, blobs: &[Digest]) {
        let removed = self.try_lock_exclusive().and_then(|lock| {
            let Some(_lock) = lock else { return Ok(()) };
            let needed = self.needed(&[], usize::MAX)?;
            let paths = blobs.iter().map(|blob| self.blob_path(blob));
            paths
                .filter(|path| !needed.contains(path))
                .try_for_each(|path| {
                    std::fs::remove_file(&path).context(|| format!("unlink({path:?})"))
                })
        });
        if let Err(error) = removed {
            log::warn!("{error}; imrun gc removes what the failed import has left");
        }
    }

    /// Takes the exclusive lock for garbage collection, or returns `None` if another process has the lock.
    fn try_lock_exclusive(&self) -> Result<Option<Flock<File>>> {
        let path = self.lock_path();
        match Flock::lock(self.open_lock()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).context(|| format!("flock({path:?})")),
        }
    }
}
