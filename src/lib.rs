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

pub mod bake;
pub mod digest;
pub mod env;
pub mod error;
pub mod json;
pub mod manifest;
pub mod reference;
pub mod user;
