//! fs-verity in the store: turned on for what is stored, and compared with what a manifest says of it.

use super::Store;
use super::image::in_parallel;
use super::import::open_stored;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::verity;

/// Turns fs-verity on for tree image and layers where the file system has it: those, too, that were
/// there already.
pub(super) fn protect(store: &Store, diff_ids: &[Digest]) -> Result<()> {
    let mut paths: Vec<_> = diff_ids.iter().map(|id| store.blob_path(id)).collect();
    paths.push(store.tree_path(&crate::erofs::identity(diff_ids)));
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

/// Refuses a manifest that is sealed with another digest than the one of the bytes themselves.
pub(super) fn expect(what: &str, sealed: Digest, computed: Digest) -> Result<()> {
    if sealed == computed {
        return Ok(());
    }
    let why = format_args!("the manifest is sealed with {sealed}, the bytes give {computed}");
    Err(Error::digest(what, why).hint("the seal is false: bake the image again"))
}
