//! The tar as a stream of blocks, with a position and a limit.

use super::header::{Header, SIZE};
use super::{BLOCK, refuse, too_much};
use crate::base::error::{Error, Result, reason_of};
use std::io::{self, BufRead};

pub(super) struct Stream<R> {
    inner: R,
    position: u64,
    limit: u64,
    has_end_blocks: bool,
}

impl<R: BufRead> Stream<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Stream {
            inner,
            position: 0,
            limit,
            has_end_blocks: false,
        }
    }

    /// Returns true once an end block was read; without one, the tar may be incomplete.
    pub(super) fn has_end_blocks(&self) -> bool {
        self.has_end_blocks
    }

    /// Returns the number of bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Returns the next header, or `None` at the end of the tar: two end blocks, a single one, or the end
    /// of the stream. Nothing of the tree can follow any of them.
    pub(super) fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.is_zero() {
            self.has_end_blocks = true;
            return match self.block()? {
                Some(second) if !second.is_zero() => Err(refuse(
                    "a single zero block is followed by more entries, which some readers ignore",
                )),
                _ => Ok(None),
            };
        }
        block.verify()?;
        Ok(Some(block))
    }

    /// Returns the next 512 bytes, or `None` at the end of the stream. Zeros that the end of the stream
    /// cuts short count as a zero block.
    pub(super) fn block(&mut self) -> Result<Option<Header>> {
        if self.fill()?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; SIZE];
        let mut filled = 0;
        while filled < SIZE {
            let available = self.inner.fill_buf().map_err(read_error)?;
            if available.is_empty() {
                break;
            }
            let count = available.len().min(SIZE - filled);
            block[filled..filled + count].copy_from_slice(&available[..count]);
            self.consume(count);
            filled += count;
        }
        match Header(block) {
            block if filled == SIZE || block.is_zero() => Ok(Some(block)),
            _ => Err(cut_short()),
        }
    }

    /// Passes `size` bytes to `take` in pieces, without copying them.
    pub(super) fn pieces(&mut self, size: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        self.afford(size)?;
        let mut left = size;
        while left > 0 {
            let available = self.some()?;
            let count = usize::try_from(left).map_or(available.len(), |n| n.min(available.len()));
            take(&available[..count]);
            self.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Skips `size` bytes.
    pub(super) fn skip(&mut self, size: u64) -> Result<()> {
        self.pieces(size, |_| ())
    }

    /// Skips to the next block. Returns false if the stream ends first; missing padding is not data.
    pub(super) fn align(&mut self) -> Result<bool> {
        while !self.position.is_multiple_of(BLOCK) {
            let padding = self.position.next_multiple_of(BLOCK) - self.position;
            let available = self.fill()?.len();
            if available == 0 {
                return Ok(false);
            }
            self.consume(available.min(padding as usize));
        }
        Ok(true)
    }

    /// Reads to the end of the stream: the digest covers these bytes, the tree does not.
    pub(super) fn drain(&mut self) -> Result<()> {
        loop {
            let count = self.fill()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// Refuses a size that exceeds the limit before reading any of it.
    fn afford(&self, size: u64) -> Result<()> {
        match self.position.checked_add(size) {
            Some(end) if end <= self.limit => Ok(()),
            _ => Err(self.over_budget()),
        }
    }

    fn over_budget(&self) -> Error {
        too_much(format_args!(
            "the layer has more than {} bytes uncompressed",
            self.limit
        ))
    }

    fn some(&mut self) -> Result<&[u8]> {
        let available = self.inner.fill_buf().map_err(read_error)?;
        if available.is_empty() {
            return Err(cut_short());
        }
        Ok(available)
    }

    fn fill(&mut self) -> Result<&[u8]> {
        if self.position > self.limit {
            return Err(self.over_budget());
        }
        self.inner.fill_buf().map_err(read_error)
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.position += count as u64;
    }
}

fn cut_short() -> Error {
    refuse("the tar ends in the middle of the entry")
}

/// Converts an error of the reader. Errors of the system have a number, errors of the decoders do not.
/// An error of imrun's own, such as that of a transfer, stays as it is.
pub(super) fn read_error(error: io::Error) -> Error {
    if let Some(own) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    {
        return own.clone();
    }
    match error.raw_os_error() {
        Some(_) => Error::system(
            "",
            format_args!("cannot read or write the layer: {}", reason_of(&error)),
        ),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            refuse("the compressed stream is truncated")
        }
        None => refuse(format_args!("the compressed stream is damaged: {error}")),
    }
}
