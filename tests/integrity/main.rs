//! Changes behind imrun's back are refused at every integrity level, and each launch reports its level.
//!
//! The tests need /bin/busybox (static) and, as root, cgroup2; otherwise they report what is missing. With
//! IMRUN_DRIVER, and as an ordinary user, they test unpacked images.
//!
//! Not tested, because `known` cannot detect them by design: writes to the raw block device, XFS's invisible
//! I/O, a clock set back to the nanosecond of a file's last change, and memos forged by root.
#![allow(unsafe_code, clippy::unwrap_used)]

mod attack;
mod lab;
mod levels;
mod meanwhile;
mod memos;
#[path = "../support/skip.rs"]
mod skip;
mod unpacked;
