//! The store: what `imrun import` takes and refuses, and what every byte in it is worth later.
//!
//! They need root, cgroup2 and EROFS; else each says so and is skipped.
#![allow(clippy::unwrap_used)]

mod collect;
mod import;
mod layouts;
mod mount;
mod private;
mod seal;
mod sources;
mod tamper;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support"]
mod support {
    pub mod host;
    pub mod launch;
    pub mod layout;
    pub mod outcome;
    pub mod server;
    pub mod skip;
}
