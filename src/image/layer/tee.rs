//! Hashes a stream, and copies it, while it is read.

use crate::base::digest::{Algorithm, Digest, Hasher};
use std::io::{self, BufRead, Read, Write};

/// Number of bytes hashed and written at a time.
const BUFFER: usize = 256 << 10;

/// A buffered reader that hashes all bytes it returns and optionally copies them to a writer.
///
/// A consumer that skips bytes (`fill_buf`, `consume`) copies nothing.
pub struct Tee<'w, R> {
    inner: R,
    copy: Option<&'w mut dyn Write>,
    hasher: Hasher,
    bytes: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<'w, R: Read> Tee<'w, R> {
    /// Creates a reader that hashes the bytes of `inner` and writes them to `copy`, if given.
    pub fn new(inner: R, algorithm: Algorithm, copy: Option<&'w mut dyn Write>) -> Self {
        Tee {
            inner,
            copy,
            hasher: Hasher::new(algorithm),
            bytes: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Returns the digest and the number of all bytes read from the inner reader so far.
    ///
    /// After [`super::scan`], which reads to the end, these are the diff_id and the tar's size.
    pub fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.bytes)
    }

    fn refill(&mut self) -> io::Result<()> {
        let count = loop {
            match self.inner.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        (self.start, self.end) = (0, count);
        let piece = &self.buffer[..count];
        self.hasher.update(piece);
        if let Some(copy) = &mut self.copy {
            copy.write_all(piece)?;
        }
        self.bytes += count as u64;
        Ok(())
    }
}

impl<R: Read> BufRead for Tee<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.refill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(to)?;
        self.consume(count);
        Ok(count)
    }
}
