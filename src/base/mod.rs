//! Foundations: errors, system calls, digests, files, encodings, time, TLS.
//!
//! [`sys`] alone has `unsafe` code.

pub mod digest;
pub mod error;
pub mod files;
pub mod ids;
pub mod json;
pub mod parallel;
pub mod paths;
pub mod protobuf;
pub mod sys;
pub mod time;
pub mod tls;
