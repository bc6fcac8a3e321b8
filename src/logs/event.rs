//! What is shipped: lines of the app and records of imrun, many at a time.

use serde_json::Value;

/// One of the app's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The kind of the record that says of a sink of bare bytes that no more of a `stream` comes.
pub(super) const STREAM_END: &str = "stream-end";

/// One thing to ship.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    /// When imrun read or made it: nanoseconds since 1970-01-01T00:00:00Z. No two events of a
    /// launch have the same.
    pub time: u64,
    /// Counts all events of a launch from 1; a gap is what was dropped.
    pub sequence: u64,
    /// The line or the record.
    pub body: Body<'a>,
}

/// The content of an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Body<'a> {
    /// A line that the app wrote.
    Line {
        /// Where it was written to.
        stream: Stream,
        /// As written, without the newline: any bytes at all.
        bytes: &'a [u8],
        /// The line was too long and goes on in this stream's next event.
        partial: bool,
    },
    /// A record of imrun's own.
    Record {
        /// `launch`, `exit`, `side-effect`, …
        kind: &'static str,
        /// An object: what there is to say.
        fields: &'a Value,
    },
}

impl Body<'_> {
    /// Whether this is a line, not a record.
    pub fn is_line(&self) -> bool {
        matches!(self, Body::Line { .. })
    }

    /// Bytes of memory that an event with this body is charged with.
    pub(super) fn cost(&self) -> usize {
        match self {
            Body::Line { bytes, .. } => line_cost(bytes.len()),
            Body::Record { fields, .. } => record_cost(fields),
        }
    }
}

/// Bytes that a line of that length is charged with: its slot too, so that a million empty lines
/// are bounded.
pub(super) fn line_cost(length: usize) -> usize {
    length.saturating_add(size_of::<Slot>())
}

/// Bytes that a record is charged with.
pub(super) fn record_cost(fields: &Value) -> usize {
    // A tree of values takes a small multiple of its text.
    line_cost(fields.to_string().len().saturating_mul(2))
}

/// Events in their order. The bytes of all lines lie behind one another: a line more is no
/// allocation more.
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
    /// The most events in a batch.
    pub const EVENTS: usize = 1000;
    /// The most bytes of lines in a batch; a single line may exceed it.
    pub const BYTES: usize = 64 * 1024;

    /// Whether one line more of that length keeps it within its bounds.
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
            // What it will hold at most: growing would copy, and hold up to twice as much.
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

    /// The number of events.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it has no event.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The events in their order.
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

    /// Sequence number of the first event.
    pub(super) fn first(&self) -> Option<u64> {
        self.slots.first().map(|slot| slot.sequence)
    }

    /// Keeps the events of these ascending indices.
    pub(super) fn keep(&mut self, indices: &[usize]) {
        let mut index = 0..;
        self.slots.retain(|_| {
            let index = index.next().unwrap_or(usize::MAX);
            indices.binary_search(&index).is_ok()
        });
    }

    /// Takes the second half off; none of a single event.
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

    /// Empties it; its memory can be used again.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.bytes.clear();
    }
}

/// Who the events are from, fixed for a launch.
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
    /// `imrun.launch_id`: what was launched, and how.
    pub launch_id: String,
}

#[cfg(test)]
mod tests;
