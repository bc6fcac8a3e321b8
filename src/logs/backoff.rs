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

#[cfg(test)]
mod tests {
    use super::*;

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
