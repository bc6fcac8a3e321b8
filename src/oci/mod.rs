//! The OCI runtime (runtime-spec 1.3): bundles, separate `create` and `start`, no daemon.
//!
//! ```text
//! create ── reads config.json ── forks ── waits ─────────────── writes the pid file, ends
//!              the supervisor └ clones the app (its sibling) ── waits ── start ── supervises
//! ```
//! The supervisor of a container is an imrun process of its own: it holds the app's pipes and its seccomp
//! listener, and does the work of `imrun run`. The app's parent is the supervisor's own parent, so that the
//! caller (conmon, a containerd shim) reaps the app and gets its exit status.
#![forbid(unsafe_code)]

pub mod config;
pub mod container;
mod document;
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

/// Version of the runtime specification.
pub const VERSION: &str = "1.3.0";
