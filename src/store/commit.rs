//! What makes an image of layers that are in the store: its tree image, its documents, fs-verity
//! turned on, and last its names.

use super::image::{devices, merge};
use super::{Store, open_regular};
use crate::digest::{Algorithm, Digest};
use crate::error::{Context, Error, Reason, Result};
use crate::layer::Layer;
use crate::parallel::in_parallel;
use crate::verity::Measured;
use crate::{erofs, verity};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::Path;

/// A tree image as it was written.
pub struct TreeImage {
    /// Of its bytes.
    pub digest: Digest,
    /// fs-verity's.
    pub measure: Digest,
}

/// Makes the tree image of layers, and stores it unless the very same one is there.
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

/// An image whose layers and tree image are in the store, and nothing else of it yet.
pub struct Parts {
    /// The manifest's digest.
    pub digest: Digest,
    /// Manifest, config and indexes.
    pub documents: Vec<(Digest, Vec<u8>)>,
    /// The layers' digests.
    pub diff_ids: Vec<Digest>,
    /// What the image is called from then on.
    pub names: Vec<String>,
}

/// Stores documents and then the names; the caller holds the store's lock.
pub fn commit(store: &Store, parts: Parts) -> Result<()> {
    protect(store, &parts.diff_ids)?;
    for (digest, bytes) in &parts.documents {
        add_document(store, digest, bytes)?;
    }
    store.sync_names()?;
    parts
        .names
        .iter()
        .try_for_each(|name| store.name(name, &parts.digest))
}

/// Turns fs-verity on for tree image and layers where the file system has it: those, too, that were
/// there already.
fn protect(store: &Store, diff_ids: &[Digest]) -> Result<()> {
    let mut paths: Vec<_> = diff_ids.iter().map(|id| store.blob_path(id)).collect();
    paths.push(store.tree_path(&erofs::identity(diff_ids)));
    // One layer may be in an image twice.
    paths.sort_unstable();
    paths.dedup();
    in_parallel(&paths, |path| match open_stored(path)? {
        Some(file) => verity::enable(&file).map_err(|e| Error {
            what: format!("{path:?}: {}", e.what),
            ..e
        }),
        None => Ok(false), // removed meanwhile: the launch will say so
    })
    .map(drop)
}

/// What the store has already; a link or a fifo in its place is nothing, and is replaced.
pub(super) fn open_stored(path: &Path) -> Result<Option<File>> {
    match open_regular(path) {
        Err(error) if error.reason == Reason::Digest => Ok(None),
        opened => opened,
    }
}

/// Stores a document, unless it is there and whole.
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
    /// Removes blobs that came with what turned out to be wrong, unless an image needs them. Where
    /// somebody else is at work on the store they stay: that may be about to need them.
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
            log::warn!("{error}; imrun gc frees what an image that failed has left");
        }
    }

    /// The lock of a collection, unless it would have to wait.
    fn try_lock_exclusive(&self) -> Result<Option<Flock<File>>> {
        let path = self.lock_path();
        match Flock::lock(self.open_lock()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).context(|| format!("flock({path:?})")),
        }
    }
}
