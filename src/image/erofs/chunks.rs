//! Chunk indexes behind a chunk-based inode: the device and block of each chunk of its file.

use super::format::{BLOCK, HOLE};
use crate::image::layer::{Source, Sparse};

/// A chunk's device and block. Blocks of layers are below 2^32; the writer has checked this.
pub(super) type Place = (u16, u32);

/// Returns the places of the chunks of a contiguous file.
pub(super) fn whole(device: u16, size: u64, offset: u64, bits: u32) -> impl Iterator<Item = Place> {
    (0..size.div_ceil(1 << bits)).map(move |chunk| (device, block(offset + (chunk << bits))))
}

/// Returns the places of the chunks of a sparse file whose copied pieces start at the block `copies`.
pub(super) fn sparse(device: u16, file: &Sparse, copies: u64) -> impl Iterator<Item = Place> {
    let bits = file.chunk_bits();
    let mut extents = file.extents.iter().peekable();
    let mut copies = copies * BLOCK;
    (0..file.chunks()).map(move |chunk| {
        let at = chunk << bits;
        while let Some(passed) = extents.next_if(|extent| extent.start + extent.length <= at) {
            if let Source::Copy(bytes) = &passed.source {
                copies += bytes.len() as u64;
            }
        }
        match extents.peek().filter(|extent| extent.start <= at) {
            None => (0, HOLE),
            Some(extent) => match extent.source {
                Source::Tar(offset) => (device, block(offset + at - extent.start)),
                Source::Copy(_) => (0, block(copies + at - extent.start)),
            },
        }
    })
}

fn block(offset: u64) -> u32 {
    (offset / BLOCK) as u32
}
