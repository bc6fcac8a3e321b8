//! The bounded buffer between the supervisor and the shipper's thread.
//!
//! Events occupy space until the sink has acknowledged or rejected them, so events in flight count too. The
//! supervisor never waits for the buffer without a deadline.

use super::event::{Batch, Event, Stream, line_cost, record_cost};
use super::frame::{Ending, Frame};
use super::notice::Notice;
use super::sink::{Failure, FailureKind};
use crate::base::time::nanoseconds;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of empty batches kept for reuse.
const SPARES: usize = 2;

/// Result of pushing an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Queued with this sequence number.
    Taken(u64),
    /// No room; a notice follows when there is room.
    Full,
}

/// End of a wait before another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The wait lasted its full time.
    Over,
    /// The drain began: the next attempt follows immediately.
    Cut,
    /// The buffer was closed: no further attempt follows.
    Closed,
}

/// A sink that makes no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Time that the oldest event has waited.
    pub since: Duration,
    /// Last error of the sink during the stall, if any.
    pub failure: Option<Failure>,
}

/// Counters of a launch's lines. A line in several pieces counts once for each piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Lines offered: the sum of all other counters except `retried`.
    pub read: u64,
    /// Lines that the sink acknowledged.
    pub acknowledged: u64,
    /// Lines dropped because the buffer was full.
    pub dropped: u64,
    /// Lines that the sink rejected permanently.
    pub rejected: u64,
    /// Lines neither acknowledged nor rejected yet.
    pub pending: u64,
    /// Number of times that a line was sent again.
    pub retried: u64,
    /// Records of imrun neither acknowledged nor rejected yet.
    #[serde(skip)]
    pub pending_records: u64,
    /// Records that were dropped or permanently rejected.
    #[serde(skip)]
    pub lost_records: u64,
}

/// Result of one attempt to send a batch.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Bytes freed by the settled events.
    pub freed: usize,
    /// First event that was sent but is not settled.
    pub unsettled: Option<u64>,
    /// Acknowledged lines and records.
    pub acknowledged: Tally,
    /// Rejected lines and records.
    pub rejected: Tally,
    /// Lines to send again.
    pub again: u64,
    /// Explanation of the sink for the last rejected event.
    pub why: Option<String>,
}

/// A number of events.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Lines of the container.
    pub lines: u64,
    /// Records of imrun.
    pub records: u64,
}

impl Tally {
    /// Counts one more event.
    pub fn add(&mut self, event: &Event<'_>) {
        if event.body.is_line() {
            self.lines += 1
        } else {
            self.records += 1
        }
    }
}

/// Buffer shared by the supervisor, which pushes events, and the shipper's thread, which takes and
/// settles them.
#[derive(Debug)]
pub struct Buffer {
    state: Mutex<State>,
    /// Wakes the shipper's thread when there is work.
    work: Condvar,
    /// Wakes threads that wait for settled events.
    settled: Condvar,
    notice: Arc<Notice>,
    capacity: usize,
    /// True if the sink shows the unmodified bytes.
    bare: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Queued batches; only the last one grows.
    queue: VecDeque<Batch>,
    spares: Vec<Batch>,
    /// Bytes occupied by queued events and events in flight.
    used: usize,
    sequence: u64,
    /// Time of the last event.
    time: u64,
    settled_through: u64,
    started: bool,
    counters: Counters,
    /// Start of the time without progress, if events wait.
    waiting_since: Option<Instant>,
    /// True if a push found no room, so that a notice is due.
    wanted: bool,
    /// True while the shipper's thread waits for work; waking it costs a system call.
    idle: bool,
    /// True while a thread waits for settled events.
    watched: bool,
    draining: bool,
    /// True once the last record was pushed.
    parting: bool,
    closed: bool,
    /// True if the operator was told of the current stall.
    reported: bool,
    last_failure: Option<Failure>,
    last_rejection: Option<String>,
    failed: Option<Failure>,
}

impl State {
    fn fits(&self, cost: usize, capacity: usize) -> bool {
        // An empty buffer accepts an event of any size, which would otherwise never fit.
        self.used == 0 || self.used.saturating_add(cost) <= capacity
    }

    fn push_line(&mut self, stream: Stream, bytes: &[u8], partial: bool) -> u64 {
        self.counters.read += 1;
        self.counters.pending += 1;
        let (time, sequence) = self.stamp(line_cost(bytes.len()));
        let batch = self.open_batch(bytes.len());
        batch.push_line(time, sequence, stream, bytes, partial);
        sequence
    }

    fn push_record(&mut self, kind: &'static str, fields: serde_json::Value) -> u64 {
        self.counters.pending_records += 1;
        let (time, sequence) = self.stamp(record_cost(&fields));
        self.open_batch(0).push_record(time, sequence, kind, fields);
        sequence
    }

    /// Reserves space for an event. Returns its time and its sequence number.
    fn stamp(&mut self, cost: usize) -> (u64, u64) {
        self.sequence += 1;
        self.time += 1;
        self.used = self.used.saturating_add(cost);
        if self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
        (self.time, self.sequence)
    }

    /// Returns the batch that one more line of this length is added to.
    fn open_batch(&mut self, length: usize) -> &mut Batch {
        if !self.queue.back().is_some_and(|batch| batch.fits(length)) {
            self.queue.push_back(self.spares.pop().unwrap_or_default());
        }
        self.queue.back_mut().expect("one was pushed")
    }

    fn settle(&mut self, settlement: Settlement) {
        let Settlement {
            acknowledged,
            rejected,
            ..
        } = settlement;
        self.used = self.used.saturating_sub(settlement.freed);
        self.counters.acknowledged += acknowledged.lines;
        self.counters.rejected += rejected.lines;
        self.counters.lost_records += rejected.records;
        self.counters.pending -= acknowledged.lines + rejected.lines;
        self.counters.pending_records -= acknowledged.records + rejected.records;
        self.counters.retried += settlement.again;
        self.started |= acknowledged.lines + acknowledged.records > 0;
        let unsettled = settlement
            .unsettled
            .or(self.queue.front().and_then(Batch::first));
        self.settled_through = unsettled.map_or(self.sequence, |sequence| sequence - 1);
        self.last_rejection = settlement.why.or(self.last_rejection.take());
        if settlement.freed > 0 {
            (self.last_failure, self.reported) = (None, false);
            self.waiting_since = (self.used > 0).then(Instant::now);
        }
    }
}

impl Buffer {
    /// Creates an empty buffer of `capacity` bytes.
    pub fn new(capacity: usize, notice: Arc<Notice>) -> Buffer {
        Buffer {
            state: Mutex::default(),
            work: Condvar::new(),
            settled: Condvar::new(),
            notice,
            capacity,
            bare: false,
        }
    }

    /// Turns it into a buffer for a sink that shows the unmodified bytes.
    pub fn bare(self) -> Buffer {
        Buffer { bare: true, ..self }
    }

    /// Locks the buffer for events that were read or made now.
    pub fn open(&self) -> Open<'_> {
        let mut state = self.lock();
        // Each event has a unique time, because receivers sort by it.
        state.time = state.time.max(nanoseconds().saturating_sub(1));
        Open {
            buffer: self,
            state,
        }
    }

    /// Waits for a batch to ship; `None` once the buffer is closed.
    pub fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        state.idle = true;
        let waits = |state: &mut State| state.queue.is_empty() && !state.closed;
        let guard = self.work.wait_while(state, waits);
        let mut state = guard.unwrap_or_else(PoisonError::into_inner);
        state.idle = false;
        state.queue.pop_front().filter(|_| !state.closed)
    }

    /// Waits for a batch to ship until the given time.
    pub fn take_until(&self, until: Instant) -> Option<Batch> {
        let mut state = self.lock();
        state.idle = true;
        let left = until.saturating_duration_since(Instant::now());
        let waits = |state: &mut State| state.queue.is_empty() && !state.closed;
        let result = self.work.wait_timeout_while(state, left, waits);
        let (mut state, _) = result.unwrap_or_else(PoisonError::into_inner);
        state.idle = false;
        state.queue.pop_front()
    }

    /// Returns a batch to ship, if there is one.
    pub fn try_take(&self) -> Option<Batch> {
        self.lock().queue.pop_front()
    }

    /// Returns a batch of settled events for reuse.
    pub fn recycle(&self, mut batch: Batch) {
        batch.clear();
        let mut state = self.lock();
        if state.spares.len() < SPARES {
            state.spares.push(batch);
        }
    }

    /// Waits before another attempt; returns immediately once the buffer is closed. The beginning of the
    /// drain ends the wait unless it is `firm`.
    pub fn pause(&self, duration: Duration, firm: bool) -> Pause {
        let state = self.lock();
        let firm = firm || state.draining;
        let waits = |state: &mut State| !state.closed && (firm || !state.draining);
        let result = self.work.wait_timeout_while(state, duration, waits);
        let (state, _) = result.unwrap_or_else(PoisonError::into_inner);
        match (state.closed, state.draining && !firm) {
            (true, _) => Pause::Closed,
            (false, true) => Pause::Cut,
            (false, false) => Pause::Over,
        }
    }

    /// Returns true if events should be shipped without delay: they fill much of the buffer, or only the
    /// last record is left.
    pub fn is_pressed(&self) -> bool {
        let state = self.lock();
        state.parting || state.used > self.capacity / 16
    }

    /// Marks the next record as the last one.
    pub fn part(&self) {
        self.lock().parting = true;
    }

    /// Records the result of an attempt and notifies waiting threads.
    pub fn settle(&self, settlement: Settlement) {
        let mut state = self.lock();
        let started = state.started;
        state.settle(settlement);
        // Notifies at half capacity, so that the supervisor does not wake up for every line.
        let room = state.wanted && state.used <= self.capacity / 2;
        state.wanted &= !room;
        let drained = state.draining && state.used == 0;
        if room || drained || state.started != started {
            self.notice.give();
        }
        if state.watched {
            self.settled.notify_all();
        }
    }

    /// Records a failed attempt at `again` lines, which will be sent again.
    pub fn retry(&self, failure: Failure, again: u64) {
        let mut state = self.lock();
        state.counters.retried += again;
        state.last_failure = Some(failure);
    }

    /// Records that the sink failed for good.
    pub fn fail(&self, failure: Failure) {
        self.lock().failed = Some(failure);
        self.notice.give();
        self.settled.notify_all();
    }

    /// Makes the shipper send without delays and notify when all events are settled.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.work.notify_all();
    }

    /// Makes the shipper's thread end before its next attempt.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }

    /// Waits until all events up to `sequence` are settled, the sink failed or the deadline passed.
    /// Returns true if they are settled.
    pub fn wait_settled(&self, sequence: u64, deadline: Instant) -> bool {
        self.wait(deadline, |state| state.settled_through >= sequence)
    }

    /// Waits until nothing is left, the sink failed or the deadline passed. Returns true if nothing is left.
    pub fn wait_drained(&self, deadline: Instant) -> bool {
        self.wait(deadline, |state| state.used == 0)
    }

    fn wait(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waits = |state: &mut State| !done(state) && state.failed.is_none();
        let mut state = self.lock();
        state.watched = true;
        let result = self.settled.wait_timeout_while(state, left, waits);
        let (mut state, _) = result.unwrap_or_else(PoisonError::into_inner);
        state.watched = false;
        done(&state)
    }

    /// Returns true if all events up to `sequence` are settled.
    pub fn is_settled(&self, sequence: u64) -> bool {
        self.lock().settled_through >= sequence
    }

    /// Returns true if the sink has acknowledged anything.
    pub fn has_started(&self) -> bool {
        self.lock().started
    }

    /// Returns the current counters.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Returns the time that events have waited without progress.
    pub fn stalled(&self) -> Option<Duration> {
        self.lock().waiting_since.map(|since| since.elapsed())
    }

    /// Returns a stall that must be reported to the operator, once per stall: the sink acknowledged
    /// nothing for `after`, or refuses its events.
    pub fn stall_to_report(&self, after: Duration) -> Option<Stall> {
        let mut state = self.lock();
        let since = state.waiting_since?.elapsed();
        let failure = state.last_failure.clone();
        let refuses = |failure: &Failure| failure.kind == FailureKind::Refused;
        let is_due = since >= after || failure.as_ref().is_some_and(refuses);
        let report = is_due && !state.reported;
        state.reported |= is_due;
        report.then_some(Stall { since, failure })
    }

    /// Returns the error for which the sink was given up.
    pub fn failed(&self) -> Option<Failure> {
        self.lock().failed.clone()
    }

    /// Returns the error of the last failed attempt, even if it was retried.
    pub fn last_failure(&self) -> Option<Failure> {
        let state = self.lock();
        state.failed.clone().or_else(|| state.last_failure.clone())
    }

    /// Returns the sink's explanation for the last event that it rejected permanently.
    pub fn last_rejection(&self) -> Option<String> {
        self.lock().last_rejection.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A locked buffer, to which its owner adds events. Dropping it wakes the shipper's thread.
pub struct Open<'a> {
    buffer: &'a Buffer,
    state: MutexGuard<'a, State>,
}

impl Open<'_> {
    /// Returns true if a line of this size fits; otherwise a notice follows when there is room.
    pub fn has_room(&mut self, size: usize) -> bool {
        let fits = self.state.fits(line_cost(size), self.buffer.capacity);
        self.state.wanted |= !fits;
        fits
    }

    /// Queues a line if it fits.
    pub fn push_line(&mut self, stream: Stream, bytes: &[u8], partial: bool) -> Pushed {
        if self.has_room(bytes.len()) {
            Pushed::Taken(self.state.push_line(stream, bytes, partial))
        } else {
            Pushed::Full
        }
    }

    /// Queues a frame if it fits. A last line without a newline counts as a line, except for sinks that
    /// show the unmodified bytes.
    pub fn push_frame(&mut self, stream: Stream, frame: Frame<'_>) -> Pushed {
        let goes_on = frame.partial() || self.buffer.bare && frame.ending == Ending::End;
        self.push_line(stream, frame.bytes, goes_on)
    }

    /// Drops `lines` lines. Their sequence numbers stay unused, so that the receiver sees the gap.
    pub fn drop_lines(&mut self, lines: u64) {
        self.state.sequence += lines;
        self.state.counters.read += lines;
        self.state.counters.dropped += lines;
    }

    /// Queues a record if it fits; otherwise counts it as lost.
    pub fn push_record(&mut self, kind: &'static str, fields: serde_json::Value) -> Pushed {
        if !self.state.fits(record_cost(&fields), self.buffer.capacity) {
            self.state.sequence += 1;
            self.state.counters.lost_records += 1;
            return Pushed::Full;
        }
        Pushed::Taken(self.state.push_record(kind, fields))
    }

    /// Queues a record even if the buffer is full.
    pub fn force_record(&mut self, kind: &'static str, fields: serde_json::Value) -> u64 {
        self.state.push_record(kind, fields)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.state.idle && !self.state.queue.is_empty() {
            // The thread is woken only once.
            self.state.idle = false;
            self.buffer.work.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
