//! Fast encoding of JSON strings and numbers (RFC 8259).

/// Appends a string with its quotes.
pub fn append_string(to: &mut Vec<u8>, text: &str) {
    to.push(b'"');
    append_text(to, text.as_bytes());
    to.push(b'"');
}

/// Appends the contents of a string; bytes that are not UTF-8 become U+FFFD.
pub fn append_lossy(to: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain_ascii(bytes) {
        return to.extend_from_slice(bytes);
    }
    if std::str::from_utf8(bytes).is_ok() {
        return append_text(to, bytes);
    }
    for chunk in bytes.utf8_chunks() {
        append_text(to, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            to.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Returns true if all bytes are ASCII and none needs escaping, as in most lines. Has no branch per
/// byte, so that the compiler vectorises it.
fn is_plain_ascii(bytes: &[u8]) -> bool {
    let plain = |block: &[u8]| {
        let bad = |byte: &u8| is_special(*byte) | !byte.is_ascii();
        !block.iter().fold(false, |found, byte| found | bad(byte))
    };
    let (blocks, rest) = bytes.as_chunks::<32>();
    blocks.iter().all(|block| plain(block)) && plain(rest)
}

/// Appends valid UTF-8, escaped.
fn append_text(to: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let (plain, rest) = text.split_at(plain(text));
        to.extend_from_slice(plain);
        let Some((special, rest)) = rest.split_first() else {
            return;
        };
        escape(to, *special);
        text = rest;
    }
}

/// Returns the number of bytes before the first one that must be escaped.
fn plain(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each zero byte. A byte above a zero byte may be marked wrongly, but the lowest
        // mark is always right.
        let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found = control
            | zero(word ^ (ONES * u64::from(b'"')))
            | zero(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let position = rest.iter().position(|byte| is_special(*byte));
    text.len() - rest.len() + position.unwrap_or(rest.len())
}

fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

fn escape(to: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => to.extend_from_slice(b"\\\""),
        b'\\' => to.extend_from_slice(b"\\\\"),
        b'\n' => to.extend_from_slice(b"\\n"),
        b'\r' => to.extend_from_slice(b"\\r"),
        b'\t' => to.extend_from_slice(b"\\t"),
        _ => {
            let digits = [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ];
            to.extend_from_slice(b"\\u00");
            to.extend_from_slice(&digits);
        }
    }
}

/// Appends a number in decimal.
pub fn append_number(to: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let start = crate::base::time::digits(&mut digits, number);
    to.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>(), more in "[ -~\n\"\\\\\0\x1f\x7f€]{0,40}") {
            for text in [text, more] {
                let mut json = Vec::new();
                append_string(&mut json, &text);
                prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
            }
        }

        #[test]
        fn any_bytes_come_back_as_far_as_they_are_text(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut json = vec![b'"'];
            append_lossy(&mut json, &bytes);
            json.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_number_is_written_as_it_is(number in any::<u64>()) {
            let mut text = Vec::new();
            append_number(&mut text, number);
            prop_assert_eq!(text, number.to_string().into_bytes());
        }
    }

    #[test]
    fn every_byte_is_escaped_or_not_wherever_it_stands() {
        for byte in 0..=0x7f_u8 {
            for place in 0..20 {
                let mut text = [b'x'; 20];
                text[place] = byte;
                assert_eq!(
                    plain(&text) == 20,
                    !is_special(byte),
                    "{byte:#x} at {place}"
                );
                assert!(plain(&text) == 20 || plain(&text) == place);
                let ascii = is_plain_ascii(&[text, text].concat()[..40]);
                assert_eq!(ascii, !is_special(byte), "{byte:#x} at {place}");
            }
        }
    }
}
