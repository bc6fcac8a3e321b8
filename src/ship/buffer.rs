//! The one bounded buffer between the supervisor and the shipper's thread.
//!
//! Events are charged for until the sink has acknowledged or rejected them, so the events in
//! flight count too. The supervisor's side never waits, but for a deadline.

use super::event::{Body, Event, Stream, line_cost};
use super::sink::Failure;
use crate::error::{Context, Result};
use crate::time::nanoseconds;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most events in a batch.
pub const BATCH_EVENTS: usize = 1000;
/// The most bytes in a batch, as they are charged for; one event may exceed it.
pub const BATCH_BYTES: usize = 512 * 1024;

/// The longest wait between attempts while draining.
const HURRIED: Duration = Duration::from_millis(50);

/// Whether an event was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Under this sequence number.
    Taken(u64),
    /// There is no room: a notice follows when there is.
    Full,
}

/// What became of the lines of a launch so far. A line in several pieces counts once for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    pub pending_records: u64,
    /// Records that were dropped or that the sink refused for good.
    pub lost_records: u64,
}

/// What one attempt at a batch has settled.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Bytes charged for the settled events.
    pub freed: usize,
    /// The first event of the batch that is not settled.
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
    pub fn add(&mut self, event: &Event) {
        match event.body {
            Body::Line { .. } => self.lines += 1,
            Body::Record { .. } => self.records += 1,
        }
    }
}

/// Shared by the supervisor, which pushes and asks, and the shipper's thread, which takes and
/// settles.
#[derive(Debug)]
pub struct Buffer {
    state: Mutex<State>,
    changed: Condvar,
    notice: EventFd,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Event>,
    /// Bytes charged for: queued and in flight.
    used: usize,
    sequence: u64,
    settled_through: u64,
    started: bool,
    counters: Counters,
    /// Since when something waits without progress.
    waiting_since: Option<Instant>,
    /// Somebody was told that there is no room.
    wanted: bool,
    draining: bool,
    closed: bool,
    last_failure: Option<Failure>,
    last_rejection: Option<String>,
    failed: Option<Failure>,
}

impl State {
    fn fits(&self, cost: usize, capacity: usize) -> bool {
        // An empty buffer takes an event of any size, or it would never take it.
        self.used == 0 || self.used.saturating_add(cost) <= capacity
    }

    /// Queues an event under the next sequence number.
    fn queue(&mut self, body: Body) -> u64 {
        self.sequence += 1;
        let event = Event {
            time: nanoseconds(),
            sequence: self.sequence,
            body,
        };
        self.used = self.used.saturating_add(event.body.cost());
        match event.body {
            Body::Line { .. } => self.counters.pending += 1,
            Body::Record { .. } => self.counters.pending_records += 1,
        }
        self.queue.push_back(event);
        self.waiting_since.get_or_insert_with(Instant::now);
        self.sequence
    }

    /// The next batch, which is never empty where the queue is not.
    fn batch(&mut self) -> Vec<Event> {
        let mut bytes = 0usize;
        let fitting = self.queue.iter().take(BATCH_EVENTS).take_while(|event| {
            bytes = bytes.saturating_add(event.body.cost());
            bytes <= BATCH_BYTES
        });
        let count = fitting.count().clamp(1, self.queue.len());
        self.queue.drain(..count).collect()
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
            .or(self.queue.front().map(|event| event.sequence));
        self.settled_through = unsettled.map_or(self.sequence, |sequence| sequence - 1);
        self.last_rejection = settlement.why.or(self.last_rejection.take());
        if settlement.freed > 0 {
            self.waiting_since = (self.used > 0).then(Instant::now);
        }
    }
}

impl Buffer {
    /// An empty buffer of so many bytes.
    pub fn new(capacity: usize) -> Result<Buffer> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Buffer {
            state: Mutex::default(),
            changed: Condvar::new(),
            notice: EventFd::from_flags(flags).context(|| "eventfd(EFD_CLOEXEC | EFD_NONBLOCK)")?,
            capacity,
        })
    }

    /// Queues a line if there is room for it.
    pub fn push_line(&self, stream: Stream, bytes: &[u8], partial: bool) -> Pushed {
        let mut state = self.lock();
        if !state.fits(line_cost(bytes.len()), self.capacity) {
            state.wanted = true;
            return Pushed::Full;
        }
        state.counters.read += 1;
        let bytes = bytes.into();
        self.queued(
            state,
            Body::Line {
                stream,
                bytes,
                partial,
            },
        )
    }

    /// Queues a record if there is room for it, and counts it as lost otherwise.
    pub fn push_record(&self, kind: &'static str, fields: serde_json::Value) -> Pushed {
        let body = Body::Record { kind, fields };
        let mut state = self.lock();
        if !state.fits(body.cost(), self.capacity) {
            state.counters.lost_records += 1;
            return Pushed::Full;
        }
        self.queued(state, body)
    }

    /// Queues a record whether there is room or not.
    pub fn force_record(&self, kind: &'static str, fields: serde_json::Value) -> u64 {
        let sequence = self.lock().queue(Body::Record { kind, fields });
        self.changed.notify_all();
        sequence
    }

    fn queued(&self, mut state: MutexGuard<'_, State>, body: Body) -> Pushed {
        let sequence = state.queue(body);
        drop(state);
        self.changed.notify_all();
        Pushed::Taken(sequence)
    }

    /// Gives up `lines` lines that there was no room for. Their sequence numbers stay unused, so
    /// that the receiver sees the gap.
    pub fn drop_lines(&self, lines: u64) {
        let mut state = self.lock();
        state.sequence += lines;
        state.counters.read += lines;
        state.counters.dropped += lines;
    }

    /// Waits for something to ship; none when the buffer is closed.
    pub fn take(&self) -> Option<Vec<Event>> {
        let waits = |state: &mut State| state.queue.is_empty() && !state.closed;
        let guard = self.changed.wait_while(self.lock(), waits);
        let mut state = guard.unwrap_or_else(PoisonError::into_inner);
        (!state.closed).then(|| state.batch())
    }

    /// Waits before another attempt: not as long once the drain begins, and not at all once the
    /// buffer is closed. Returns whether to go on.
    pub fn pause(&self, duration: Duration) -> bool {
        let waits = |state: &mut State| !state.closed && !state.draining;
        let result = self
            .changed
            .wait_timeout_while(self.lock(), duration, waits);
        let (mut state, _) = result.unwrap_or_else(PoisonError::into_inner);
        if state.draining {
            let short = duration.min(HURRIED);
            let result = self
                .changed
                .wait_timeout_while(state, short, |state| !state.closed);
            (state, _) = result.unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
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
            self.notify();
        }
        drop(state);
        self.changed.notify_all();
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
        self.notify();
        self.changed.notify_all();
    }

    /// Hurries the shipper, and has it notify when all is settled.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.changed.notify_all();
    }

    /// Ends the shipper's thread before its next attempt.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
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
        let result = self.changed.wait_timeout_while(self.lock(), left, waits);
        done(&result.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Whether all events up to `sequence` are settled.
    pub fn is_settled(&self, sequence: u64) -> bool {
        self.lock().settled_through >= sequence
    }

    /// Whether the sink has acknowledged anything yet.
    pub fn has_started(&self) -> bool {
        self.lock().started
    }

    /// Whether a line of that size would be taken; a notice follows where not.
    pub fn has_room(&self, size: usize) -> bool {
        let mut state = self.lock();
        let fits = state.fits(line_cost(size), self.capacity);
        state.wanted |= !fits;
        fits
    }

    /// The numbers so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// How long something has waited without progress.
    pub fn stalled(&self) -> Option<Duration> {
        self.lock().waiting_since.map(|since| since.elapsed())
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

    /// Readable when there is something new to ask about.
    pub fn notice(&self) -> BorrowedFd<'_> {
        self.notice.as_fd()
    }

    /// Makes the notice unreadable until the next one.
    pub fn clear_notice(&self) -> Result<()> {
        match self.notice.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error).context(|| "read(eventfd)"),
        }
    }

    fn notify(&self) {
        match self.notice.write(1) {
            // Full: it has been readable for 2^64 notices.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => unreachable!("write(eventfd): {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
