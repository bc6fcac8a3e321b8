//! Decompression of a layer's blob.

use super::{refuse, too_much};
use crate::error::{Context, Result};
use std::io::{self, BufReader, Cursor, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952; several members are one stream.
    Gzip,
    /// RFC 8878; several frames are one stream.
    Zstd,
    /// One of the two, as the first bytes say.
    GzipOrZstd,
}

/// The largest zstd window, as a power of two: 512 MiB, as the library of Podman, Docker and
/// containerd has it (klauspost/compress, `MaxWindowSize`). A decoder takes that much memory.
const ZSTD_WINDOW: u32 = 29;

/// The largest window of which several are decoded at once: 128 MiB, zstd's own default
/// (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`), which every level up to 22 stays within.
const ZSTD_SHARED_WINDOW: u32 = 27;

/// Held while a larger window is decoded: one layer at a time.
static WIDE: Mutex<()> = Mutex::new(());

/// Compressed bytes read at a time.
const INPUT: usize = 64 << 10;

/// Bytes of the longest zstd frame header (RFC 8878, 3.1.1).
const HEADER: usize = 18;

/// A reader of the uncompressed bytes. Truncation, wrong checksums and anything behind the last
/// member or frame that is not another one are errors of its `read`.
pub fn decoder<'a>(compression: Compression, blob: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    if compression == Compression::None {
        return Ok(Box::new(blob));
    }
    let mut blob = blob;
    let mut start = Vec::with_capacity(HEADER);
    let read = (&mut blob).take(HEADER as u64).read_to_end(&mut start);
    read.map_err(super::stream::read_error)?;
    if start.is_empty() {
        return Err(refuse("the compressed stream is truncated"));
    }
    let is_zstd = match compression {
        Compression::GzipOrZstd => is_zstd(&start),
        other => other == Compression::Zstd,
    };
    let window = window(&start);
    let blob = BufReader::with_capacity(INPUT, Cursor::new(start).chain(blob));
    match is_zstd {
        true => Ok(Box::new(Zstd::new(blob, window)?)),
        false => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob))),
    }
}

/// Whether bytes start with a zstd frame, or one that is to be skipped (RFC 8878, 3.1.1 and 3.1.2).
pub fn is_zstd(start: &[u8]) -> bool {
    matches!(
        start,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]
    )
}

/// Bytes of the window that a zstd frame's header asks for (RFC 8878, 3.1.1.1); `None` where that
/// is no such header.
fn window(header: &[u8]) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = header else {
        return None;
    };
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // A single segment: its window is its content, whose size stands behind the dictionary's id.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (length, more) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..length].copy_from_slice(rest.get(dictionary..dictionary + length)?);
    Some(u64::from_le_bytes(size).saturating_add(more))
}

/// A zstd decoder with its turn, where its window is a large one.
struct Zstd<R: io::BufRead> {
    decoder: zstd::Decoder<'static, R>,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl<R: io::BufRead> Zstd<R> {
    fn new(blob: R, window: Option<u64>) -> Result<Zstd<R>> {
        let window = window.unwrap_or(0);
        if window > 1 << ZSTD_WINDOW {
            let why = format_args!(
                "its zstd window is {} MiB; imrun reads up to {} MiB, as Podman does",
                window >> 20,
                1 << (ZSTD_WINDOW - 20)
            );
            return Err(too_much(why).hint("compress it with zstd --long=29 or less"));
        }
        let is_wide = window > 1 << ZSTD_SHARED_WINDOW;
        let turn = is_wide.then(|| WIDE.lock().unwrap_or_else(PoisonError::into_inner));
        let limit = if is_wide {
            ZSTD_WINDOW
        } else {
            ZSTD_SHARED_WINDOW
        };
        let prepare = || {
            let mut decoder = zstd::Decoder::with_buffer(blob)?;
            decoder.window_log_max(limit)?;
            Ok::<_, io::Error>(decoder)
        };
        Ok(Zstd {
            decoder: prepare().context(|| "prepare zstd")?,
            _turn: turn,
        })
    }
}

impl<R: io::BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer)
    }
}
