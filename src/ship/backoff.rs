//! How long to wait before trying again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential backoff with jitter, from 50 ms to 5 s.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Backoff {
    /// The next wait is the shortest.
    pub fn new() -> Backoff {
        Backoff(FIRST)
    }

    /// How long to wait now: between half of this step and all of it.
    pub fn next(&mut self) -> Duration {
        let step = self.0;
        self.0 = LONGEST.min(step * 2);
        // Many containers lose a sink at the same moment; they should not return at the same one.
        let random = RandomState::new().hash_one(()) as u32;
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// Longest time that an attempt may take.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);

/// How long an answer is waited for: twice as long after each one that did not come in time, so that a
/// slow sink does not get the same lines for ever.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    shortest: Duration,
    now: Duration,
}

impl Attempt {
    /// The first attempts take this long at most.
    pub fn new(shortest: Duration) -> Attempt {
        Attempt {
            shortest,
            now: shortest,
        }
    }

    /// How long an answer may take now.
    pub fn timeout(&self) -> Duration {
        self.now
    }

    /// No answer has come in time.
    pub fn missed(&mut self) {
        self.now = (self.now * 2).min(LONGEST_ATTEMPT).max(self.shortest);
    }

    /// An answer has come after that time: the next may take twice as long.
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
