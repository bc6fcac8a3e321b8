//! `Content-Range`: which part of a blob an answer has. Source: RFC 9110, section 14.4.

/// `bytes FIRST-LAST/TOTAL`, where FIRST ≤ LAST < TOTAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The first byte's offset.
    pub first: u64,
    /// The last byte's offset.
    pub last: u64,
    /// Bytes of the whole, where the server knows.
    pub total: Option<u64>,
}

/// The range of a header; none where it names no bytes, or some that cannot be.
pub fn parse(header: &str) -> Option<ContentRange> {
    let (unit, range) = header.split_once(' ')?;
    let (range, total) = range.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let (first, last) = (number(first)?, number(last)?);
    let possible = first <= last && total.is_none_or(|total| last < total);
    (unit.eq_ignore_ascii_case("bytes") && possible).then_some(ContentRange { first, last, total })
}

/// Decimal digits and nothing else, not even a sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_ranges_that_can_be_are_read() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        assert_eq!(parse("bytes 0-0/1"), range(0, 0, Some(1)));
        assert_eq!(parse("Bytes 5-9/*"), range(5, 9, None));
        for wrong in [
            "",
            "bytes",
            "bytes */10",
            "bytes 1-0/9",
            "bytes 0-9/9",
            "bytes +0-1/9",
            "bytes 0-1",
            "items 0-1/9",
            "bytes 0-1/",
            "bytes 0-99999999999999999999/*",
            "bytes  0-1/9",
            "bytes 0-1/9 ",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(first: u32, more: u32, behind in 1..u32::MAX) {
            let (first, last) = (u64::from(first), u64::from(first) + u64::from(more));
            let total = Some(last + u64::from(behind));
            let text = format!("bytes {first}-{last}/{}", last + u64::from(behind));
            prop_assert_eq!(parse(&text), Some(ContentRange { first, last, total }));
        }
    }
}
