//! Splits a stream of bytes into lines.
//!
//! A line ends with a newline, which is not part of its frame; everything else is, whatever it is:
//! NUL, invalid UTF-8, the CR of a CRLF. A line of more than [`LINE_MAX`] bytes comes in several
//! frames. Where frames begin and end depends on the bytes alone, not on how they were read.

use std::io::{self, Read};

/// The longest frame in bytes.
pub const LINE_MAX: usize = 64 * 1024;

// One byte more than a frame tells whether a line of exactly LINE_MAX bytes ends there.
const CAPACITY: usize = LINE_MAX + 1;

/// A line, or a piece of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The bytes without the newline: at most [`LINE_MAX`].
    pub bytes: &'a [u8],
    /// Why it ends there.
    pub ending: Ending,
}

impl Frame<'_> {
    /// Whether the line goes on in the next frame.
    pub fn partial(&self) -> bool {
        self.ending == Ending::Split
    }
}

/// Why a frame ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A newline.
    Newline,
    /// It is as long as a frame can be.
    Split,
    /// The stream ended without a newline.
    End,
}

/// The bytes of one stream that are not framed or not taken yet: at most one frame's worth.
#[derive(Debug)]
pub struct Framer {
    buffer: Box<[u8]>,
    /// Bytes of `buffer` in use.
    start: usize,
    end: usize,
    /// Up to here, from `start`, there is no newline.
    searched: usize,
    ended: bool,
    /// Bytes do not wait for the end of their line.
    hasty: bool,
}

impl Default for Framer {
    fn default() -> Framer {
        Framer::new()
    }
}

impl Framer {
    /// A framer that has seen nothing.
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

    /// A framer that has seen nothing, and that lets no byte wait for the end of its line.
    pub fn hasty() -> Framer {
        Framer {
            hasty: true,
            ..Framer::new()
        }
    }

    /// Whether there is room to read into: always, once all frames have been taken.
    pub fn has_room(&self) -> bool {
        self.end - self.start < CAPACITY
    }

    /// Reads once, and returns the number of bytes: 0 is the end of the stream, after which the
    /// last line is a frame even without its newline. Fails as the reader does, and with
    /// `WouldBlock` where there is no room.
    pub fn read_from(&mut self, from: &mut impl Read) -> io::Result<usize> {
        if !self.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.buffer.is_empty() {
            // Not before: many an app never writes to one of its streams.
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

    /// Ends the stream without reading: what is left is a frame.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Offers each complete frame to `take`, until it returns false: that frame is offered again
    /// by the next call. Returns whether all were taken.
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

    /// The length and the ending of the next frame.
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

/// The position of the first newline.
fn newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// Where to split a line that is too long: not within a UTF-8 sequence, which would make two
/// invalid pieces of a valid character.
fn split(bytes: &[u8]) -> usize {
    let continues = |at: usize| bytes[at] & 0b1100_0000 == 0b1000_0000;
    (LINE_MAX - 3..=LINE_MAX)
        .rev()
        .find(|at| !continues(*at))
        .unwrap_or(LINE_MAX)
}

#[cfg(test)]
mod tests;
