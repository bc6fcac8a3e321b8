//! What was changed behind imrun's back is refused, at every integrity level; each launch says
//! which level held.
//!
//! Needs /bin/busybox (static), and as root a cgroup2; else a test says what is missing. By IMRUN_DRIVER and as an
//! ordinary user it is about unpacked images.
//!
//! Not here, because `known` cannot see it by design: writes to the raw block device, XFS's
//! invisible I/O, a clock set back to the nanosecond of a file's last change, memos that root forged.
#![allow(unsafe_code, clippy::unwrap_used)]

mod attack;
mod lab;
mod levels;
mod meanwhile;
mod memos;
#[path = "../support/skip.rs"]
mod skip;
mod unpacked;
