//! Publishes the shipper's counters while they change.

use crate::base::error::Result;
use crate::logs::Shipper;
use std::time::{Duration, Instant};

/// Interval between two reports: short enough for a viewer, and cheap for a busy container.
const INTERVAL: Duration = Duration::from_secs(1);

/// Schedule of the next report.
pub(super) struct CounterReport<'a> {
    write: Box<dyn FnMut() -> Result<()> + 'a>,
    due: Option<Instant>,
}

impl<'a> CounterReport<'a> {
    /// Makes a schedule without a report due.
    pub fn new(write: Box<dyn FnMut() -> Result<()> + 'a>) -> CounterReport<'a> {
        CounterReport { write, due: None }
    }

    /// Schedules a report within the interval.
    pub fn need(&mut self) {
        if self.due.is_none() {
            self.due = Some(Instant::now() + INTERVAL);
        }
    }

    /// Returns the time of the next report.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Reports if it is time, and again as long as lines wait for a sink.
    pub fn when_due(&mut self, shipper: &Shipper) {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        shipper.report_stalls();
        let waits = shipper.stalled().is_some();
        self.due = waits.then(|| Instant::now() + INTERVAL);
        if let Err(error) = (self.write)() {
            // The container goes on regardless.
            log::warn!("{error}");
            self.due = None;
        }
    }
}
