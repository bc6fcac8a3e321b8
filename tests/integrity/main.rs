//! What was changed behind imrun's back is refused, at every integrity level; each launch says
//! which level held.
//!
//! Needs root, a cgroup2, EROFS and /bin/busybox (static); else a test says what is missing.
//!
//! Not here, because `known` cannot see it by design: writes to the raw block device, XFS's
//! invisible I/O, a clock set back to the nanosecond of a file's last change, memos that root forged.
#![allow(unsafe_code, clippy::unwrap_used)]

mod attack;
mod lab;
mod levels;
mod memos;
#[path = "../support/skip.rs"]
mod skip;
