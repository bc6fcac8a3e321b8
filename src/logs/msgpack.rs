//! The parts of MessagePack that the forward protocol uses.
//!
//! Source: msgpack/spec.md; the event time is of Fluentd's Forward Protocol Specification v1.

use serde_json::Value;

/// Appends the head of an array with this number of elements.
pub fn array(to: &mut Vec<u8>, elements: u32) {
    sized(
        to,
        elements,
        Some((0x90, 15)),
        [None, Some(0xdc), Some(0xdd)],
    );
}

/// Appends the head of a map with this number of pairs.
pub fn map(to: &mut Vec<u8>, pairs: u32) {
    sized(to, pairs, Some((0x80, 15)), [None, Some(0xde), Some(0xdf)]);
}

/// Appends text; bytes that are not UTF-8 are appended as a bin.
pub fn text(to: &mut Vec<u8>, bytes: &[u8]) {
    if std::str::from_utf8(bytes).is_err() {
        return bin(to, bytes);
    }
    sized(
        to,
        count(bytes.len()),
        Some((0xa0, 31)),
        [Some(0xd9), Some(0xda), Some(0xdb)],
    );
    to.extend_from_slice(bytes);
}

/// Appends bytes.
pub fn bin(to: &mut Vec<u8>, bytes: &[u8]) {
    bin_head(to, bytes.len());
    to.extend_from_slice(bytes);
}

/// Appends the head of a bin of this length.
pub fn bin_head(to: &mut Vec<u8>, length: usize) {
    sized(
        to,
        count(length),
        None,
        [Some(0xc4), Some(0xc5), Some(0xc6)],
    );
}

/// Converts a number of bytes or elements, at most those of a batch.
fn count(length: usize) -> u32 {
    u32::try_from(length).expect("a batch is small")
}

/// Appends a length in its shortest form: in the type's byte up to the maximum that fits there, else in
/// one, two or four bytes after it.
fn sized(to: &mut Vec<u8>, length: u32, fix: Option<(u8, u32)>, forms: [Option<u8>; 3]) {
    match (length, forms) {
        (_, _) if fix.is_some_and(|(_, most)| length <= most) => {
            to.push(fix.map_or(0, |(byte, _)| byte) | length as u8);
        }
        (0..=0xff, [Some(form), ..]) => to.extend_from_slice(&[form, length as u8]),
        (0..=0xffff, [_, Some(form), _]) => {
            to.push(form);
            to.extend_from_slice(&(length as u16).to_be_bytes());
        }
        (_, [.., form]) => {
            to.push(form.expect("every type has the longest form"));
            to.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// Appends a number.
pub fn unsigned(to: &mut Vec<u8>, number: u64) {
    match number {
        0..=0x7f => to.push(number as u8),
        0x80..=0xff => to.extend_from_slice(&[0xcc, number as u8]),
        0x100..=0xffff => {
            to.push(0xcd);
            to.extend_from_slice(&(number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            to.push(0xce);
            to.extend_from_slice(&(number as u32).to_be_bytes());
        }
        _ => {
            to.push(0xcf);
            to.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// Appends true or false.
pub fn boolean(to: &mut Vec<u8>, value: bool) {
    to.push(if value { 0xc3 } else { 0xc2 });
}

/// Appends a time to the nanosecond: ext type 0 of seconds and nanoseconds.
pub fn event_time(to: &mut Vec<u8>, nanoseconds: u64) {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    to.extend_from_slice(&[0xd7, 0x00]);
    // The format ends in the year 2106.
    to.extend_from_slice(&u32::try_from(seconds).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(&(rest as u32).to_be_bytes());
}

/// Appends a JSON value.
pub fn value(to: &mut Vec<u8>, json: &Value) {
    match json {
        Value::Null => to.push(0xc0),
        Value::Bool(value) => boolean(to, *value),
        Value::String(string) => text(to, string.as_bytes()),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => unsigned(to, number),
            (None, Some(number)) => {
                to.push(0xd3);
                to.extend_from_slice(&number.to_be_bytes());
            }
            (None, None) => {
                to.push(0xcb);
                let float = number.as_f64().unwrap_or(f64::NAN);
                to.extend_from_slice(&float.to_be_bytes());
            }
        },
        Value::Array(values) => {
            array(to, count(values.len()));
            values.iter().for_each(|one| value(to, one));
        }
        Value::Object(members) => {
            map(to, count(members.len()));
            for (name, member) in members {
                text(to, name.as_bytes());
                value(to, member);
            }
        }
    }
}

/// Result of reading a value from the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// A value, and the number of bytes it occupied.
    Whole(T, usize),
    /// The value is incomplete.
    Partial,
}

/// Reads a map of strings to strings, as in answers of the forward protocol. Fails on anything else.
pub fn strings(bytes: &[u8]) -> Result<Parsed<Vec<(&str, &str)>>, &'static str> {
    let mut reader = Reader { bytes, at: 0 };
    match reader.strings()? {
        Some(pairs) => Ok(Parsed::Whole(pairs, reader.at)),
        None => Ok(Parsed::Partial),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Result of a read; `None` if the value is incomplete.
type Read<T> = Result<Option<T>, &'static str>;

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self, length: usize) -> Option<usize> {
        let bytes = self.take(length)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        )
    }

    fn strings(&mut self) -> Read<Vec<(&'a str, &'a str)>> {
        // No answer to a batch has more pairs.
        const MOST: usize = 16;
        let Some(head) = self.number(1) else {
            return Ok(None);
        };
        let pairs = match head {
            0x80..=0x8f => Some(head & 15),
            0xde => self.number(2),
            _ => return Err("not a map"),
        };
        let Some(pairs) = pairs else {
            return Ok(None);
        };
        if pairs > MOST {
            return Err("too large a map");
        }
        let mut list = Vec::with_capacity(pairs);
        for _ in 0..pairs {
            let Some(name) = self.string()? else {
                return Ok(None);
            };
            let Some(value) = self.string()? else {
                return Ok(None);
            };
            list.push((name, value));
        }
        Ok(Some(list))
    }

    /// Reads a string, or a bin that is text: some receivers send one for the other.
    fn string(&mut self) -> Read<&'a str> {
        const LONGEST: usize = 4096;
        let Some(head) = self.number(1) else {
            return Ok(None);
        };
        let length = match head {
            0xa0..=0xbf => Some(head & 31),
            0xd9 | 0xc4 => self.number(1),
            0xda | 0xc5 => self.number(2),
            0xdb | 0xc6 => self.number(4),
            _ => return Err("not a string"),
        };
        let Some(length) = length else {
            return Ok(None);
        };
        if length > LONGEST {
            return Err("too long a string");
        }
        let Some(bytes) = self.take(length) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| "a string that is not UTF-8")?;
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests;
