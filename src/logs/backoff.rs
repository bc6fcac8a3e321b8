//! Delays and time limits of attempts.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential backoff with jitter, from 50 ms to 5 s.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Backoff {
    /// Creates a backoff that starts with the shortest delay.
    pub fn new() -> Backoff {
        Backoff(FIRST)
    }

    /// Returns a random delay between half of the current step and all of it.
    pub fn next(&mut self) -> Duration {
        let step = self.0;
        self.0 = LONGEST.min(step * 2);
        // Many containers lose a sink at the same moment, but should not all retry at the same one.
        let random = RandomState::new().hash_one(()) as u32;
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// Maximum time of an attempt.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);

/// Time limit of an attempt. It doubles after each answer that is late, so that a slow sink does not
/// receive the same lines for ever.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    shortest: Duration,
    now: Duration,
}

impl Attempt {
    /// Creates a limit that starts at `shortest`.
    pub fn new(shortest: Duration) -> Attempt {
        Attempt {
            shortest,
            now: shortest,
        }
    }

    /// Returns the current time limit.
    pub fn timeout(&self) -> Duration {
        self.now
    }

    /// Doubles the limit after a missing answer.
    pub fn missed(&mut self) {
        self.now = (self.now * 2).min(LONGEST_ATTEMPT).max(self.shortest);
    }

    /// Sets the limit to twice the time that an answer took, if that is longer.
    pub fn answered(&mut self, after: Duration) {
        self.now = (after * 2).clamp(self.shortest, LONGEST_ATTEMPT.max(self.shortest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_grow_until_the_sink_answers_and_stay_as_long_as_it_needs() {
        let seconds = Duration::from_secs;
        let mut attempt = Attempt::new(seconds(5));
        for expected in [5, 10, 20, 40, 60, 60] {
            assert_eq!(attempt.timeout(), seconds(expected));
            attempt.missed();
        }
        attempt.answered(seconds(6));
        assert_eq!(attempt.timeout(), seconds(12));
        attempt.answered(seconds(1));
        assert_eq!(attempt.timeout(), seconds(5));
    }

    #[test]
    fn waits_double_from_50_ms_to_5_s_less_at_most_half() {
        let mut backoff = Backoff::new();
        for step in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let wait = backoff.next();
            let longest = Duration::from_millis(step);
            assert!(
                wait >= longest / 2 && wait <= longest,
                "{wait:?} of {longest:?}"
            );
        }
    }
}
