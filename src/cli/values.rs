//! Values of options: durations, sizes.

use crate::base::error::{Error, Result};

pub use crate::base::time::duration;

/// Parses a size in bytes: `512`, `64K`, `1M`, `2G`.
pub fn size(text: &str) -> Result<usize> {
    let wrong = || {
        Error::usage(
            format_args!("size {text:?}"),
            "expected a number of bytes, or with a unit: 64K, 1M or 2G",
        )
    };
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let number: usize = number.parse().map_err(|_| wrong())?;
    let shift = match unit {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(wrong)
}

/// Shows a size in bytes as people read it: `512 B`, `1.9 MiB`.
pub fn show_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < units.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    let digits = usize::from(unit > 0);
    format!("{size:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_984_512, "1.9 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(show_size(bytes), shown);
        }
    }

    #[test]
    fn durations_need_a_unit_and_sizes_may_have_one() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        assert_eq!(size("64K").unwrap(), 65_536);
        assert_eq!(size("7").unwrap(), 7);
        for wrong in ["", "5", "s", "-1s", "1.5s", "99999999999999999999s", "1 s"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken");
        }
        for wrong in ["", "0", "K", "1KB", "99999999999G", "-1"] {
            assert!(size(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
