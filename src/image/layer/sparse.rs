//! Files with holes: converts a tar's sparse map to extents that the tree image can point to.

use super::stream::Stream;
use super::{BLOCK, refuse};
use crate::base::error::Result;
use std::io::BufRead;

/// A file with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// Size in bytes, holes included.
    pub size: u64,
    /// Extents in ascending order, without overlap; everything else is a hole.
    pub extents: Box<[Extent]>,
}

/// A piece of a sparse file that contains data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, a multiple of 512.
    pub start: u64,
    /// Length in bytes: a multiple of 512, except for the piece that ends the file.
    pub length: u64,
    /// Source of its bytes.
    pub source: Source,
}

/// Source of an extent's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Offset in the tar, a multiple of 512.
    Tar(u64),
    /// Copied bytes that are not aligned to blocks in the tar: whole blocks, padded with zeros.
    Copy(Vec<u8>),
}

/// Range of chunk sizes, as powers of two (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`, 512-byte blocks).
const CHUNK_BITS: std::ops::RangeInclusive<u32> = 9..=40;

impl Sparse {
    /// Returns the largest chunk size, as a power of two, at which each chunk is either a hole or part of
    /// one extent.
    pub fn chunk_bits(&self) -> u32 {
        let ends = self
            .extents
            .iter()
            .map(|extent| extent.start + extent.length);
        self.extents
            .iter()
            .map(|extent| extent.start)
            .chain(ends.filter(|end| *end < self.size))
            .map(u64::trailing_zeros)
            .fold(whole_bits(self.size), u32::min)
    }

    /// Returns the number of chunks of that size.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(1 << self.chunk_bits())
    }

    /// Returns the approximate number of bytes it takes in memory.
    pub(super) fn memory(&self) -> usize {
        let copied = self.extents.iter().map(|extent| match &extent.source {
            Source::Tar(_) => 0,
            Source::Copy(bytes) => bytes.len(),
        });
        size_of_val(&*self.extents) + copied.sum::<usize>()
    }
}

/// Returns the smallest chunk size, as a power of two, that holds `size` bytes; at most the largest one.
pub(crate) fn whole_bits(size: u64) -> u32 {
    let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
    bits.clamp(*CHUNK_BITS.start(), *CHUNK_BITS.end())
}

/// A piece of data: its offset in the file and its length.
pub(super) type Segment = (u64, u64);

/// Checks offsets and lengths, in turn, against the file's size and the size of the stored data.
pub(super) fn segments(numbers: &[u64], size: u64, stored: u64) -> Result<Vec<Segment>> {
    let wrong = |why: &str| refuse(format_args!("its sparse map {why}"));
    if !numbers.len().is_multiple_of(2) {
        return Err(wrong("has an offset without a length"));
    }
    let mut segments = Vec::with_capacity(numbers.len() / 2);
    let (mut end, mut total) = (0, 0u64);
    for pair in numbers.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        if offset < end {
            return Err(wrong("has pieces that overlap or are out of order"));
        }
        end = offset
            .checked_add(length)
            .filter(|end| *end <= size)
            .ok_or_else(|| wrong("goes beyond the file's size"))?;
        total = total.saturating_add(length);
        if length > 0 {
            segments.push((offset, length));
        }
    }
    if total != stored {
        return Err(wrong("does not match the data that follows"));
    }
    Ok(segments)
}

/// Reads a file's data and its padding; copies the pieces that the tree image cannot point to.
pub(super) fn read<R: BufRead>(
    tar: &mut Stream<R>,
    segments: &[Segment],
    size: u64,
    mut budget: usize,
) -> Result<Sparse> {
    let mut extents = Vec::new();
    for &(offset, length) in segments {
        let aligned = offset.is_multiple_of(BLOCK) && tar.position().is_multiple_of(BLOCK);
        let direct = if aligned { length - length % BLOCK } else { 0 };
        if direct > 0 {
            push_direct(&mut extents, offset, direct, tar.position());
            tar.skip(direct)?;
        }
        if aligned && offset + length == size && direct < length {
            push_end(&mut extents, offset + direct, length - direct, tar)?;
            continue;
        }
        let copied = length - direct;
        budget = usize::try_from(copied)
            .ok()
            .and_then(|copied| budget.checked_sub(copied))
            .ok_or_else(|| {
                super::too_much(
                    "its sparse map has too many pieces that are not aligned to 512 bytes",
                )
            })?;
        let mut at = offset + direct;
        tar.pieces(copied, |piece| {
            push_copy(&mut extents, at, piece);
            at += piece.len() as u64;
        })?;
    }
    tar.align()?;
    Ok(Sparse {
        size,
        extents: extents.into_boxed_slice(),
    })
}

/// Adds a file's last bytes, fewer than a block: as a range of the tar if it contains the padding,
/// else as a copy.
fn push_end<R: BufRead>(
    extents: &mut Vec<Extent>,
    start: u64,
    length: u64,
    tar: &mut Stream<R>,
) -> Result<()> {
    let position = tar.position();
    let mut bytes = Vec::with_capacity(BLOCK as usize);
    tar.pieces(length, |piece| bytes.extend_from_slice(piece))?;
    if tar.align()? {
        push_direct(extents, start, length, position)
    } else {
        push_copy(extents, start, &bytes)
    }
    Ok(())
}

fn push_direct(extents: &mut Vec<Extent>, start: u64, length: u64, position: u64) {
    if let Some(Extent {
        start: s,
        length: l,
        source: Source::Tar(p),
    }) = extents.last_mut()
        && (*s + *l, *p + *l) == (start, position)
    {
        *l += length;
        return;
    }
    extents.push(Extent {
        start,
        length,
        source: Source::Tar(position),
    });
}

fn push_copy(extents: &mut Vec<Extent>, at: u64, piece: &[u8]) {
    let start = at - at % BLOCK;
    let joins = matches!(extents.last(), Some(Extent { start: s, length, source: Source::Copy(_) })
        if start <= s + length);
    if !joins {
        extents.push(Extent {
            start,
            length: 0,
            source: Source::Copy(Vec::new()),
        });
    }
    let Some(Extent {
        start,
        length,
        source: Source::Copy(bytes),
    }) = extents.last_mut()
    else {
        return;
    };
    bytes.truncate(
        usize::try_from(at - *start)
            .unwrap_or(usize::MAX)
            .min(bytes.len()),
    );
    bytes.resize(usize::try_from(at - *start).unwrap_or(usize::MAX), 0);
    bytes.extend_from_slice(piece);
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
    *length = bytes.len() as u64;
}

/// Reads the map of PAX sparse format 1.0: decimal numbers, one per line, in front of the data and
/// padded to a block. The first is the number of pairs. Returns offsets and lengths in turn, and the
/// number of bytes read.
pub(super) fn read_map<R: BufRead>(
    tar: &mut Stream<R>,
    stored: u64,
    memory: usize,
) -> Result<(Vec<u64>, u64)> {
    let mut map = Lines::default();
    let mut read = 0;
    while !map.is_complete() {
        if read + BLOCK > stored {
            return Err(refuse("its sparse map is longer than its data"));
        }
        let mut right = true;
        tar.pieces(BLOCK, |piece| {
            right &= piece.iter().all(|byte| map.take(*byte))
        })?;
        if !right {
            return Err(refuse(
                "the sparse map in front of its data contains an invalid number",
            ));
        }
        if size_of_val(&map.numbers[..]) > memory {
            return Err(super::too_much("its sparse map is too large"));
        }
        read += BLOCK;
    }
    Ok((map.numbers, read))
}

/// Lines of such a map that were read so far.
#[derive(Default)]
struct Lines {
    expected: Option<u64>,
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl Lines {
    /// Number of digits of 2^64.
    const DIGITS: usize = 20;

    fn is_complete(&self) -> bool {
        self.expected
            .is_some_and(|expected| self.numbers.len() as u64 >= expected)
    }

    /// Takes the next byte; returns false if it cannot be part of a map. Padding can.
    fn take(&mut self, byte: u8) -> bool {
        if self.is_complete() {
            return true;
        }
        if byte != b'\n' {
            self.line.push(byte);
            return self.line.len() <= Self::DIGITS;
        }
        let Some(number) = super::pax::decimal(&self.line) else {
            return false;
        };
        self.line.clear();
        match self.expected {
            None => self.expected = Some(number.saturating_mul(2)),
            Some(_) => self.numbers.push(number),
        }
        true
    }
}
