//! `Content-Range`: the part of a blob in an answer. Source: RFC 9110, section 14.4.

/// A range `bytes FIRST-LAST/TOTAL`, where FIRST ≤ LAST < TOTAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte.
    pub last: u64,
    /// Size of the whole blob in bytes, if the server knows it.
    pub total: Option<u64>,
}

/// Parses a header; `None` if its unit is not bytes or the range is invalid.
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

/// Parses decimal digits without a sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_valid_ranges_are_read() {
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
        fn a_written_range_is_read_back(first: u32, more: u32, behind in 1..u32::MAX) {
            let (first, last) = (u64::from(first), u64::from(first) + u64::from(more));
            let total = Some(last + u64::from(behind));
            let text = format!("bytes {first}-{last}/{}", last + u64::from(behind));
            prop_assert_eq!(parse(&text), Some(ContentRange { first, last, total }));
        }
    }
}
