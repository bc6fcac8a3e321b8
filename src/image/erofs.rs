//! Writes a tree as a metadata-only EROFS image: its files' data stay in the layers' tars, which
//! are attached as extra devices.
//!
//! A tar is a sequence of 512-byte blocks, so with blocks of that size (Linux ≥ 6.4) extents point
//! into it as it is.
//!
//! Layout: superblock at 1024, device table, inodes with their xattrs and short contents,
//! then blocks of what does not fit beside its inode.
//!
//! Source: Linux, fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst.

mod chunks;
mod directory;
mod format;
mod plan;
mod write;

pub use write::write;

use crate::base::digest::{Algorithm, Digest, Hasher};

/// Changes whenever the same tree would give other bytes.
pub const WRITER_VERSION: u32 = 1;

/// A layer's tar, as an extra device of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Of the tar: the layer's diff_id.
    pub digest: Digest,
    /// Bytes of the tar.
    pub size: u64,
}

/// What names the tree image of these layers, the lowest first: a digest of the diff_ids and of
/// [`WRITER_VERSION`].
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
