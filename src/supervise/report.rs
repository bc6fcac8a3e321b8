//! Tells others of the shipper's counters, while there is something new to tell.

use crate::error::Result;
use crate::ship::Shipper;
use std::time::{Duration, Instant};

/// Often enough for who watches, and nothing beside what a busy container costs.
const INTERVAL: Duration = Duration::from_secs(1);

/// When the counters are told next, and how.
pub(super) struct Report<'a> {
    tell: Box<dyn FnMut() -> Result<()> + 'a>,
    due: Option<Instant>,
}

impl<'a> Report<'a> {
    /// Nothing is to be told yet.
    pub fn new(tell: Box<dyn FnMut() -> Result<()> + 'a>) -> Report<'a> {
        Report { tell, due: None }
    }

    /// There is something new: it is told within the interval.
    pub fn need(&mut self) {
        if self.due.is_none() {
            self.due = Some(Instant::now() + INTERVAL);
        }
    }

    /// When it is to be told.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells it if it is time, and again as long as something waits for a sink.
    pub fn when_due(&mut self, shipper: &Shipper) {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        shipper.tell_of_stalls();
        let waits = shipper.stalled().is_some();
        self.due = waits.then(|| Instant::now() + INTERVAL);
        if let Err(error) = (self.tell)() {
            // The container has nothing to do with it.
            log::warn!("{error}");
            self.due = None;
        }
    }
}
