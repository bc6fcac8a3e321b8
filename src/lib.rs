//! imrun launches an OCI image exactly as it was built: every layer verified by digest, mounted
//! read-only with no writable layer, configured by the environment, its output sent to a log sink.
//!
//! Data flows one way: a room uses only those below it (`tests/rooms.rs` has the arrows).
//!
//! ```text
//! main   cli      the command line
//!        shim     containerd's shim            oci        an OCI runtime's commands
//!        appliance  PID 1 of a machine         bake       makes images
//!        runtime  one launch
//!        registry pull, push                   logs       ships the output
//!        store    images on this host
//!        image    an image as data
//!        base     errors, system calls, digests
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod appliance;
#[cfg(feature = "import")]
pub mod bake;
pub mod base;
pub mod cli;
pub mod image;
pub mod logs;
#[cfg(feature = "oci")]
pub mod oci;
#[cfg(feature = "registry")]
pub mod registry;
pub mod runtime;
#[cfg(feature = "shim")]
pub mod shim;
pub mod store;
