//! Splits a stream of bytes into lines.
//!
//! A line ends with a newline, which is not part of its frame. All other bytes are: NUL, invalid UTF-8,
//! the CR of a CRLF. A line of more than [`LINE_MAX`] bytes is split into several frames. The frames
//! depend only on the bytes, not on how they were read.

use std::io::{self, Read};

/// Maximum bytes of a frame.
pub const LINE_MAX: usize = 64 * 1024;

// With one byte more than a frame, a line of exactly LINE_MAX bytes is recognised.
const CAPACITY: usize = LINE_MAX + 1;

/// A line, or a piece of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Bytes without the newline: at most [`LINE_MAX`].
    pub bytes: &'a [u8],
    /// Reason for the end of the frame.
    pub ending: Ending,
}

impl Frame<'_> {
    /// Returns true if the line continues in the next frame.
    pub fn partial(&self) -> bool {
        self.ending == Ending::Split
    }
}

/// Reason for the end of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A newline.
    Newline,
    /// The frame has the maximum length.
    Split,
    /// The stream ended without a newline.
    End,
}

/// Bytes of one stream that are not framed or not taken yet: at most one frame.
#[derive(Debug)]
pub struct Framer {
    buffer: Box<[u8]>,
    /// Range of `buffer` in use.
    start: usize,
    end: usize,
    /// End of the searched part, from `start`: it contains no newline.
    searched: usize,
    ended: bool,
    /// True if bytes do not wait for the end of their line.
    hasty: bool,
}

impl Default for Framer {
    fn default() -> Framer {
        Framer::new()
    }
}

impl Framer {
    /// Creates an empty framer.
    pub fn new() -> Framer {
        Framer {
            buffer: Box::default(),
            start: 0,
            end: 0,
            searched: 0,
            ended: false,
            hasty: false,
        }
    }

    /// Creates an empty framer that passes bytes on without waiting for the end of their line.
    pub fn hasty() -> Framer {
        Framer {
            hasty: true,
            ..Framer::new()
        }
    }

    /// Returns true if there is room to read into, as always after all frames were taken.
    pub fn has_room(&self) -> bool {
        self.end - self.start < CAPACITY
    }

    /// Reads once and returns the number of bytes. 0 is the end of the stream; then the last line
    /// becomes a frame even without its newline. Fails with the reader's error, or with `WouldBlock` if
    /// there is no room.
    pub fn read_from(&mut self, from: &mut impl Read) -> io::Result<usize> {
        if !self.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.buffer.is_empty() {
            // Allocated on the first read: many processes never write to one of their streams.
            self.buffer = vec![0; CAPACITY].into_boxed_slice();
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let read = from.read(&mut self.buffer[self.end..])?;
        self.end += read;
        self.ended |= read == 0;
        Ok(read)
    }

    /// Ends the stream without reading: the remaining bytes become a frame.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Offers each complete frame to `take` until it returns false; the next call offers that frame
    /// again. Returns true if all frames were taken.
    pub fn frames(&mut self, mut take: impl FnMut(Frame<'_>) -> bool) -> bool {
        while let Some((length, ending)) = self.next() {
            let bytes = &self.buffer[self.start..self.start + length];
            if !take(Frame { bytes, ending }) {
                return false;
            }
            self.start += length + usize::from(ending == Ending::Newline);
            self.searched = 0;
        }
        true
    }

    /// Returns the length and the ending of the next frame.
    fn next(&mut self) -> Option<(usize, Ending)> {
        let bytes = &self.buffer[self.start..self.end];
        if let Some(position) = newline(&bytes[self.searched..]) {
            return Some((self.searched + position, Ending::Newline));
        }
        self.searched = bytes.len();
        if bytes.len() > LINE_MAX {
            return Some((split(bytes), Ending::Split));
        }
        let ending = if self.ended {
            Ending::End
        } else {
            Ending::Split
        };
        let is_due = self.ended || self.hasty;
        (is_due && !bytes.is_empty()).then_some((bytes.len(), ending))
    }
}

/// Returns the position of the first newline.
fn newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// Returns the position to split a line that is too long: not within a UTF-8 sequence, which would become two
/// invalid pieces.
fn split(bytes: &[u8]) -> usize {
    let continues = |at: usize| bytes[at] & 0b1100_0000 == 0b1000_0000;
    (LINE_MAX - 3..=LINE_MAX)
        .rev()
        .find(|at| !continues(*at))
        .unwrap_or(LINE_MAX)
}

#[cfg(test)]
mod tests;
