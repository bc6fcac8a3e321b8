//! The supervisor's handle for all sinks of a launch.

use super::buffer::{self, Buffer, Counters, Pushed};
use super::channel::Channel;
use super::event::{Origin, STREAM_END, Stream};
use super::frame::Frame;
use super::notice::Notice;
use super::sink::Sink;
use super::url::SinkUrl;
use crate::base::error::{Error, Result};
use serde_json::json;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Settings of the shipper.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Capacity of each sink's buffer in bytes, events in flight included (`--log-buffer`).
    pub buffer: usize,
    /// Maximum time of an attempt to connect or to deliver a batch.
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

/// Ships the events of one launch to each of its sinks. All calls return immediately, except for those with a
/// deadline.
///
/// Each sink has its own buffer, thread and counters. All sinks get the same events with the same
/// sequence numbers.
#[derive(Debug)]
pub struct Shipper {
    channels: Vec<Channel>,
    notice: Arc<Notice>,
}

impl Shipper {
    /// Starts a thread for each sink; there is at least one. Fails if a sink cannot work (`stdio:` to a
    /// regular file, a missing file in the URL), or if resources are lacking.
    pub fn start(urls: &[SinkUrl], origin: &Origin, options: Options) -> Result<Shipper> {
        let sinks = urls.iter().map(|url| {
            let sink = url.sink(origin, options.timeout)?;
            Ok((url.clone(), sink))
        });
        Self::with_sinks(sinks.collect::<Result<_>>()?, options)
    }

    pub(super) fn with_sinks(
        sinks: Vec<(SinkUrl, Box<dyn Sink>)>,
        options: Options,
    ) -> Result<Shipper> {
        let notice = Arc::new(Notice::new()?);
        let start = |(url, sink)| {
            let buffer = Buffer::new(options.buffer, Arc::clone(&notice));
            Channel::start(url, sink, buffer)
        };
        Ok(Shipper {
            channels: sinks.into_iter().map(start).collect::<Result<_>>()?,
            notice,
        })
    }

    /// Locks the buffers for lines that were just read. The lock must last only as long as adding the
    /// lines of one read.
    pub fn open(&self) -> Open<'_> {
        Open(self.channels.iter().map(|one| one.buffer.open()).collect())
    }

    /// Queues one of a launch's few records (launch, exit), even if the buffer is full. Returns its
    /// sequence number. `fields` is an object.
    pub fn push_record(&self, kind: &'static str, fields: serde_json::Value) -> u64 {
        let mut open = self.open();
        let sequences = open
            .0
            .iter_mut()
            .map(|one| one.force_record(kind, fields.clone()));
        sequences.max().unwrap_or_default()
    }

    /// Queues the last record of a launch after the counters were read; an established connection need
    /// not outlive it.
    pub fn push_last_record(&self, kind: &'static str, fields: serde_json::Value) {
        self.channels.iter().for_each(|one| one.buffer.part());
        self.push_record(kind, fields);
    }

    /// Tells sinks that show the unmodified bytes that a stream has ended, so that their reader sees the end.
    pub fn end_stream(&self, stream: Stream) {
        let bare = self.channels.iter().filter(|one| one.is_bare());
        for one in bare {
            let mut buffer = one.buffer.open();
            buffer.force_record(STREAM_END, json!({ "stream": stream.as_str() }));
        }
    }

    /// Returns a descriptor that becomes readable when requested room is free, when the first event was
    /// acknowledged, when a sink failed for good, and when all events are settled after
    /// [`Shipper::begin_drain`].
    pub fn notice(&self) -> BorrowedFd<'_> {
        self.notice.as_fd()
    }

    /// Makes the notice unreadable until the next one; the caller then checks the state.
    pub fn clear_notice(&self) -> Result<()> {
        self.notice.clear().map(|_| ())
    }

    /// Returns true if every sink has acknowledged or rejected everything up to `sequence`.
    pub fn is_settled(&self, sequence: u64) -> bool {
        let mut channels = self.channels.iter();
        channels.all(|one| one.buffer.is_settled(sequence))
    }

    /// Waits until every sink has acknowledged everything up to `sequence`. Fails immediately if a sink
    /// refuses (no listener, wrong password), or when the deadline passes.
    pub fn wait_acknowledged(&self, sequence: u64, deadline: Instant) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        for one in &self.channels {
            if !one.buffer.wait_settled(sequence, deadline) {
                return Err(one.error(one.buffer.last_failure()));
            }
        }
        Ok(())
    }

    /// Returns true if each sink has acknowledged or refused everything.
    pub fn is_drained(&self) -> bool {
        self.channels.iter().all(|one| {
            let counters = one.buffer.counters();
            counters.pending == 0 && counters.pending_records == 0
        })
    }

    /// Returns the error of a sink that failed for good, if any.
    pub fn failure(&self) -> Option<Error> {
        self.channels
            .iter()
            .find_map(|one| one.buffer.failed().map(|failure| one.error(Some(failure))))
    }

    /// Returns the time that events have waited for a sink without progress; `None` if nothing waits.
    pub fn stalled(&self) -> Option<Duration> {
        let stalls = self.channels.iter().map(|one| one.buffer.stalled());
        stalls.max().flatten()
    }

    /// Reports on standard error each sink that makes no progress, once per stall.
    pub fn report_stalls(&self) {
        self.channels.iter().for_each(Channel::report_stall);
    }

    /// Returns the last answers of sinks that refuse or stall.
    pub fn last_failures(&self) -> impl Iterator<Item = String> {
        let failures = self.channels.iter();
        failures.filter_map(|one| one.buffer.last_failure().map(|failure| failure.why))
    }

    /// Returns the counters of the sink that has acknowledged the fewest lines.
    pub fn counters(&self) -> Counters {
        let each = self.channels.iter().map(|one| one.buffer.counters());
        each.min_by_key(|counters| counters.acknowledged)
            .unwrap_or_default()
    }

    /// Returns each sink with its counters, and its last answer if it refuses or stalls.
    pub fn each(&self) -> impl Iterator<Item = (&SinkUrl, Counters, Option<String>)> {
        self.channels.iter().map(|one| {
            let failure = one.buffer.last_failure().map(|failure| failure.why);
            (&one.url, one.buffer.counters(), failure)
        })
    }

    /// Returns a sink's explanation for the last event that it rejected permanently.
    pub fn last_rejection(&self) -> Option<String> {
        let mut channels = self.channels.iter();
        channels.find_map(|one| one.buffer.last_rejection())
    }

    /// Makes the shippers send without delays between attempts. Does not wait.
    pub fn begin_drain(&self) {
        self.channels.iter().for_each(|one| one.buffer.drain());
    }

    /// Waits until everything is settled, a sink failed for good or the deadline passed. More events can
    /// be pushed afterwards (the exit record, with these counters) and drained again.
    pub fn drain(&self, deadline: Instant) -> Counters {
        self.begin_drain();
        for one in &self.channels {
            one.buffer.wait_drained(deadline);
        }
        self.counters()
    }
}

/// Locked buffers of all sinks, to which their owner adds events.
pub struct Open<'a>(Vec<buffer::Open<'a>>);

impl Open<'_> {
    /// Returns true if a line of `size` bytes fits now; otherwise a notice follows.
    pub fn has_room(&mut self, size: usize) -> bool {
        // Checks every buffer, because each one without room must send a notice.
        let rooms = self.0.iter_mut().map(|one| one.has_room(size));
        rooms.fold(true, |all, room| all & room)
    }

    /// Queues a frame for every sink if it fits into each buffer, or for none.
    pub fn push_frame(&mut self, stream: Stream, frame: Frame<'_>) -> Pushed {
        if !self.has_room(frame.bytes.len()) {
            return Pushed::Full;
        }
        let pushed = self.0.iter_mut().map(|one| one.push_frame(stream, frame));
        // There is room, and all buffers are locked.
        pushed.last().unwrap_or(Pushed::Full)
    }

    /// Queues a frame for the sinks that have room, and counts it as dropped for the others. Its
    /// sequence number stays unused there, so that the receiver sees the gap.
    pub fn push_or_drop(&mut self, stream: Stream, frame: Frame<'_>) {
        for one in &mut self.0 {
            if one.push_frame(stream, frame) == Pushed::Full {
                one.drop_lines(1);
            }
        }
    }

    /// Queues a record that a container can cause in any number (side effects) for the sinks that have
    /// room; counts it as lost for the others.
    pub fn push_record(&mut self, kind: &'static str, fields: &serde_json::Value) -> Pushed {
        let pushed = self
            .0
            .iter_mut()
            .map(|one| one.push_record(kind, fields.clone()));
        pushed.fold(Pushed::Full, |one, other| match other {
            Pushed::Taken(_) => other,
            Pushed::Full => one,
        })
    }
}
