//! PAX extended headers: `LENGTH KEY=VALUE\n` records.
//!
//! Source: POSIX.1-2024, pax, "pax Extended Header".

use super::refuse;
use crate::base::error::{Error, Result};
use std::collections::BTreeMap;

/// Key prefix of extended attributes in star, GNU tar and Go.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Key of the sparse map in formats 0.0 (joined from its single records) and 0.1.
pub(super) const SPARSE_MAP: &[u8] = b"GNU.sparse.map";

/// Records that imrun uses, by key. An empty value removes a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Records(BTreeMap<Box<[u8]>, Vec<u8>>);

impl Records {
    /// Adds the records of a header's data; later records win.
    pub(super) fn apply(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let (key, value, rest) =
                record(data).ok_or_else(|| refuse("a PAX record is malformed"))?;
            self.set(key, value)?;
            data = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.add_to_map(key, value)?,
            _ if !known(key) => {}
            _ if value.is_empty() => {
                self.0.remove(key);
            }
            _ => {
                self.0.insert(key.into(), value.to_vec());
            }
        }
        Ok(())
    }

    /// Appends a number to the map. Format 0.0 has a record for each number; together they are the map
    /// of format 0.1.
    fn add_to_map(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let map = self.0.entry(SPARSE_MAP.into()).or_default();
        let numbers = if map.is_empty() {
            0
        } else {
            map.split(|b| *b == b',').count()
        };
        if (numbers % 2 == 0) != key.ends_with(b"offset") || value.contains(&b',') {
            return Err(refuse("the PAX records of the sparse map are out of order"));
        }
        if numbers > 0 {
            map.push(b',');
        }
        map.extend_from_slice(value);
        Ok(())
    }

    /// Returns a record's value.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// Returns a record that is a decimal number.
    pub(super) fn number(&self, key: &'static str) -> Result<Option<u64>> {
        self.get(key.as_bytes())
            .map(|value| decimal(value).ok_or_else(|| wrong(key)))
            .transpose()
    }

    /// Returns the modification time in seconds and nanoseconds.
    pub(super) fn mtime(&self) -> Result<Option<(i64, u32)>> {
        self.get(b"mtime")
            .map(|value| time(value).ok_or_else(|| wrong("mtime")))
            .transpose()
    }

    /// Returns names (with their namespaces) and values of extended attributes, sorted by name.
    pub(super) fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0
            .range::<[u8], _>((std::ops::Bound::Included(XATTR), std::ops::Bound::Unbounded))
            .map_while(|(key, value)| Some((key.strip_prefix(XATTR)?, value.as_slice())))
    }
}

fn wrong(key: &str) -> Error {
    refuse(format_args!("the PAX record {key} is not a number"))
}

fn known(key: &[u8]) -> bool {
    matches!(
        key,
        b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime"
    ) || key.starts_with(XATTR)
        || key.starts_with(b"GNU.sparse.")
}

/// Returns the first record's key and value, and the data after it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    let (record, rest) = data.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record
        .iter()
        .position(|byte| *byte == b'=')
        .filter(|at| *at > 0)?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// Parses decimal digits: at least one, and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Parses a time: `-1.25` is 1.25 s before the epoch, which is second -2 and 750,000,000 ns. Digits
/// beyond nanoseconds are cut off, as the kernel does.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = u32::try_from(decimal(&digits.copied().collect::<Vec<_>>())?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}
