//! Lines of the container and records of imrun, in batches.

use serde_json::Value;

/// Output stream of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// Returns `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Kind of the record that tells a sink of unmodified bytes that a `stream` has ended.
pub(super) const STREAM_END: &str = "stream-end";

/// An event to ship.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    /// Time at which imrun read or made it, in nanoseconds since 1970-01-01T00:00:00Z; unique in a launch.
    pub time: u64,
    /// Number of the event in its launch, from 1; a gap is a dropped event.
    pub sequence: u64,
    /// Line or record.
    pub body: Body<'a>,
}

/// The content of an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Body<'a> {
    /// A line that the container wrote.
    Line {
        /// Stream that it was written to.
        stream: Stream,
        /// Bytes as written, without the newline.
        bytes: &'a [u8],
        /// True if the line continues in this stream's next event.
        partial: bool,
    },
    /// A record of imrun.
    Record {
        /// Kind: `launch`, `exit`, `side-effect`, …
        kind: &'static str,
        /// Fields of the record, an object.
        fields: &'a Value,
    },
}

impl Body<'_> {
    /// Returns true for a line.
    pub fn is_line(&self) -> bool {
        matches!(self, Body::Line { .. })
    }

    /// Returns the bytes of buffer that an event with this body occupies.
    pub(super) fn cost(&self) -> usize {
        match self {
            Body::Line { bytes, .. } => line_cost(bytes.len()),
            Body::Record { fields, .. } => record_cost(fields),
        }
    }
}

/// Returns the bytes of buffer that a line of this length occupies, including its slot, so that the
/// number of empty lines is bounded.
pub(super) fn line_cost(length: usize) -> usize {
    length.saturating_add(size_of::<Slot>())
}

/// Returns the bytes of buffer that a record occupies.
pub(super) fn record_cost(fields: &Value) -> usize {
    // A tree of values needs a small multiple of its text.
    line_cost(fields.to_string().len().saturating_mul(2))
}

/// Events in order. The bytes of all lines are contiguous, so that a line needs no allocation.
#[derive(Debug, Default)]
pub struct Batch {
    slots: Vec<Slot>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Slot {
    time: u64,
    sequence: u64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Line {
        start: u32,
        length: u32,
        stream: Stream,
        partial: bool,
    },
    Record(Box<(&'static str, Value)>),
}

impl Batch {
    /// Maximum number of events in a batch.
    pub const EVENTS: usize = 1000;
    /// Maximum bytes of lines in a batch; a single line may exceed it.
    pub const BYTES: usize = 64 * 1024;

    /// Returns true if one more line of this length fits.
    pub fn fits(&self, length: usize) -> bool {
        self.slots.is_empty()
            || self.slots.len() < Self::EVENTS
                && self.bytes.len().saturating_add(length) <= Self::BYTES
    }

    /// Adds a line.
    pub fn push_line(
        &mut self,
        time: u64,
        sequence: u64,
        stream: Stream,
        bytes: &[u8],
        partial: bool,
    ) {
        let offset = |length: usize| u32::try_from(length).expect("a batch is small");
        let content = Content::Line {
            start: offset(self.bytes.len()),
            length: offset(bytes.len()),
            stream,
            partial,
        };
        if self.slots.is_empty() {
            // Reserves the maximum: growing would copy, and could hold twice as much.
            self.bytes.reserve_exact(Self::BYTES.max(bytes.len()));
            self.slots.reserve_exact(Self::EVENTS);
        }
        self.bytes.extend_from_slice(bytes);
        self.slots.push(Slot {
            time,
            sequence,
            content,
        });
    }

    /// Adds a record.
    pub fn push_record(&mut self, time: u64, sequence: u64, kind: &'static str, fields: Value) {
        self.slots.push(Slot {
            time,
            sequence,
            content: Content::Record(Box::new((kind, fields))),
        });
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if there are no events.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Iterates over the events in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Event<'_>> {
        self.slots.iter().map(|slot| Event {
            time: slot.time,
            sequence: slot.sequence,
            body: self.body(&slot.content),
        })
    }

    fn body<'a>(&'a self, content: &'a Content) -> Body<'a> {
        match content {
            Content::Line {
                start,
                length,
                stream,
                partial,
            } => Body::Line {
                stream: *stream,
                bytes: &self.bytes[*start as usize..][..*length as usize],
                partial: *partial,
            },
            Content::Record(record) => Body::Record {
                kind: record.0,
                fields: &record.1,
            },
        }
    }

    /// Returns the sequence number of the first event.
    pub(super) fn first(&self) -> Option<u64> {
        self.slots.first().map(|slot| slot.sequence)
    }

    /// Keeps the events with these ascending indices.
    pub(super) fn keep(&mut self, indices: &[usize]) {
        let mut index = 0..;
        self.slots.retain(|_| {
            let index = index.next().unwrap_or(usize::MAX);
            indices.binary_search(&index).is_ok()
        });
    }

    /// Splits off the second half; `None` for a single event.
    pub(super) fn halve(&mut self) -> Option<Batch> {
        let middle = self.len() / 2;
        if middle == 0 {
            return None;
        }
        Some(Batch {
            slots: self.slots.split_off(middle),
            bytes: self.bytes.clone(),
        })
    }

    /// Removes all events and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.bytes.clear();
    }
}

/// Origin of a launch's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `container.id`.
    pub container_id: String,
    /// `container.name`, from `--name`.
    pub container_name: Option<String>,
    /// `container.image.hash.all`: the manifest digest.
    pub image_digest: String,
    /// `host.name`.
    pub host_name: String,
    /// `imrun.launch_id`: a digest of the launch's parameters.
    pub launch_id: String,
}

#[cfg(test)]
mod tests;
