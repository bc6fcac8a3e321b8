//! The thread that owns the sink, and the supervisor's handle on it.

use super::backoff::Backoff;
use super::buffer::{Buffer, Counters, Pushed, Settlement};
use super::event::{Event, Origin, Stream};
use super::sink::{Delivery, Failure, FailureKind, Rejection, Sink};
use super::url::SinkUrl;
use crate::error::{Context, Error, Result};
use nix::sys::signal::SigSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

// Name resolution and JSON need some; the default of 2 MiB would do no harm but on small hosts.
const STACK: usize = 256 * 1024;

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
        Self::with_sink(url, url.sink(&origin, options.timeout)?, origin, options)
    }

    fn with_sink(
        url: &SinkUrl,
        sink: Box<dyn Sink>,
        origin: Origin,
        options: Options,
    ) -> Result<Shipper> {
        let shipper = Shipper {
            url: url.clone(),
            buffer: Arc::new(Buffer::new(options.buffer)?),
        };
        let work = Work {
            sink,
            origin,
            buffer: Arc::clone(&shipper.buffer),
        };
        std::thread::Builder::new()
            .name("shipper".into())
            .stack_size(STACK)
            .spawn(move || work.run())
            .context(|| format!("clone(stack of {STACK} bytes) for the shipper"))?;
        Ok(shipper)
    }

    /// Queues a line, if there is room.
    pub fn push_line(&self, stream: Stream, bytes: &[u8], partial: bool) -> Pushed {
        self.buffer.push_line(stream, bytes, partial)
    }

    /// Gives up lines that there was no room for, and counts them. Their sequence numbers stay
    /// unused, so that the receiver sees the gap.
    pub fn drop_lines(&self, lines: u64) {
        self.buffer.drop_lines(lines);
    }

    /// Queues one of the few records that each launch has (launch, exit), room or not, and returns
    /// its sequence number. `fields` is an object.
    pub fn push_record(&self, kind: &'static str, fields: serde_json::Value) -> u64 {
        self.buffer.force_record(kind, fields)
    }

    /// Queues a record of which the app can cause any number (side effects), if there is room;
    /// counts it as lost otherwise.
    pub fn try_push_record(&self, kind: &'static str, fields: serde_json::Value) -> Pushed {
        self.buffer.push_record(kind, fields)
    }

    /// Whether a line of `size` bytes would be taken now; a notice follows where it would not.
    pub fn has_room(&self, size: usize) -> bool {
        self.buffer.has_room(size)
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
    origin: Origin,
    buffer: Arc<Buffer>,
}

impl Work {
    fn run(mut self) {
        // Signals are the supervisor's: one that this thread took would not be seen there.
        SigSet::all()
            .thread_block()
            .expect("SIG_BLOCK with a valid set cannot fail");
        while let Some(batch) = self.buffer.take() {
            if !self.ship(batch) {
                return;
            }
        }
    }

    /// Ships one batch, however many attempts it takes. Returns whether to go on.
    fn ship(&mut self, mut batch: Vec<Event>) -> bool {
        let mut backoff = Backoff::new();
        let mut size = batch.len();
        while !batch.is_empty() {
            size = size.min(batch.len());
            let outcome = match self.sink.deliver(&self.origin, &batch[..size]) {
                Err(failure) if failure.kind == FailureKind::TooLarge => {
                    smaller(&mut size, failure)
                }
                outcome => outcome,
            };
            let progress = match outcome {
                Ok(delivery) => self.settle(&mut batch, size, delivery),
                Err(failure) => self.retry(&batch[..size], failure),
            };
            match progress {
                Progress::Some => backoff = Backoff::new(),
                Progress::None if self.buffer.pause(backoff.next()) => {}
                Progress::None | Progress::Never => return false,
            }
        }
        true
    }

    /// Enters what was delivered, and leaves in `batch` what is to be sent again and what was not
    /// sent yet.
    fn settle(&self, batch: &mut Vec<Event>, size: usize, delivery: Delivery) -> Progress {
        if let Some(rejection) = delivery.rejected.first()
            && !self.buffer.has_started()
        {
            let why = format!("refused the first record: {}", rejection.why);
            self.buffer.fail(Failure::new(FailureKind::Refused, why));
            return Progress::Never;
        }
        let mut settlement = settlement(&batch[..size], &delivery);
        let progress = match settlement.freed {
            0 => Progress::None,
            _ => Progress::Some,
        };
        let mut index = 0..;
        batch.retain(|_| {
            let index = index.next().unwrap_or(usize::MAX);
            index >= size || delivery.again.binary_search(&index).is_ok()
        });
        settlement.unsettled = batch.first().map(|event| event.sequence);
        self.buffer.settle(settlement);
        progress
    }

    fn retry(&self, sent: &[Event], failure: Failure) -> Progress {
        let ends_it = match failure.kind {
            FailureKind::Broken => true,
            FailureKind::Refused => !self.buffer.has_started(),
            FailureKind::Again | FailureKind::TooLarge => false,
        };
        if ends_it {
            self.buffer.fail(failure);
            return Progress::Never;
        }
        let lines = sent.iter().filter(|event| event.is_line()).count();
        self.buffer.retry(failure, lines as u64);
        Progress::None
    }
}

/// What an attempt achieved.
enum Progress {
    /// Something was settled.
    Some,
    /// Nothing was.
    None,
    /// Nothing will be.
    Never,
}

/// Halves what is sent at once; an event that is too large by itself is rejected.
fn smaller(size: &mut usize, failure: Failure) -> std::result::Result<Delivery, Failure> {
    if *size > 1 {
        *size /= 2;
        return Err(failure);
    }
    let rejection = Rejection {
        index: 0,
        why: failure.why,
    };
    Ok(Delivery {
        rejected: vec![rejection],
        again: Vec::new(),
    })
}

/// Sums up what became of the events that were sent.
fn settlement(sent: &[Event], delivery: &Delivery) -> Settlement {
    let mut sum = Settlement::default();
    for (index, event) in sent.iter().enumerate() {
        if delivery.again.binary_search(&index).is_ok() {
            sum.again += u64::from(event.is_line());
            continue;
        }
        sum.freed += event.body.cost();
        match delivery
            .rejected
            .iter()
            .find(|rejection| rejection.index == index)
        {
            Some(rejection) => {
                sum.rejected.add(event);
                sum.why = Some(rejection.why.clone());
            }
            None => sum.acknowledged.add(event),
        }
    }
    sum
}

#[cfg(test)]
mod tests;
