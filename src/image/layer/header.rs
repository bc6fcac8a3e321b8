//! Tar header block: numbers, names, checksum.
//!
//! Source: POSIX.1-2024, pax, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format".

use super::refuse;
use crate::base::error::Result;
use std::ops::Range;

/// Size of a header in bytes.
pub(super) const SIZE: usize = 512;

/// A field of the header: its byte range, and its name in errors.
pub(super) type Field = (Range<usize>, &'static str);

const NAME: Range<usize> = 0..100;
pub(super) const MODE: Field = (100..108, "mode");
pub(super) const UID: Field = (108..116, "uid");
pub(super) const GID: Field = (116..124, "gid");
pub(super) const LENGTH: Field = (124..136, "size");
pub(super) const MTIME: Field = (136..148, "mtime");
const CHECKSUM: Field = (148..156, "checksum");
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const PREFIX: Range<usize> = 345..500;
/// ustar prefix in star's format, which stores atime and ctime in the rest of the field and marks
/// its headers with `STAR_MARK`.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_MARK: Range<usize> = 508..512;
/// Old GNU sparse map: four pairs of offset and length, then a flag and the real size.
const SPARSE: Range<usize> = 386..482;
const SPARSE_MORE: usize = 482;
pub(super) const REAL_SIZE: Field = (483..495, "real size");
/// Sparse map in an extension block: 21 pairs, then a flag.
const EXTENSION: Range<usize> = 0..504;
const EXTENSION_MORE: usize = 504;

/// Bytes of an offset or a length in a sparse map; a pair has one of each.
const SPARSE_NUMBER: usize = 12;

pub(super) struct Header(pub(super) [u8; SIZE]);

impl Header {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Compares the checksum. Some old writers summed signed bytes; both sums are valid.
    pub(super) fn verify(&self) -> Result<()> {
        let expected = self.number(CHECKSUM)?;
        let blank = |at: usize, byte: u8| if CHECKSUM.0.contains(&at) { b' ' } else { byte };
        let bytes = || self.0.iter().enumerate().map(|(at, byte)| blank(at, *byte));
        if bytes().map(i64::from).sum::<i64>() == expected
            || bytes()
                .map(|byte| i64::from(byte.cast_signed()))
                .sum::<i64>()
                == expected
        {
            return Ok(());
        }
        Err(refuse("the checksum of its header is wrong"))
    }

    /// Returns the type flag.
    pub(super) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// Returns the name in the header, with its prefix if the format has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = string(&self.0[NAME]);
        let prefix = match &self.0[MAGIC] {
            b"ustar\x0000" if &self.0[STAR_MARK] == b"tar\0" => string(&self.0[STAR_PREFIX]),
            b"ustar\x0000" => string(&self.0[PREFIX]),
            _ => b"",
        };
        match prefix {
            b"" => name.to_vec(),
            _ => [prefix, b"/", name].concat(),
        }
    }

    /// Returns the link target in the header.
    pub(super) fn link(&self) -> &[u8] {
        string(&self.0[LINK])
    }

    /// Returns a numeric field.
    pub(super) fn number(&self, (range, field): Field) -> Result<i64> {
        number(&self.0[range])
            .ok_or_else(|| refuse(format_args!("the {field} in its header is not a number")))
    }

    /// Returns the old GNU sparse map of a header, and true if an extension block follows.
    pub(super) fn sparse_map(&self) -> Result<(Vec<u64>, bool)> {
        Ok((sparse_numbers(&self.0[SPARSE])?, self.0[SPARSE_MORE] != 0))
    }

    /// Returns the map of an extension block, and true if another one follows.
    pub(super) fn sparse_extension(&self) -> Result<(Vec<u64>, bool)> {
        Ok((
            sparse_numbers(&self.0[EXTENSION])?,
            self.0[EXTENSION_MORE] != 0,
        ))
    }
}

/// Returns offsets and lengths in turn; the first empty pair ends the map.
fn sparse_numbers(map: &[u8]) -> Result<Vec<u64>> {
    map.chunks_exact(2 * SPARSE_NUMBER)
        .take_while(|pair| pair[0] != 0)
        .flat_map(|pair| pair.chunks_exact(SPARSE_NUMBER))
        .map(|field| {
            number(field)
                .and_then(|value| u64::try_from(value).ok())
                .ok_or_else(|| refuse("its sparse map has a wrong number"))
        })
        .collect()
}

/// Returns the bytes before the first NUL.
pub(super) fn string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses a number: octal digits between spaces and NULs, nothing at all for zero, or base 256.
fn number(field: &[u8]) -> Option<i64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        return base256(field);
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let end = field
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |last| last + 1);
    field[start..end]
        .iter()
        .try_fold(0i64, |value, digit| match digit {
            b'0'..=b'7' => Some(value.checked_mul(8)? + i64::from(digit - b'0')),
            _ => None,
        })
}

/// Parses a two's complement, big-endian number. The top bit of the first byte marks the format, the
/// next one is the sign.
fn base256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let first = i64::from((first << 1).cast_signed() >> 1);
    rest.iter().try_fold(first, |value, byte| {
        Some(value.checked_mul(256)? | i64::from(*byte))
    })
}
