//! Decompression of a layer's blob.

use super::{refuse, too_much};
use crate::base::error::{Context, Result};
use std::io::{self, BufReader, Cursor, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Compression of a layer's blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None: a plain tar.
    None,
    /// RFC 1952; several members are one stream.
    Gzip,
    /// RFC 8878; several frames are one stream.
    Zstd,
    /// Gzip or zstd; the first bytes decide.
    GzipOrZstd,
}

/// Largest zstd window as a power of two: 512 MiB, the limit of the library that Podman, Docker and
/// containerd use (klauspost/compress, `MaxWindowSize`). A decoder takes that much memory.
const ZSTD_WINDOW: u32 = 29;

/// Largest window that several decoders use at the same time: 128 MiB, zstd's default
/// (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`). All levels up to 22 stay within it.
const ZSTD_SHARED_WINDOW: u32 = 27;

/// Lock held while a larger window is decoded, for one layer at a time.
static WIDE: Mutex<()> = Mutex::new(());

/// Number of compressed bytes read at a time.
const INPUT: usize = 64 << 10;

/// Maximum bytes of a zstd frame header (RFC 8878, 3.1.1).
const HEADER: usize = 18;

/// Returns a reader of the uncompressed bytes. Its `read` fails on truncation, wrong checksums and
/// trailing data that is not another member or frame.
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
    if is_zstd {
        Ok(Box::new(Zstd::new(blob, window)?))
    } else {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob)))
    }
}

/// Returns true if the bytes start with a zstd frame or a skippable frame (RFC 8878, 3.1.1 and 3.1.2).
pub fn is_zstd(start: &[u8]) -> bool {
    matches!(
        start,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]
    )
}

/// Returns the window size in bytes that a zstd frame's header requires (RFC 8878, 3.1.1.1); `None`
/// if the bytes are not such a header.
fn window(header: &[u8]) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = header else {
        return None;
    };
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // For a single segment, the window is the content, whose size follows the dictionary's ID.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (length, more) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..length].copy_from_slice(rest.get(dictionary..dictionary + length)?);
    Some(u64::from_le_bytes(size).saturating_add(more))
}

/// A zstd decoder; a large window also holds the lock.
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
