//! Times that others have written.

/// Nanoseconds since 1970 of `2026-11-21T22:55:24.123+01:00` (RFC 3339; ISO 8601's offsets without a
/// colon too). None for what is no time, or outside of 1970 to 2554.
pub fn rfc3339_nanoseconds(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let seconds = seconds([year, month, day], numbers(clock, ':', [2, 2, 2])?)?;
    let seconds = seconds.checked_sub(offset(zone)?)?;
    let nanoseconds = u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?;
    nanoseconds.checked_add(nanoseconds_of(fraction)?)
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7), the form that
/// servers must send.
pub fn http_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = text.split_once(", ")?;
    let [day, month, year, clock, "GMT"] = rest.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let place = MONTHS.find(month).filter(|_| month.len() == 3)?;
    let month = i64::try_from(place / 3 + 1).ok()?;
    let date = [number(year, 4)?, month, number(day, 2)?];
    u64::try_from(seconds(date, numbers(clock, ':', [2, 2, 2])?)?).ok()
}

/// Seconds since 1970 of a date and a time of day that exist. A leap second is the next one.
fn seconds([year, month, day]: [i64; 3], [hour, minute, second]: [i64; 3]) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let exists = (1..=days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let days = days_since_1970(year, month, day);
    exists.then_some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970 to a date of the Gregorian calendar. Years begin in March here, so that the day that
/// leap years have more is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let month = (month + 9) % 12;
    let days = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + days - 719_468
}

/// `Z`, `+01:00`, `-0100`, in seconds.
fn offset(zone: &str) -> Option<i64> {
    let sign = match zone.get(..1)? {
        "Z" | "z" if zone.len() == 1 => return Some(0),
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let rest = &zone[1..];
    let [hours, minutes] = match rest.contains(':') {
        true => numbers(rest, ':', [2, 2])?,
        false => [number(rest.get(..2)?, 2)?, number(rest.get(2..)?, 2)?],
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// What follows a decimal point: one to nine digits.
fn nanoseconds_of(fraction: &str) -> Option<u64> {
    let digits = u32::try_from(fraction.len())
        .ok()
        .filter(|digits| *digits <= 9)?;
    let value = u64::try_from(number(fraction, fraction.len())?).ok()?;
    Some(value * 10_u64.pow(9 - digits))
}

/// Numbers of so many digits each, with that between them.
fn numbers<const N: usize>(text: &str, between: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut found = [0; N];
    for (place, width) in found.iter_mut().zip(widths) {
        *place = number(parts.next()?, width)?;
    }
    parts.next().is_none().then_some(found)
}

/// A number of so many digits, and at least one.
fn number(text: &str, width: usize) -> Option<i64> {
    let digits = text.len() == width && width > 0 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_of_each_form_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            (
                "2026-11-21T22:55:24.123456789Z",
                Some(1_795_301_724_123_456_789),
            ),
            (
                "2026-11-21T23:55:24.5+01:00",
                Some(1_795_301_724_500_000_000),
            ),
            ("2026-11-21T17:55:24-0500", Some(1_795_301_724_000_000_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000_000)),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-21T24:00:00Z", None),
            ("2026-11-21 22:55:24Z", None),
            ("2026-11-21T22:55:24", None),
            ("2026-11-21T22:55:24.Z", None),
            ("2026-11-21T22:55:24.1234567890Z", None),
            ("2026-11-21T22:55:24+é", None),
            ("1969-12-31T23:59:59Z", None),
            ("9999-12-31T23:59:59Z", None),
            ("+026-11-21T22:55:24Z", None),
        ] {
            assert_eq!(rfc3339_nanoseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        for text in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(nanoseconds: u64) {
            let text = crate::time::rfc3339(nanoseconds);
            prop_assert_eq!(rfc3339_nanoseconds(&text), Some(nanoseconds));
        }

        #[test]
        fn any_text_is_judged_without_a_panic(text in "\\PC*", time in "[-0-9T:.Z+é]{0,32}") {
            for text in [&text, &time] {
                let _judged = (rfc3339_nanoseconds(text), http_date(text));
            }
        }
    }
}
