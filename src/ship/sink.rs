//! The interface of all sinks.

use super::event::Batch;
use std::time::{Duration, Instant};

/// How a sink knows that an event has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The protocol answers for each batch.
    Protocol,
    /// The peer's kernel has acknowledged the bytes; whether the peer read them is unknown.
    Transport,
    /// Nothing answers, and nothing tells whether anything arrived.
    None,
    /// Nothing leaves the host.
    Unshipped,
}

impl Acknowledgement {
    /// The word used in the launch record.
    pub fn as_str(self) -> &'static str {
        match self {
            Acknowledgement::Protocol => "protocol",
            Acknowledgement::Transport => "transport",
            Acknowledgement::None => "none",
            Acknowledgement::Unshipped => "unshipped",
        }
    }
}

/// What became of a batch: every event that is not named here is acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Events that the sink will never take, in the order of the batch.
    pub rejected: Vec<Rejection>,
    /// Ascending indices of events to be sent again.
    pub again: Vec<usize>,
}

/// An event that the sink refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Which event of the batch.
    pub index: usize,
    /// The sink's words.
    pub why: String,
}

/// A batch of which nothing is known to have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What can be done about it.
    pub kind: FailureKind,
    /// What happened, as the `why` of an error.
    pub why: String,
    /// What the operator can do about it.
    pub hint: Option<&'static str>,
    /// Shortest wait before the next attempt that the sink asks for.
    pub retry_after: Option<Duration>,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It may pass by itself (overload, timeout, half an answer): always tried again.
    Again,
    /// Somebody said no: nobody listens, no such name, wrong password or path. Ends a launch at
    /// once; after the first acknowledgement the sink was right once, so it is tried again.
    Refused,
    /// It cannot pass: the sink is of no use any more.
    Broken,
    /// The batch is too large: tried again in smaller pieces.
    TooLarge,
    /// The batch is refused for good because of what is in it: tried again in smaller pieces, so that
    /// the events that are not at fault arrive. Before the first acknowledgement it is `Refused`.
    Rejected,
}

impl Failure {
    /// A failure of the given kind, without a hint.
    pub fn new(kind: FailureKind, why: impl Into<String>) -> Failure {
        Failure {
            kind,
            why: why.into(),
            hint: None,
            retry_after: None,
        }
    }

    /// What may pass by itself.
    pub fn again(why: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Again, why)
    }

    /// The peer went away.
    pub fn closed() -> Failure {
        Failure::again("closed the connection")
    }

    /// The same failure with a hint.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Failure {
        self.hint = Some(hint);
        self
    }
}

/// Somewhere that events are shipped to. It is owned by the shipper's thread, so it may block, but
/// each call should end within the timeout it was made with.
///
/// ```text
/// send → settle → send → send → settle → settle → …
/// ```
/// Batches are settled in the order in which they were sent. After a failure of either call nothing
/// is in flight any more: what was not settled is sent again.
pub trait Sink: Send {
    /// How many batches can be in flight.
    fn window(&self) -> usize {
        1
    }

    /// Batches that the peer has taken, and that wait only to be outlived by their connection: the
    /// moment before which [`Sink::settle`] has nothing new to say of them.
    fn rests_until(&self) -> Option<Instant> {
        None
    }

    /// Tells the sink whether memory for more events is short.
    fn press(&mut self, _pressed: bool) {}

    /// Sends a batch, which is never empty; connects first where that is needed.
    fn send(&mut self, batch: &Batch) -> Result<(), Failure>;

    /// What became of the batch that has been in flight for the longest time. None where that is
    /// not known after `wait`; without one it waits until the sink's own timeout, or until there is
    /// room in the window.
    fn settle(
        &mut self,
        batch: &Batch,
        wait: Option<Duration>,
    ) -> Result<Option<Delivery>, Failure>;
}
