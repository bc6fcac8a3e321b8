//! Isolation of the app: a probe in a container tries to break it, and prints the results of its system calls.
//!
//! These tests launch containers: they need root, cgroup2, EROFS and Landlock. Without them each test is skipped with
//! a message.
#![allow(clippy::unwrap_used)]

#[path = "isolation/host.rs"]
#[macro_use]
mod host;
#[path = "isolation/attempts.rs"]
mod attempts;
#[path = "isolation/changes.rs"]
mod changes;
#[path = "isolation/cve.rs"]
mod cve;
#[path = "isolation/missing.rs"]
mod missing;
#[path = "support/skip.rs"]
mod skip;
