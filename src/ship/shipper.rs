//! The thread that owns the sink, and the supervisor's handle on it.

use super::backoff::Backoff;
use super::buffer::{Buffer, Counters, Open, Settlement};
use super::event::{Batch, Origin};
use super::sink::{Delivery, Failure, FailureKind, Rejection, Sink};
use super::url::SinkUrl;
use crate::error::{Context, Error, Result};
use nix::sys::signal::SigSet;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

// Name resolution, TLS and JSON need some; the default of 2 MiB would do no harm but on small hosts.
const STACK: usize = 256 * 1024;

/// How long the sink is listened to before there may be something new to send.
const SLICE: Duration = Duration::from_millis(2);

/// How to ship.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes that may wait for the sink, events in flight included (`--log-buffer`).
    pub buffer: usize,
    /// How long one attempt to connect, or to deliver a batch, may take.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            buffer: 1024 * 1024,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Ships the events of one launch. All calls return at once, but for those with a deadline.
#[derive(Debug)]
pub struct Shipper {
    url: SinkUrl,
    buffer: Arc<Buffer>,
}

impl Shipper {
    /// Starts the thread, which connects as soon as there is something to ship. Fails where the
    /// sink cannot be used whatever happens (`stdio:` to a regular file), or without resources.
    pub fn start(url: &SinkUrl, origin: Origin, options: Options) -> Result<Shipper> {
        Self::with_sink(url, url.sink(origin, options.timeout)?, options)
    }

    fn with_sink(url: &SinkUrl, sink: Box<dyn Sink>, options: Options) -> Result<Shipper> {
        let shipper = Shipper {
            url: url.clone(),
            buffer: Arc::new(Buffer::new(options.buffer)?),
        };
        let work = Work {
            sink,
            buffer: Arc::clone(&shipper.buffer),
            waiting: VecDeque::new(),
            flight: VecDeque::new(),
            backoff: Backoff::new(),
            warned: false,
        };
        std::thread::Builder::new()
            .name("shipper".into())
            .stack_size(STACK)
            .spawn(move || work.run())
            .context(|| format!("clone(stack of {STACK} bytes) for the shipper"))?;
        Ok(shipper)
    }

    /// Where it ships to.
    pub fn url(&self) -> &SinkUrl {
        &self.url
    }

    /// Opens the buffer for lines that were read at this moment. It is locked meanwhile, so this
    /// is for as long as one read's lines take.
    pub fn open(&self) -> Open<'_> {
        self.buffer.open()
    }

    /// Queues one of the few records that each launch has (launch, exit), room or not, and returns
    /// its sequence number. `fields` is an object.
    pub fn push_record(&self, kind: &'static str, fields: serde_json::Value) -> u64 {
        self.buffer.open().force_record(kind, fields)
    }

    /// Readable when room became free that was asked for, when the first event was acknowledged,
    /// when the sink failed for good, and when all is settled after [`Shipper::begin_drain`].
    pub fn notice(&self) -> BorrowedFd<'_> {
        self.buffer.notice()
    }

    /// Makes the notice unreadable until the next one; then ask what there is to know.
    pub fn clear_notice(&self) -> Result<()> {
        self.buffer.clear_notice()
    }

    /// Whether the sink has acknowledged (or rejected) everything up to `sequence`.
    pub fn is_settled(&self, sequence: u64) -> bool {
        self.buffer.is_settled(sequence)
    }

    /// Waits until the sink has acknowledged everything up to `sequence`. Fails at once where
    /// somebody said no (nobody listens, wrong password), and when the deadline passes.
    pub fn wait_acknowledged(&self, sequence: u64, deadline: Instant) -> Result<()> {
        if self.buffer.wait_settled(sequence, deadline) {
            return Ok(());
        }
        Err(self.error(self.buffer.last_failure()))
    }

    /// Why the sink failed for good, if it did.
    pub fn failure(&self) -> Option<Error> {
        self.buffer
            .failed()
            .map(|failure| self.error(Some(failure)))
    }

    /// How long something has waited for the sink without any progress; none when nothing waits.
    pub fn stalled(&self) -> Option<Duration> {
        self.buffer.stalled()
    }

    /// The numbers so far.
    pub fn counters(&self) -> Counters {
        self.buffer.counters()
    }

    /// The sink's words about the last event that it refused for good.
    pub fn last_rejection(&self) -> Option<String> {
        self.buffer.last_rejection()
    }

    /// Hurries the shipper: a wait between attempts is cut short. Does not wait.
    pub fn begin_drain(&self) {
        self.buffer.drain();
    }

    /// Waits until everything is settled, the sink failed for good or the deadline passed. More can
    /// be pushed afterwards (the exit record, with these counters) and drained again.
    pub fn drain(&self, deadline: Instant) -> Counters {
        self.begin_drain();
        self.buffer.wait_drained(deadline);
        self.counters()
    }

    fn error(&self, failure: Option<Failure>) -> Error {
        let what = format!("sink {}", self.url.to_string().trim_end_matches(':'));
        let hint = "is it running, and is the URL right? --sink stdio: shows the output here";
        match failure {
            Some(failure) => Error::sink(what, failure.why).hint(failure.hint.unwrap_or(hint)),
            None => Error::sink(what, "no acknowledgement before the deadline").hint(hint),
        }
    }
}

impl Drop for Shipper {
    /// Leaves the thread behind: it ends by itself, unless it hangs in a dead network.
    fn drop(&mut self) {
        self.buffer.close();
    }
}

/// What the thread owns.
struct Work {
    sink: Box<dyn Sink>,
    buffer: Arc<Buffer>,
    /// To be sent again, before anything new.
    waiting: VecDeque<Batch>,
    /// Sent, and not settled.
    flight: VecDeque<Batch>,
    backoff: Backoff,
    /// Whether a rejection was told of.
    warned: bool,
}

impl Work {
    fn run(mut self) {
        // Signals are the supervisor's: one that this thread took would not be seen there.
        SigSet::all()
            .thread_block()
            .expect("SIG_BLOCK with a valid set cannot fail");
        while self.step() {}
    }

    /// Sends a batch or settles one. Returns whether to go on.
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
        let wait = (self.flight.len() < self.sink.window()).then_some(SLICE);
        match self.sink.settle(&self.flight[0], wait) {
            Ok(None) => true,
            Ok(Some(delivery)) => self.settle(delivery),
            Err(failure) => self.failed(failure),
        }
    }

    /// What to send now; waits for it where nothing is in flight, and then has none only when the
    /// buffer is closed.
    fn next(&mut self) -> Option<Batch> {
        let again = self.waiting.pop_front();
        again.or_else(|| match self.flight.is_empty() {
            true => self.buffer.take(),
            false => self.buffer.try_take(),
        })
    }

    /// Enters what was delivered of the oldest batch. Returns whether to go on.
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
        batch.keep(&delivery.again);
        let left = [Some(&batch), self.flight.front(), self.waiting.front()];
        settlement.unsettled = left.into_iter().flatten().find_map(Batch::first);
        self.buffer.settle(settlement);
        match batch.is_empty() {
            true => self.buffer.recycle(batch),
            false => self.waiting.push_front(batch),
        }
        if progress {
            self.backoff = Backoff::new();
        }
        progress || self.buffer.pause(self.backoff.next())
    }

    /// Puts back what was in flight. Returns whether to go on.
    fn failed(&mut self, failure: Failure) -> bool {
        let ends_it = match failure.kind {
            FailureKind::Broken => true,
            FailureKind::Refused => !self.buffer.has_started(),
            FailureKind::Again | FailureKind::TooLarge => false,
        };
        if ends_it {
            self.buffer.fail(failure);
            return false;
        }
        if failure.kind == FailureKind::TooLarge && self.flight[0].len() == 1 {
            let why = failure.why;
            return self.settle(Delivery {
                rejected: vec![Rejection { index: 0, why }],
                again: Vec::new(),
            });
        }
        if failure.kind == FailureKind::TooLarge {
            let second = self.flight[0].halve();
            self.flight
                .insert(1, second.expect("it has two events or more"));
        }
        let lines = |batch: &Batch| batch.iter().filter(|event| event.body.is_line()).count();
        let again: usize = self.flight.iter().map(lines).sum();
        while let Some(batch) = self.flight.pop_back() {
            self.waiting.push_front(batch);
        }
        self.buffer.retry(failure, again as u64);
        self.buffer.pause(self.backoff.next())
    }
}

/// Sums up what became of a batch that was sent.
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
