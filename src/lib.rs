//! imrun launches an OCI image exactly as it was built: every layer verified by digest, mounted
//! read-only with no writable layer, configured by the environment, its output sent to a log sink.
//!
//! Data flows one way; a module uses only those below it:
//!
//! ```text
//! main → cli → { bake, demo } → { launch, supervise, ship }
//!      → { rootfs, store, layer, tree, erofs, manifest, record }
//!      → { digest, reference, user, env, json, error } → sys (the only `unsafe`)
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod demo;
pub mod digest;
pub mod error;
pub mod ship;
pub mod sys;
pub mod time;
