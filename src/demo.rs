//! What `imrun demo` shows imrun with.

pub mod receiver;
