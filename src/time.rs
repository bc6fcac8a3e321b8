//! Times as text: RFC 3339, UTC; durations as they are typed.
#![forbid(unsafe_code)]

mod read;

use crate::error::{Error, Result};
pub use read::{http_date, rfc3339_nanoseconds};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, to the millisecond.
pub fn now() -> String {
    let text = rfc3339(nanoseconds());
    format!("{}Z", &text[..text.len() - "000000Z".len()])
}

/// Nanoseconds since the epoch; 0 on a host whose clock is before it.
pub fn nanoseconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// `500ms`, `2s`, `1m`, `1h`.
pub fn duration(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::usage(
            format_args!("duration {text:?}"),
            "is not like 500ms, 2s, 1m or 1h",
        )
    };
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// `2026-11-21T22:55:24.123456789Z` for nanoseconds since the epoch.
pub fn rfc3339(nanoseconds: u64) -> String {
    String::from_utf8_lossy(&text(nanoseconds)).into_owned()
}

/// The same as bytes. 2^64 nanoseconds end in the year 2554: it has four digits.
fn text(nanoseconds: u64) -> [u8; 30] {
    let (seconds, fraction) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    for (place, number) in [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, second / 3600),
        (14..16, second / 60 % 60),
        (17..19, second % 60),
        (20..29, fraction),
    ] {
        digits(&mut text[place], number);
    }
    text
}

/// Writes times as [`rfc3339`] does; faster where many are of the same second.
#[derive(Debug)]
pub struct Clock {
    nanoseconds: u64,
    text: [u8; 30],
}

impl Default for Clock {
    fn default() -> Clock {
        Clock {
            nanoseconds: 0,
            text: *b"1970-01-01T00:00:00.000000000Z",
        }
    }
}

impl Clock {
    /// The text of a time; 2^64 nanoseconds end in the year 2554.
    pub fn rfc3339(&mut self, nanoseconds: u64) -> &[u8] {
        const SECOND: u64 = 1_000_000_000;
        let before = std::mem::replace(&mut self.nanoseconds, nanoseconds);
        // Lines of one read are a nanosecond apart.
        if nanoseconds == before.wrapping_add(1) && self.text[28] != b'9' {
            self.text[28] += 1;
            return &self.text;
        }
        if nanoseconds / SECOND != before / SECOND {
            self.text = text(nanoseconds);
            return &self.text;
        }
        self.text[20..29].fill(b'0');
        digits(&mut self.text[20..29], nanoseconds % SECOND);
        &self.text
    }
}

/// Writes a number in decimal at the end of a slice that has room for it; returns where it begins.
pub fn digits(to: &mut [u8], mut number: u64) -> usize {
    let mut start = to.len();
    // Two digits a division.
    while number >= 10 {
        let pair = usize::from((number % 100) as u8) * 2;
        number /= 100;
        start -= 2;
        to[start..start + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if number > 0 || start == to.len() {
        start -= 1;
        to[start] = b'0' + number as u8;
    }
    start
}

/// `00` to `99`.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut number = 0;
    while number < 100 {
        pairs[2 * number] = b'0' + (number / 10) as u8;
        pairs[2 * number + 1] = b'0' + (number % 10) as u8;
        number += 1;
    }
    pairs
};

/// Year, month and day of a day number since the epoch, in the Gregorian calendar.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153; // March is 0
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_writes_the_same_in_any_order() {
        let mut clock = Clock::default();
        for time in [
            0,
            1,
            999_999_999,
            1_709_251_199_123_456_789,
            1_709_251_199_000_000_001,
            5,
        ] {
            assert_eq!(clock.rfc3339(time), rfc3339(time).as_bytes());
        }
        assert_eq!(clock.rfc3339(u64::MAX), rfc3339(u64::MAX).as_bytes());
    }

    #[test]
    fn known_times_have_their_known_texts() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000), text);
        }
        assert_eq!(rfc3339(123_456_789), "1970-01-01T00:00:00.123456789Z");
        assert_eq!(now().len(), "2026-11-21T22:55:24.123Z".len());
    }
}
