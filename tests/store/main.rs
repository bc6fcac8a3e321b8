//! The store: accepted and refused sources of `imrun import`, and the verification of every byte later.
//!
//! The tests need root, cgroup2 and EROFS; without them, each reports the reason and is skipped.
#![allow(clippy::unwrap_used)]

mod collect;
mod import;
mod layouts;
mod mount;
mod private;
mod sources;
mod tamper;
mod verity_annotations;

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
