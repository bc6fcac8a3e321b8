//! Decompression of a layer's blob.

use crate::base::error::{Context, Result};
use std::io::{BufReader, Read};

/// How a layer's blob is compressed; its media type says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952; several members are one stream.
    Gzip,
    /// RFC 8878; several frames are one stream.
    Zstd,
}

/// The largest zstd window, as a power of two: zstd's own default for its decoder
/// (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`), which every level up to 22 stays within. Memory is taken
/// by what a frame asks for, up to this.
const ZSTD_WINDOW: u32 = 27;

/// Compressed bytes read at a time.
const INPUT: usize = 64 << 10;

/// A reader of the uncompressed bytes. Truncation, wrong checksums and anything behind the last
/// member or frame that is not another one are errors of its `read`.
pub fn decoder<'a>(compression: Compression, blob: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => {
            let blob = BufReader::with_capacity(INPUT, blob);
            Box::new(flate2::bufread::MultiGzDecoder::new(blob))
        }
        Compression::Zstd => Box::new(zstd(blob).context(|| "prepare zstd")?),
    })
}

fn zstd<R: Read>(blob: R) -> std::io::Result<zstd::Decoder<'static, BufReader<R>>> {
    let mut decoder = zstd::Decoder::new(blob)?;
    decoder.window_log_max(ZSTD_WINDOW)?;
    Ok(decoder)
}
