//! The tar as a stream of blocks with a position and a budget.

use super::header::{Header, SIZE};
use super::{BLOCK, refuse, too_much};
use crate::error::{Error, Result, reason_of};
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

    /// Whether an end block was read: without one, the tar may go on elsewhere.
    pub(super) fn has_end_blocks(&self) -> bool {
        self.has_end_blocks
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next header, `None` at the end of the tar: its end blocks, one of them, or the end of
    /// the stream, since nothing of the tree can be lost behind it.
    pub(super) fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.is_zero() {
            self.has_end_blocks = true;
            return match self.block()? {
                Some(second) if !second.is_zero() => Err(refuse(
                    "a lone zero block, with more entries behind it that some would read",
                )),
                _ => Ok(None),
            };
        }
        block.verify()?;
        Ok(Some(block))
    }

    /// The next 512 bytes, `None` where the stream ends before the first of them. Zeros that the
    /// stream cuts short are a zero block.
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

    /// Hands `size` bytes to `take` in pieces, without copying them.
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

    /// Skips to the next block. Returns false where the stream ends before it: the padding that
    /// the tar lacks there is not data.
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

    /// Reads on to the end of the stream: it belongs to the digest, not to the tree.
    pub(super) fn drain(&mut self) -> Result<()> {
        loop {
            let count = self.fill()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// Refuses a size beyond the budget before a byte of it is read.
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
    refuse("the tar ends in the middle of it")
}

/// The decoders' errors have no number; those of the system do. An error of imrun's own, such as
/// that of a transfer, stays what it is.
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
            format_args!("read or write of the layer: {}", reason_of(&error)),
        ),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            refuse("the compressed stream is truncated")
        }
        None => refuse(format_args!("the compressed stream is damaged: {error}")),
    }
}
