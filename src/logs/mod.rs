//! Ships the container's output and imrun's own records to log sinks without blocking the supervisor.
//!
//! ```text
//! pipe → Framer → Open::push_line → buffer → shipper thread → Sink → the network
//!                                     ↑ notices (an eventfd) ↓ acknowledgements
//! ```
//!
//! The supervisor only uses the buffer; each of its calls returns immediately or has a deadline. Only
//! the thread that owns the sink can hang in a dead network, and it is left behind when the process
//! ends. Each sink has its own buffer and thread.
//!
//! Delivery is at least once and in order. Every event has a sequence number, so that a receiver can
//! recognise repetitions and gaps.
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

/// Parsers of sinks' answers, for fuzzing.
pub mod answers {
    pub use super::es::understand as bulk;
    pub use super::forward::acknowledged as forward;
    pub use super::http::parse as http;
    pub use super::otlp::understand as otlp;
}
