//! fs-verity digests of files, computed from streamed bytes or read from the kernel.
//!
//! The digest is the SHA-256 of a descriptor that contains the file's size and the root of a Merkle
//! tree: SHA-256 over blocks of 4,096 bytes, without a salt.
//!
//! Source: Linux, Documentation/filesystems/fsverity.rst, "Merkle tree" and "fs-verity descriptor".
#![forbid(unsafe_code)]

use crate::base::digest::Digest;
use crate::base::error::{Context, Result};
use crate::base::sys::verity as sys;
use nix::errno::Errno;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// Block size of the file and of the tree, in bytes.
const BLOCK: usize = 4096;
const LOG_BLOCK: u8 = 12;
/// Size of a hash in bytes.
const HASH: usize = 32;
/// Size of `struct fsverity_descriptor` in bytes.
const DESCRIPTOR: usize = 256;
/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u8 = 1;

/// Computes the digest of a file from its bytes, in order and in pieces of any size.
#[derive(Default)]
pub struct Hasher {
    size: u64,
    block: Vec<u8>,
    /// Incomplete blocks of the tree, lowest level first. A level that was once full has a non-empty
    /// level above it.
    levels: Vec<Vec<u8>>,
}

impl Hasher {
    /// Adds the next piece.
    pub fn update(&mut self, mut piece: &[u8]) {
        self.size += piece.len() as u64;
        while !piece.is_empty() {
            // A whole block need not be copied.
            let (block, rest) = if self.block.is_empty() && piece.len() >= BLOCK {
                piece.split_at(BLOCK)
            } else {
                let (head, rest) = piece.split_at(piece.len().min(BLOCK - self.block.len()));
                self.block.extend_from_slice(head);
                (&[][..], rest)
            };
            piece = rest;
            if !block.is_empty() {
                self.push(hash(block));
            } else if self.block.len() == BLOCK {
                self.flush();
            }
        }
    }

    /// Returns the digest of all pieces.
    pub fn finish(mut self) -> Digest {
        if !self.block.is_empty() {
            self.flush();
        }
        let mut descriptor = [0; DESCRIPTOR];
        descriptor[..3].copy_from_slice(&[1, SHA256, LOG_BLOCK]);
        descriptor[8..16].copy_from_slice(&self.size.to_le_bytes());
        descriptor[16..16 + HASH].copy_from_slice(&self.root());
        Digest::sha256(&descriptor)
    }

    /// Hashes the incomplete block, padded with zeros.
    fn flush(&mut self) {
        self.block.resize(BLOCK, 0);
        let hash = hash(&self.block);
        self.block.clear();
        self.push(hash);
    }

    /// Adds the hash of the next block.
    fn push(&mut self, hash_of_block: [u8; HASH]) {
        let mut hash_of_block = hash_of_block;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::with_capacity(BLOCK));
            }
            let hashes = &mut self.levels[level];
            hashes.extend_from_slice(&hash_of_block);
            if hashes.len() < BLOCK {
                return;
            }
            hash_of_block = hash(hashes);
            hashes.clear();
        }
    }

    /// Returns the hash of the only block of the highest level, or zeros if there is none.
    fn root(&mut self) -> [u8; HASH] {
        let levels = std::mem::take(&mut self.levels);
        let top = levels.len().saturating_sub(1);
        let mut below = None;
        for (level, mut hashes) in levels.into_iter().enumerate() {
            hashes.extend(below.into_iter().flatten());
            if level == top
                && let Ok(root) = hashes.as_slice().try_into()
            {
                return root;
            }
            let rest = !hashes.is_empty();
            hashes.resize(BLOCK, 0);
            below = rest.then(|| hash(&hashes));
        }
        below.unwrap_or_default()
    }
}

/// Enables fs-verity on a file that no process has open for writing. Returns false if the file system
/// does not support it, or this user may not enable it.
pub fn enable(file: &File) -> Result<bool> {
    match sys::enable(file.as_fd()) {
        // Another import may be enabling it.
        Ok(()) | Err(Errno::EEXIST | Errno::EBUSY) => Ok(true),
        // EINVAL: the file system's blocks are smaller.
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno).context(|| "ioctl(FS_IOC_ENABLE_VERITY)"),
    }
}

/// Returns the digest that the kernel checks the file's pages against on each read, or `None` if
/// fs-verity is not enabled or its algorithm is not SHA-256.
pub fn measure(file: &File) -> Result<Option<Digest>> {
    match sys::measure(file.as_fd()) {
        Ok(hash) => Ok(hash.map(Digest::from_sha256)),
        Err(Errno::ENODATA | Errno::ENOTTY | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno).context(|| "ioctl(FS_IOC_MEASURE_VERITY)"),
    }
}

fn hash(block: &[u8]) -> [u8; HASH] {
    Sha256::digest(block).into()
}

/// Writer that passes bytes on and optionally hashes them.
pub struct Measured<W> {
    inner: W,
    hasher: Option<Hasher>,
}

impl<W> Measured<W> {
    /// Creates a writer to `inner` that hashes if `wanted`.
    pub fn new(inner: W, wanted: bool) -> Self {
        let hasher = wanted.then(Hasher::default);
        Measured { inner, hasher }
    }

    /// Returns the fs-verity digest of the written bytes, if wanted.
    pub fn finish(self) -> Option<Digest> {
        self.hasher.map(Hasher::finish)
    }
}

impl<W: io::Write> io::Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..written]);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
