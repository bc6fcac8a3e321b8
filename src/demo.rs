//! What `imrun demo` shows imrun with.
#![forbid(unsafe_code)]

pub mod receiver;
