//! Places of a file's bytes: pieces of a tar, and holes.

use crate::image::layer::{Source, Sparse};
use crate::image::tree::Content;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A piece of a file that contains data.
pub(super) struct Piece<'a> {
    /// Offset in the file.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    source: Bytes<'a>,
}

enum Bytes<'a> {
    Tar(&'a File, u64),
    Copy(&'a [u8]),
}

impl Piece<'_> {
    /// Reads bytes from `offset` of the piece into `buffer`; returns their number.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let buffer = &mut buffer[..length];
        match self.source {
            Bytes::Tar(tar, start) => tar.read_exact_at(buffer, start + offset)?,
            Bytes::Copy(bytes) => {
                // The piece is in memory, so its length fits.
                let offset = offset as usize;
                buffer.copy_from_slice(&bytes[offset..offset + length]);
            }
        }
        Ok(length)
    }
}

/// Returns a file's size and its pieces in ascending order, or `None` for anything but a file.
pub(super) fn pieces<'a>(content: &'a Content, tars: &'a [File]) -> Option<(u64, Vec<Piece<'a>>)> {
    match content {
        Content::File { size: 0, .. } => Some((0, Vec::new())),
        Content::File {
            layer,
            size,
            offset,
        } => {
            let piece = Piece {
                start: 0,
                length: *size,
                source: Bytes::Tar(&tars[usize::from(*layer)], *offset),
            };
            Some((*size, vec![piece]))
        }
        Content::Sparse { layer, file } => {
            Some((file.size, of_sparse(file, &tars[usize::from(*layer)])))
        }
        _ => None,
    }
}

fn of_sparse<'a>(file: &'a Sparse, tar: &'a File) -> Vec<Piece<'a>> {
    let pieces = file.extents.iter().map(|extent| Piece {
        start: extent.start,
        // Copied data are padded to whole blocks.
        length: extent.length.min(file.size - extent.start),
        source: match &extent.source {
            Source::Tar(offset) => Bytes::Tar(tar, *offset),
            Source::Copy(bytes) => Bytes::Copy(bytes),
        },
    });
    pieces.collect()
}
