//! Writes a tree as a metadata-only EROFS image. The files' data stay in the layers' tars, which the
//! mount attaches as extra devices.
//!
//! A tar is a sequence of 512-byte blocks. With blocks of that size (Linux ≥ 6.4), extents point
//! straight into it.
//!
//! Layout: superblock at 1024, device table, inodes with their xattrs and inline contents, then the
//! blocks of contents that are too long to be inline.
//!
//! Source: Linux, fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst.

mod chunks;
mod directory;
mod format;
mod plan;
mod write;

pub use write::write;

use crate::base::digest::{Algorithm, Digest, Hasher};

/// Version of the writer; a change that gives the same tree other bytes increases it.
pub const WRITER_VERSION: u32 = 1;

/// A layer's tar, as an extra device of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Digest of the tar: the layer's diff_id.
    pub digest: Digest,
    /// Size of the tar in bytes.
    pub size: u64,
}

/// Returns the digest that names the tree image of these layers, lowest first: the SHA-256 of
/// [`WRITER_VERSION`] and the diff_ids.
pub fn identity(diff_ids: &[Digest]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(format!("imrun tree image {WRITER_VERSION}\n").as_bytes());
    for diff_id in diff_ids {
        hasher.update(format!("{diff_id}\n").as_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
