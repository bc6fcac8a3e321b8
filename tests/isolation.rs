//! What an app cannot do: a probe in a container tries it, and tells what the kernel said.
//!
//! These tests launch containers: they need root, cgroup2, EROFS and Landlock; else each says so
//! and is skipped.
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
