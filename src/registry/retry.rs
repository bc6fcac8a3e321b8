//! Number and delays of retries after failures.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

/// Maximum number of consecutive failures.
const ATTEMPTS: u32 = 5;
/// Delay after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(200);
/// Maximum delay that a server may request.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Retry policy of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Never: the request would fail again.
    Never,
    /// Retry only if the server was reachable before: no connection could be made.
    Nobody,
    /// Retry after a delay.
    Soon,
    /// Retry after the delay that the server requests.
    After(Duration),
}

/// Number of failures since the last success.
#[derive(Debug, Default)]
pub struct Retries(u32);

impl Retries {
    /// Returns the delay before the next attempt, or `None` if there is none.
    pub fn next(&mut self, again: Again) -> Option<Duration> {
        self.0 += 1;
        if self.0 >= ATTEMPTS {
            return None;
        }
        match again {
            Again::Never | Again::Nobody => None,
            Again::After(wait) => (wait <= LONGEST).then_some(wait),
            Again::Soon => Some(jittered(FIRST * 2_u32.pow(self.0 - 1))),
        }
    }

    /// Resets the count after progress.
    pub fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Returns a random delay between half of `step` and all of it, so that clients do not retry at the same
/// time.
fn jittered(step: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) as u32;
    step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Parses `Retry-After`: seconds or a date; a number that is too large counts as the largest one. Source: RFC 9110, section 10.2.3.
pub fn after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(header.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let mut retries = Retries::default();
        for step in [200, 400, 800, 1600] {
            let wait = retries.next(Again::Soon).unwrap();
            let longest = Duration::from_millis(step);
            assert!(
                wait >= longest / 2 && wait <= longest,
                "{wait:?} of {longest:?}"
            );
        }
        assert_eq!(retries.next(Again::Soon), None);
        retries.reset();
        assert!(retries.next(Again::Soon).is_some());
        assert_eq!(retries.next(Again::Never), None);
    }

    #[test]
    fn a_server_may_ask_for_a_minute_and_no_more() {
        let after = |seconds| Retries::default().next(Again::After(Duration::from_secs(seconds)));
        assert_eq!(after(60), Some(LONGEST));
        assert_eq!(after(61), None);
    }

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(after("120", now), seconds(120));
        assert_eq!(after("99999999999999999999", now), seconds(u64::MAX));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:47 GMT", now), seconds(10));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:07 GMT", now), seconds(0));
        for wrong in ["", "-1", "1.5", "soon", "Sun, 66 Nov 1994 08:49:37 GMT"] {
            assert_eq!(after(wrong, now), None, "{wrong:?} was taken");
        }
    }
}
