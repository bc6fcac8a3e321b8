//! The interface of all sinks.

use super::event::{Event, Origin};

/// How a sink knows that an event has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The protocol answers for each batch.
    Protocol,
    /// The peer's kernel has acknowledged the bytes; whether the peer read them is unknown.
    Transport,
    /// Nothing answers: this is called `unshipped` in the launch record.
    None,
}

impl Acknowledgement {
    /// The word used in the launch record.
    pub fn as_str(self) -> &'static str {
        match self {
            Acknowledgement::Protocol => "protocol",
            Acknowledgement::Transport => "transport",
            Acknowledgement::None => "unshipped",
        }
    }
}

/// What became of a batch: every event that is not named here is acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Events that the sink will never take.
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
}

impl Failure {
    /// A failure of the given kind, without a hint.
    pub fn new(kind: FailureKind, why: impl Into<String>) -> Failure {
        Failure {
            kind,
            why: why.into(),
            hint: None,
        }
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
pub trait Sink: Send {
    /// Tries once to ship a batch, which is never empty; connects first where that is needed.
    fn deliver(&mut self, origin: &Origin, batch: &[Event]) -> Result<Delivery, Failure>;
}
