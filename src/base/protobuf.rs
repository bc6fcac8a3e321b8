//! Protocol Buffers: a writer, which appends fields in the order of the calls, and a parser of untyped fields.
//!
//! Source: protobuf.dev, "Encoding".

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;

/// Appends a number in base 128, lowest digits first.
fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Appends a varint field.
pub fn number(to: &mut Vec<u8>, field: u64, value: u64) {
    varint(to, field << 3 | VARINT);
    varint(to, value);
}

/// Appends a fixed64 field.
pub fn fixed(to: &mut Vec<u8>, field: u64, value: u64) {
    varint(to, field << 3 | FIXED64);
    to.extend_from_slice(&value.to_le_bytes());
}

/// Appends a double field.
pub fn double(to: &mut Vec<u8>, field: u64, value: f64) {
    fixed(to, field, value.to_bits());
}

/// Appends a string or bytes field.
pub fn bytes(to: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(to, field << 3 | BYTES);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

/// Appends a message field, whose content `write` appends.
pub fn message(to: &mut Vec<u8>, field: u64, write: impl FnOnce(&mut Vec<u8>)) {
    varint(to, field << 3 | BYTES);
    let start = to.len();
    // The length comes first, but is known last. Most lengths take one byte.
    to.push(0);
    write(to);
    let length = to.len() - start - 1;
    if length < 0x80 {
        to[start] = length as u8;
        return;
    }
    let mut digits = Vec::with_capacity(10);
    varint(&mut digits, length as u64);
    to.splice(start..=start, digits);
}

/// A parsed field.
#[derive(Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Number of the field.
    pub number: u64,
    /// Value of the field.
    pub value: Value<'a>,
}

/// Value of a field.
#[derive(Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint, or four or eight fixed bytes.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

/// Iterates over the fields of a message. The last item is an error if the message is malformed.
pub fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes).ok_or(Malformed);
        if field.is_err() {
            bytes = &[];
        }
        Some(field)
    })
}

/// Error: the bytes are not a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

fn field<'a>(bytes: &mut &'a [u8]) -> Option<Field<'a>> {
    let key = read_varint(bytes)?;
    let value = match key & 7 {
        VARINT => Value::Number(read_varint(bytes)?),
        FIXED64 => Value::Number(little_endian(take(bytes, 8)?)),
        BYTES => {
            let length = usize::try_from(read_varint(bytes)?).ok()?;
            Value::Bytes(take(bytes, length)?)
        }
        5 => Value::Number(little_endian(take(bytes, 4)?)),
        _ => return None,
    };
    let number = key >> 3;
    (number > 0).then_some(Field { number, value })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Reads a varint of at most ten bytes.
fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for digit in 0..10 {
        let byte = take(bytes, 1)?[0];
        let bits = u64::from(byte & 0x7f);
        if digit == 9 && bits > 1 {
            return None;
        }
        number |= bits << (7 * digit);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_encoded_as_in_the_documentation() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&mut bytes);
            bytes
        };
        // protobuf.dev, "A Simple Message", "Length-Delimited Records", "Submessages".
        assert_eq!(written(&|to| number(to, 1, 150)), [0x08, 0x96, 0x01]);
        let testing = [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67];
        assert_eq!(written(&|to| bytes(to, 2, b"testing")), testing);
        let nested = written(&|to| message(to, 3, |to| number(to, 1, 150)));
        assert_eq!(nested, [0x1a, 0x03, 0x08, 0x96, 0x01]);
    }

    #[test]
    fn a_long_message_has_its_length_in_front_of_it() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let content = vec![7; length];
            let mut whole = vec![1];
            message(&mut whole, 9, |to| to.extend_from_slice(&content));
            let mut expected = vec![1];
            bytes(&mut expected, 9, &content);
            assert_eq!(whole, expected);
        }
    }

    #[test]
    fn truncated_fields_and_unknown_types_are_malformed() {
        for bytes in [
            &b"\x08"[..],
            b"\x08\x96",
            b"\x12\x07abc",
            b"\x0b",
            b"\x00\x01",
            b"\x09\x01",
            &[0xff; 11],
        ] {
            assert_eq!(fields(bytes).last(), Some(Err(Malformed)), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn written_fields_are_read_back(field in 1u64..1000, value: u64, content in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut message = Vec::new();
            number(&mut message, field, value);
            fixed(&mut message, field, value);
            bytes(&mut message, field, &content);
            let read: Result<Vec<_>, _> = fields(&message).collect();
            let values = [Value::Number(value), Value::Number(value), Value::Bytes(&content)];
            let expected: Vec<_> = values.into_iter().map(|value| Field { number: field, value }).collect();
            prop_assert_eq!(read.unwrap(), expected);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
