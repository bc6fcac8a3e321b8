//! The one bounded buffer between the supervisor and the shipper's thread.
//!
//! Events are charged for until the sink has acknowledged or rejected them, so the events in
//! flight count too. The supervisor's side never waits, but for a deadline.

use super::event::{Batch, Event, Stream, line_cost, record_cost};
use super::frame::{Ending, Frame};
use super::notice::Notice;
use super::sink::{Failure, FailureKind};
use crate::time::nanoseconds;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Emptied batches that are kept for their memory.
const SPARES: usize = 2;

/// Whether an event was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Under this sequence number.
    Taken(u64),
    /// There is no room: a notice follows when there is.
    Full,
}

/// How a wait before another attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It was as long as it should be.
    Over,
    /// The drain has begun: whoever waits for it waits for the next attempt.
    Cut,
    /// No further attempt is to be made.
    Closed,
}

/// A sink that makes no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// How long something has waited.
    pub since: Duration,
    /// The sink's last answer, if there was one since.
    pub failure: Option<Failure>,
}

/// What became of the lines of a launch so far. A line in several pieces counts once for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Lines offered: the sum of all below but `retried`.
    pub read: u64,
    /// Lines that the sink has acknowledged.
    pub acknowledged: u64,
    /// Lines that were not taken into the buffer, and given up.
    pub dropped: u64,
    /// Lines that the sink refused for good.
    pub rejected: u64,
    /// Lines neither acknowledged nor rejected yet.
    pub pending: u64,
    /// Times that a line was sent again.
    pub retried: u64,
    /// imrun's own records neither acknowledged nor rejected yet.
    #[serde(skip)]
    pub pending_records: u64,
    /// Records that were dropped or that the sink refused for good.
    #[serde(skip)]
    pub lost_records: u64,
}

/// What one attempt at a batch has settled.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Bytes charged for the settled events.
    pub freed: usize,
    /// The first event that was taken and is not settled.
    pub unsettled: Option<u64>,
    /// Lines and records that were acknowledged.
    pub acknowledged: Tally,
    /// Lines and records that were rejected.
    pub rejected: Tally,
    /// Lines to be sent again.
    pub again: u64,
    /// The sink's words about the last rejected one.
    pub why: Option<String>,
}

/// A number of events.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// The app's.
    pub lines: u64,
    /// imrun's own.
    pub records: u64,
}

impl Tally {
    /// Counts one event more.
    pub fn add(&mut self, event: &Event<'_>) {
        match event.body.is_line() {
            true => self.lines += 1,
            false => self.records += 1,
        }
    }
}

/// Shared by the supervisor, which pushes and asks, and the shipper's thread, which takes and
/// settles.
#[derive(Debug)]
pub struct Buffer {
    state: Mutex<State>,
    /// For the shipper's thread: something to do.
    work: Condvar,
    /// For who waits until something is settled.
    settled: Condvar,
    notice: Arc<Notice>,
    capacity: usize,
    /// Whether its sink shows the bare bytes.
    bare: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Only the last one grows.
    queue: VecDeque<Batch>,
    spares: Vec<Batch>,
    /// Bytes charged for: queued and in flight.
    used: usize,
    sequence: u64,
    /// Of the last event.
    time: u64,
    settled_through: u64,
    started: bool,
    counters: Counters,
    /// Since when something waits without progress.
    waiting_since: Option<Instant>,
    /// Somebody was told that there is no room.
    wanted: bool,
    /// The shipper's thread waits for work; waking it costs a system call.
    idle: bool,
    /// Somebody waits until something is settled.
    watched: bool,
    draining: bool,
    /// The last record was pushed.
    parting: bool,
    closed: bool,
    /// The operator was told that the sink makes no progress.
    told: bool,
    last_failure: Option<Failure>,
    last_rejection: Option<String>,
    failed: Option<Failure>,
}

impl State {
    fn fits(&self, cost: usize, capacity: usize) -> bool {
        // An empty buffer takes an event of any size, or it would never take it.
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

    /// Charges for an event, and gives it its time and its sequence number.
    fn stamp(&mut self, cost: usize) -> (u64, u64) {
        self.sequence += 1;
        self.time += 1;
        self.used = self.used.saturating_add(cost);
        if self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
        (self.time, self.sequence)
    }

    /// The batch that one line more of that length goes into.
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
            (self.last_failure, self.told) = (None, false);
            self.waiting_since = (self.used > 0).then(Instant::now);
        }
    }
}

impl Buffer {
    /// An empty buffer of so many bytes.
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

    /// The same, for a sink that shows the bare bytes.
    pub fn bare(self) -> Buffer {
        Buffer { bare: true, ..self }
    }

    /// Opens the buffer for events that were read or made at this moment.
    pub fn open(&self) -> Open<'_> {
        let mut state = self.lock();
        // Each event has a time of its own: receivers sort by it.
        state.time = state.time.max(nanoseconds().saturating_sub(1));
        Open {
            buffer: self,
            state,
        }
    }

    /// Waits for something to ship; none when the buffer is closed.
    pub fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        state.idle = true;
        let waits = |state: &mut State| state.queue.is_empty() && !state.closed;
        let guard = self.work.wait_while(state, waits);
        let mut state = guard.unwrap_or_else(PoisonError::into_inner);
        state.idle = false;
        state.queue.pop_front().filter(|_| !state.closed)
    }

    /// Waits for something to ship until that time.
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

    /// Something to ship, if there is anything.
    pub fn try_take(&self) -> Option<Batch> {
        self.lock().queue.pop_front()
    }

    /// Takes back a batch whose events are settled.
    pub fn recycle(&self, mut batch: Batch) {
        batch.clear();
        let mut state = self.lock();
        if state.spares.len() < SPARES {
            state.spares.push(batch);
        }
    }

    /// Waits before another attempt, not at all once the buffer is closed. The beginning of the drain
    /// ends a wait that is not `firm`.
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

    /// Whether no event should wait without need: they take up much of the buffer, or only the last
    /// record is left.
    pub fn is_pressed(&self) -> bool {
        let state = self.lock();
        state.parting || state.used > self.capacity / 16
    }

    /// The next record is the last.
    pub fn part(&self) {
        self.lock().parting = true;
    }

    /// Enters the outcome of an attempt, and notifies whoever waits for it.
    pub fn settle(&self, settlement: Settlement) {
        let mut state = self.lock();
        let started = state.started;
        state.settle(settlement);
        // Half empty, not one byte free: the supervisor should not be woken for every line.
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

    /// Enters a failed attempt at `again` lines, which will be sent again.
    pub fn retry(&self, failure: Failure, again: u64) {
        let mut state = self.lock();
        state.counters.retried += again;
        state.last_failure = Some(failure);
    }

    /// Gives the sink up.
    pub fn fail(&self, failure: Failure) {
        self.lock().failed = Some(failure);
        self.notice.give();
        self.settled.notify_all();
    }

    /// Hurries the shipper, and has it notify when all is settled.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.work.notify_all();
    }

    /// Ends the shipper's thread before its next attempt.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }

    /// Waits until all events up to `sequence` are settled, the sink failed or the deadline passed.
    /// Returns whether they are settled.
    pub fn wait_settled(&self, sequence: u64, deadline: Instant) -> bool {
        self.wait(deadline, |state| state.settled_through >= sequence)
    }

    /// Waits until nothing is left, the sink failed or the deadline passed. Returns whether nothing
    /// is left.
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

    /// Whether all events up to `sequence` are settled.
    pub fn is_settled(&self, sequence: u64) -> bool {
        self.lock().settled_through >= sequence
    }

    /// Whether the sink has acknowledged anything yet.
    pub fn has_started(&self) -> bool {
        self.lock().started
    }

    /// The numbers so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// How long something has waited without progress.
    pub fn stalled(&self) -> Option<Duration> {
        self.lock().waiting_since.map(|since| since.elapsed())
    }

    /// What the operator is to be told, once for each stall: that nothing was acknowledged for so long,
    /// or that the sink refuses what it gets.
    pub fn stall_to_tell(&self, after: Duration) -> Option<Stall> {
        let mut state = self.lock();
        let since = state.waiting_since?.elapsed();
        let failure = state.last_failure.clone();
        let refuses = |failure: &Failure| failure.kind == FailureKind::Refused;
        let is_due = since >= after || failure.as_ref().is_some_and(refuses);
        let tell = is_due && !state.told;
        state.told |= is_due;
        tell.then_some(Stall { since, failure })
    }

    /// Why the sink was given up.
    pub fn failed(&self) -> Option<Failure> {
        self.lock().failed.clone()
    }

    /// Why the last attempt failed, whether it was tried again or not.
    pub fn last_failure(&self) -> Option<Failure> {
        let state = self.lock();
        state.failed.clone().or_else(|| state.last_failure.clone())
    }

    /// The sink's words about the last event that it refused for good.
    pub fn last_rejection(&self) -> Option<String> {
        self.lock().last_rejection.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The buffer while its owner puts events into it; the shipper's thread hears of them when this is
/// dropped.
pub struct Open<'a> {
    buffer: &'a Buffer,
    state: MutexGuard<'a, State>,
}

impl Open<'_> {
    /// Whether a line of that size would be taken; a notice follows where not.
    pub fn has_room(&mut self, size: usize) -> bool {
        let fits = self.state.fits(line_cost(size), self.buffer.capacity);
        self.state.wanted |= !fits;
        fits
    }

    /// Queues a line if there is room for it.
    pub fn push_line(&mut self, stream: Stream, bytes: &[u8], partial: bool) -> Pushed {
        match self.has_room(bytes.len()) {
            true => Pushed::Taken(self.state.push_line(stream, bytes, partial)),
            false => Pushed::Full,
        }
    }

    /// Queues a frame if there is room for it. A last line without a newline is a line, but where the
    /// bare bytes are shown.
    pub fn push_frame(&mut self, stream: Stream, frame: Frame<'_>) -> Pushed {
        let goes_on = frame.partial() || self.buffer.bare && frame.ending == Ending::End;
        self.push_line(stream, frame.bytes, goes_on)
    }

    /// Gives up `lines` lines that there was no room for. Their sequence numbers stay unused, so
    /// that the receiver sees the gap.
    pub fn drop_lines(&mut self, lines: u64) {
        self.state.sequence += lines;
        self.state.counters.read += lines;
        self.state.counters.dropped += lines;
    }

    /// Queues a record if there is room for it, and counts it as lost otherwise.
    pub fn push_record(&mut self, kind: &'static str, fields: serde_json::Value) -> Pushed {
        if !self.state.fits(record_cost(&fields), self.buffer.capacity) {
            self.state.sequence += 1;
            self.state.counters.lost_records += 1;
            return Pushed::Full;
        }
        Pushed::Taken(self.state.push_record(kind, fields))
    }

    /// Queues a record whether there is room or not.
    pub fn force_record(&mut self, kind: &'static str, fields: serde_json::Value) -> u64 {
        self.state.push_record(kind, fields)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.state.idle && !self.state.queue.is_empty() {
            // Once: it is awake from here on.
            self.state.idle = false;
            self.buffer.work.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
