//! Digest over the status of all inodes beneath a directory; any change gives another digest.

use super::beneath::{names, open_directory};
use super::shown;
use crate::base::digest::{Algorithm, Digest, Hasher};
use crate::base::error::{Context, Result};
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstatat};
use std::os::fd::{AsFd, BorrowedFd};

/// Reads names and inodes beneath `top`, without opening any file.
pub fn list(top: BorrowedFd<'_>) -> Result<Digest> {
    let mut digest = Hasher::new(Algorithm::Sha256);
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let mut below = Vec::new();
        let row = block(top, &path, &mut below);
        digest.update(&row.context(|| format!("readdir({:?})", shown(&path, b"")))?);
        // Each directory comes before its entries, as in a tree's walk.
        pending.extend(below.into_iter().rev());
    }
    Ok(digest.finish())
}

fn block(top: BorrowedFd<'_>, path: &[u8], below: &mut Vec<Vec<u8>>) -> nix::Result<Vec<u8>> {
    let directory = open_directory(top, path)?;
    let status = |name: &[u8]| fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let mut block = Block::new(path, &status(b".")?);
    for name in names(directory.as_fd())? {
        let found = status(&name)?;
        block.add(&name, &found);
        if is_directory(&found) {
            below.push(match path {
                b"" => name,
                _ => [path, &name].join(&b'/'),
            });
        }
    }
    Ok(block.bytes)
}

fn is_directory(status: &FileStat) -> bool {
    status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// Contribution of one directory to the digest.
pub(super) struct Block {
    pub bytes: Vec<u8>,
}

impl Block {
    pub fn new(path: &[u8], directory: &FileStat) -> Block {
        let mut block = Block { bytes: Vec::new() };
        block.put(path, Some(directory));
        block
    }

    /// Adds the next name in the directory. A subdirectory has a block of its own.
    pub fn add(&mut self, name: &[u8], status: &FileStat) {
        self.put(name, Some(status).filter(|status| !is_directory(status)));
    }

    fn put(&mut self, name: &[u8], status: Option<&FileStat>) {
        self.bytes.extend((name.len() as u64).to_le_bytes());
        self.bytes.extend(name);
        for field in status.into_iter().flat_map(fields) {
            self.bytes.extend(field.to_le_bytes());
        }
    }
}

/// Returns the fields that identify an inode and the version of its bytes. Their types depend on the
/// architecture.
#[allow(clippy::unnecessary_cast)]
fn fields(status: &FileStat) -> [i64; 11] {
    [
        status.st_dev as i64,
        status.st_ino as i64,
        status.st_mode as i64,
        status.st_nlink as i64,
        status.st_uid as i64,
        status.st_gid as i64,
        status.st_size as i64,
        status.st_mtime as i64,
        status.st_mtime_nsec as i64,
        status.st_ctime as i64,
        status.st_ctime_nsec as i64,
    ]
}
