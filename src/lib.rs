//! imrun launches an OCI image exactly as it was built: every layer verified by digest, mounted
//! read-only with no writable layer, configured by the environment, its output sent to a log sink.
//!
//! Data flows one way; a module uses only those below it:
//!
//! ```text
//! { main, shim } → cli → { demo, bake, doctor, oci, init }
//!      → container → { launch, supervise, ship, record, state, status }
//!      → { rootfs, integrity, cgroup, registry, store, layer, tree, erofs, manifest }
//!      → { digest, reference, user, env, json, time, tls, verity, seccomp, capabilities, files, error } → sys (the only `unsafe`)
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "import")]
pub mod bake;
pub mod capabilities;
pub mod cgroup;
pub mod cli;
pub mod container;
#[cfg(feature = "import")]
pub mod demo;
pub mod digest;
pub mod doctor;
pub mod env;
pub mod erofs;
pub mod error;
pub mod files;
pub mod id_map;
pub mod ids;
pub mod init;
pub mod integrity;
pub mod json;
pub mod launch;
pub mod layer;
pub mod manifest;
pub mod observe;
#[cfg(feature = "oci")]
pub mod oci;
pub mod parallel;
pub mod paths;
pub mod record;
pub mod reference;
#[cfg(feature = "registry")]
pub mod registry;
pub mod relay;
pub mod rootfs;
pub mod rootless;
pub mod seccomp;
#[cfg(feature = "shim")]
pub mod shim;
pub mod ship;
pub mod state;
pub mod status;
pub mod store;
pub mod supervise;
pub mod sys;
pub mod time;
pub mod tls;
pub mod tree;
pub mod unpacked;
pub mod user;
pub mod verity;
