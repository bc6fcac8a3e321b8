//! Ships the container's output and imrun's own records to a log sink, without ever holding up the
//! supervisor.
//!
//! ```text
//! pipe → Framer → Open::push_line → buffer → shipper thread → Sink → the network
//!                                     ↑ notices (an eventfd) ↓ acknowledgements
//! ```
//!
//! The supervisor only ever touches the buffer: each of its calls returns at once or has a
//! deadline. The one thread that can hang in a dead network owns the sink, and is left behind
//! when the process ends. Each sink has a buffer and a thread of its own.
//!
//! Delivery is at-least-once and in order. Every event carries a sequence number, so that a
//! repetition or a gap shows at the receiver.
#![forbid(unsafe_code)]

mod authorization;
mod backoff;
mod buffer;
mod channel;
mod document;
mod es;
mod escape;
mod event;
mod forward;
pub mod frame;
mod http;
mod json;
mod msgpack;
mod net;
mod notice;
mod otlp;
mod parse;
mod posted;
pub(crate) mod protobuf;
mod shipper;
mod sink;
mod stdio;
mod stream;
mod syslog;
mod url;

pub use buffer::{Counters, Pushed};
pub use event::{Batch, Body, Event, Origin, Stream};
pub use frame::{Ending, Frame, Framer};
pub use shipper::{Open, Options, Shipper};
pub use sink::{Acknowledgement, Delivery, Failure, FailureKind, Rejection, Sink};
pub use url::{Protocol, Scheme, SinkUrl, Transport};

/// The parsers of what sinks answer: for fuzzing.
pub mod answers {
    pub use super::es::understand as bulk;
    pub use super::forward::acknowledged as forward;
    pub use super::http::parse as http;
    pub use super::otlp::understand as otlp;
}
