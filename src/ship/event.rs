//! What is shipped: lines of the app and records of imrun.

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

/// One thing to ship.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When imrun read or made it: nanoseconds since 1970-01-01T00:00:00Z.
    pub time: u64,
    /// Counts all events of a launch from 1; a gap is what was dropped.
    pub sequence: u64,
    /// The line or the record.
    pub body: Body,
}

/// The content of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A line that the app wrote.
    Line {
        /// Where it was written to.
        stream: Stream,
        /// As written, without the newline: any bytes at all.
        bytes: Box<[u8]>,
        /// The line was too long and goes on in this stream's next event.
        partial: bool,
    },
    /// A record of imrun's own.
    Record {
        /// `launch`, `exit`, `side-effect`, …
        kind: &'static str,
        /// An object: what there is to say.
        fields: serde_json::Value,
    },
}

impl Event {
    /// Whether this is a line, not a record.
    pub fn is_line(&self) -> bool {
        matches!(self.body, Body::Line { .. })
    }
}

impl Body {
    /// Bytes of memory that an event with this body is charged with.
    pub(super) fn cost(&self) -> usize {
        match self {
            Body::Line { bytes, .. } => line_cost(bytes.len()),
            // A tree of values takes a small multiple of its text.
            Body::Record { fields, .. } => line_cost(fields.to_string().len().saturating_mul(2)),
        }
    }
}

/// Bytes that a line of that length is charged with: its slot in the queue too, so that a million
/// empty lines are bounded.
pub(super) fn line_cost(length: usize) -> usize {
    // A queue may have grown to twice its length; the allocator rounds up and keeps a header.
    length.saturating_add(2 * size_of::<Event>() + 32)
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
