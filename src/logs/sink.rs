//! Interface of all sinks.

use super::event::Batch;
use std::time::{Duration, Instant};

/// Maximum delay that a sink can request.
pub const PATIENCE: Duration = Duration::from_secs(3600);

/// Meaning of a sink's acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The protocol acknowledges each batch.
    Protocol,
    /// The peer's kernel acknowledged the bytes; it is unknown if the peer read them.
    Transport,
    /// Nothing is acknowledged.
    None,
    /// Nothing leaves the host.
    Unshipped,
}

impl Acknowledgement {
    /// Returns the word for the launch record.
    pub fn as_str(self) -> &'static str {
        match self {
            Acknowledgement::Protocol => "protocol",
            Acknowledgement::Transport => "transport",
            Acknowledgement::None => "none",
            Acknowledgement::Unshipped => "unshipped",
        }
    }
}

/// Result of sending a batch: every event not listed here is acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Events rejected permanently, in the order of the batch.
    pub rejected: Vec<Rejection>,
    /// Ascending indices of events to send again.
    pub again: Vec<usize>,
}

/// An event that the sink rejected permanently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Index of the event in the batch.
    pub index: usize,
    /// Explanation of the sink.
    pub why: String,
}

/// Failure to deliver a batch; it is unknown if any of it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Consequence of the failure.
    pub kind: FailureKind,
    /// Description, as the `why` of an error.
    pub why: String,
    /// Remedy for the operator.
    pub hint: Option<&'static str>,
    /// Minimum delay before the next attempt that the sink requests.
    pub retry_after: Option<Duration>,
}

/// Consequence of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Temporary (overload, timeout, incomplete answer): always retried.
    Again,
    /// Refused: no listener, unknown name, wrong password or path. Ends a launch immediately. After the first
    /// acknowledgement it is retried, because the sink worked before.
    Refused,
    /// Permanent: the sink is unusable.
    Broken,
    /// The batch is too large: retried in smaller pieces.
    TooLarge,
    /// The sink permanently rejects a batch because of its contents: retried in smaller pieces, so that
    /// the other events arrive. Before the first acknowledgement it counts as `Refused`.
    Rejected,
}

impl Failure {
    /// Creates a failure of this kind without a hint.
    pub fn new(kind: FailureKind, why: impl Into<String>) -> Failure {
        Failure {
            kind,
            why: why.into(),
            hint: None,
            retry_after: None,
        }
    }

    /// Creates a temporary failure.
    pub fn again(why: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Again, why)
    }

    /// Creates the failure for a closed connection.
    pub fn closed() -> Failure {
        Failure::again("closed the connection")
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Failure {
        self.hint = Some(hint);
        self
    }
}

/// A destination of events. The shipper's thread owns it, so calls may block, but each should end within
/// the sink's timeout.
///
/// ```text
/// send → settle → send → send → settle → settle → …
/// ```
/// Batches are settled in the order in which they were sent. After a failure of either call nothing is
/// in flight, and everything that is not settled is sent again.
pub trait Sink: Send {
    /// Returns the maximum number of batches in flight.
    fn window(&self) -> usize {
        1
    }

    /// Returns the time before which [`Sink::settle`] has no news, if the peer has taken all batches and
    /// only their connection must outlive them.
    fn rests_until(&self) -> Option<Instant> {
        None
    }

    /// Tells the sink whether memory for further events is short.
    fn press(&mut self, _pressed: bool) {}

    /// Sends a batch, which is never empty; connects first if necessary.
    fn send(&mut self, batch: &Batch) -> Result<(), Failure>;

    /// Returns the delivery of the oldest batch in flight, or `None` if it is unknown after `wait`.
    /// Without `wait`, waits for the sink's own timeout, or until there is room in the window.
    fn settle(
        &mut self,
        batch: &Batch,
        wait: Option<Duration>,
    ) -> Result<Option<Delivery>, Failure>;
}
