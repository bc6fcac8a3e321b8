//! A thread that owns one sink, and the buffer in front of it.

use super::backoff::Backoff;
use super::buffer::{Buffer, Pause, Settlement};
use super::event::Batch;
use super::sink::{Delivery, Failure, FailureKind, PATIENCE, Rejection, Sink};
use super::url::SinkUrl;
use crate::base::error::{Context, Error, HINT, Result};
use nix::sys::signal::SigSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

// Name resolution, TLS and JSON need some stack; the default of 2 MiB is too much only on small hosts.
const STACK: usize = 256 * 1024;

/// Time without progress after which the operator is told.
const REPORT_AFTER: Duration = Duration::from_secs(3);

/// Number of consecutive single events that the sink refused after which the refusal of a batch counts
/// for all its events.
const HOPELESS: u32 = 64;

/// Time to wait for answers before checking for new events.
const SLICE: Duration = Duration::from_millis(2);

/// A sink with its buffer and its thread.
#[derive(Debug)]
pub struct Channel {
    /// URL of the sink.
    pub url: SinkUrl,
    /// Events that wait for the sink.
    pub buffer: Arc<Buffer>,
}

impl Channel {
    /// Starts the thread, which connects once there is something to ship.
    pub fn start(url: SinkUrl, sink: Box<dyn Sink>, buffer: Buffer) -> Result<Channel> {
        let channel = Channel {
            buffer: Arc::new(if url.is_bare() { buffer.bare() } else { buffer }),
            url,
        };
        let work = Work {
            sink,
            buffer: Arc::clone(&channel.buffer),
            waiting: VecDeque::new(),
            flight: VecDeque::new(),
            backoff: Backoff::new(),
            refused: 0,
            warned: false,
        };
        std::thread::Builder::new()
            .name("shipper".into())
            .stack_size(STACK)
            .spawn(move || work.run())
            .context(|| format!("clone(stack of {STACK} bytes) for the shipper"))?;
        Ok(channel)
    }

    /// Returns true if the sink shows the unmodified bytes.
    pub fn is_bare(&self) -> bool {
        self.url.is_bare()
    }

    /// Returns the sink's name in messages.
    fn name(&self) -> String {
        format!("sink {}", self.url.to_string().trim_end_matches(':'))
    }

    /// Reports on standard error a sink that makes no progress, with its last answer, once per stall.
    /// Not for sinks that show the unmodified bytes: their reader sees the stall.
    pub fn report_stall(&self) {
        if self.is_bare() {
            return;
        }
        let Some(stall) = self.buffer.stall_to_report(REPORT_AFTER) else {
            return;
        };
        let (name, seconds) = (self.name(), stall.since.as_secs());
        match stall.failure {
            None => log::warn!("{name}: has not acknowledged anything for {seconds} s"),
            Some(failure) => {
                log::warn!("{name}: {}; tried again, lines wait", failure.why);
                if let Some(hint) = failure.hint {
                    log::warn!(target: HINT, "{hint}");
                }
            }
        }
    }

    /// Converts a failure to an error that names the sink.
    pub fn error(&self, failure: Option<Failure>) -> Error {
        let what = self.name();
        let hint = "check that it is running and that the URL is right; --sink stdio: shows the output here";
        match failure {
            Some(failure) => Error::sink(what, failure.why).hint(failure.hint.unwrap_or(hint)),
            None => Error::sink(what, "no acknowledgement before the deadline").hint(hint),
        }
    }
}

impl Drop for Channel {
    /// Leaves the thread behind; it ends by itself, unless it hangs in a dead network.
    fn drop(&mut self) {
        self.buffer.close();
    }
}

/// State of the thread.
struct Work {
    sink: Box<dyn Sink>,
    buffer: Arc<Buffer>,
    /// Batches to send again, before any new one.
    waiting: VecDeque<Batch>,
    /// Batches that were sent but are not settled.
    flight: VecDeque<Batch>,
    backoff: Backoff,
    /// Number of single events refused since the sink last accepted anything.
    refused: u32,
    /// True if a rejection was reported.
    warned: bool,
}

impl Work {
    fn run(mut self) {
        // Signals belong to the supervisor, which would not see one that this thread handled.
        SigSet::all()
            .thread_block()
            .expect("SIG_BLOCK with a valid set cannot fail");
        while self.step() {}
    }

    /// Sends a batch or settles one. Returns false at the end.
    fn step(&mut self) -> bool {
        if self.flight.len() < self.sink.window() {
            if let Some(batch) = self.next() {
                let sent = self.sink.send(&batch);
                self.flight.push_back(batch);
                return match sent {
                    Ok(()) => true,
                    Err(failure) => self.failed(failure),
                };
            }
            if self.flight.is_empty() {
                return false;
            }
        }
        self.sink.press(self.buffer.is_pressed());
        let wait = (self.flight.len() < self.sink.window()).then_some(SLICE);
        match self.sink.settle(&self.flight[0], wait) {
            Ok(None) => true,
            Ok(Some(delivery)) => self.settle(delivery),
            Err(failure) => self.failed(failure),
        }
    }

    /// Returns the next batch to send. Waits for one if nothing is in flight; then returns `None` only
    /// when the buffer is closed.
    fn next(&mut self) -> Option<Batch> {
        let again = self.waiting.pop_front();
        if again.is_some() || self.flight.is_empty() {
            return again.or_else(|| self.buffer.take());
        }
        self.buffer.try_take().or_else(|| {
            self.sink.press(self.buffer.is_pressed());
            let until = self.sink.rests_until()?;
            self.buffer.take_until(until)
        })
    }

    /// Records the delivery of the oldest batch. Returns false at the end.
    fn settle(&mut self, delivery: Delivery) -> bool {
        if let Some(rejection) = delivery.rejected.first() {
            if !self.buffer.has_started() {
                let why = format!("refused the first record: {}", rejection.why);
                self.buffer.fail(Failure::new(FailureKind::Refused, why));
                return false;
            }
            if !std::mem::replace(&mut self.warned, true) {
                log::warn!("sink: refuses a line for good: {}", rejection.why);
            }
        }
        let mut batch = self.flight.pop_front().expect("one was settled");
        let mut settlement = settlement(&batch, &delivery);
        let progress = settlement.freed > 0;
        if settlement.acknowledged.lines + settlement.acknowledged.records > 0 {
            self.refused = 0;
        }
        batch.keep(&delivery.again);
        let left = [Some(&batch), self.flight.front(), self.waiting.front()];
        settlement.unsettled = left.into_iter().flatten().find_map(Batch::first);
        self.buffer.settle(settlement);
        if batch.is_empty() {
            self.buffer.recycle(batch)
        } else {
            self.waiting.push_front(batch)
        }
        if progress {
            self.backoff = Backoff::new();
        }
        progress || self.pause(None)
    }

    /// Waits before the next attempt, as long as the sink requests. Returns false at the end.
    fn pause(&mut self, asked: Option<Duration>) -> bool {
        let wait = self.backoff.next();
        let asked = asked.map(|asked| asked.min(PATIENCE));
        let wait = asked.map_or(wait, |asked| asked.max(wait));
        match self.buffer.pause(wait, asked.is_some()) {
            Pause::Over => true,
            Pause::Closed => false,
            Pause::Cut => {
                self.backoff = Backoff::new();
                true
            }
        }
    }

    /// Records a failed attempt. Returns false at the end.
    fn failed(&mut self, failure: Failure) -> bool {
        let ends_it = match failure.kind {
            FailureKind::Broken => true,
            FailureKind::Refused | FailureKind::Rejected => !self.buffer.has_started(),
            FailureKind::Again | FailureKind::TooLarge => false,
        };
        if ends_it {
            self.buffer.fail(failure);
            return false;
        }
        match failure.kind {
            FailureKind::TooLarge | FailureKind::Rejected => self.divide(failure),
            _ => self.put_back(failure),
        }
    }

    /// Halves a batch that the sink does not accept, or rejects its only event. Returns false at the end.
    fn divide(&mut self, failure: Failure) -> bool {
        let events = self.flight[0].len();
        let is_hopeless = failure.kind == FailureKind::Rejected && self.refused >= HOPELESS;
        if events == 1 || is_hopeless {
            self.refused = self.refused.saturating_add(1);
            let rejection = |index| Rejection {
                index,
                why: failure.why.clone(),
            };
            return self.settle(Delivery {
                rejected: (0..events).map(rejection).collect(),
                again: Vec::new(),
            });
        }
        let second = self.flight[0].halve();
        self.flight
            .insert(1, second.expect("it has two events or more"));
        match failure.retry_after {
            Some(_) => self.put_back(failure),
            // The halves are new requests, so there is no delay.
            None => {
                self.requeue(failure);
                true
            }
        }
    }

    /// Requeues the batches in flight, and waits. Returns false at the end.
    fn put_back(&mut self, failure: Failure) -> bool {
        let asked = failure.retry_after;
        self.requeue(failure);
        self.pause(asked)
    }

    /// Requeues the batches in flight before all others.
    fn requeue(&mut self, failure: Failure) {
        let lines = |batch: &Batch| batch.iter().filter(|event| event.body.is_line()).count();
        let again: usize = self.flight.iter().map(lines).sum();
        while let Some(batch) = self.flight.pop_back() {
            self.waiting.push_front(batch);
        }
        self.buffer.retry(failure, again as u64);
    }
}

/// Returns the settlement of a batch after its delivery.
fn settlement(sent: &Batch, delivery: &Delivery) -> Settlement {
    let mut sum = Settlement::default();
    let mut rejected = delivery.rejected.iter().peekable();
    let mut again = delivery.again.iter().peekable();
    for (index, event) in sent.iter().enumerate() {
        if again.next_if_eq(&&index).is_some() {
            sum.again += u64::from(event.body.is_line());
            continue;
        }
        sum.freed += event.body.cost();
        match rejected.next_if(|rejection| rejection.index == index) {
            Some(rejection) => {
                sum.rejected.add(&event);
                sum.why = Some(rejection.why.clone());
            }
            None => sum.acknowledged.add(&event),
        }
    }
    sum
}

#[cfg(test)]
mod tests;
