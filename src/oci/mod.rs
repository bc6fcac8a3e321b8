//! The runtime of the OCI runtime specification (1.3): bundles, `create` and `start` apart, and no
//! daemon.
//!
//! ```text
//! create ── reads config.json ── forks ── waits ─────────────── writes the pid file, ends
//!              the supervisor └ clones the app (its sibling) ── waits ── start ── supervises
//! ```
//! The supervisor of a container is an imrun of its own: it holds the app's pipes and its listener,
//! and does all that `imrun run` does. The app's parent is the supervisor's own, so that the caller
//! (conmon, a containerd shim) reaps it and learns how it ended.
#![forbid(unsafe_code)]

pub mod config;
pub mod container;
pub mod features;
pub mod hooks;
mod limits;
mod linux;
mod mounts;
pub mod preserved;
mod process;
mod scope;
mod seccomp;
mod start_gate;
pub mod state;

/// The specification that is kept to.
pub const VERSION: &str = "1.3.0";
