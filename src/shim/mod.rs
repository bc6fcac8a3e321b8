//! Shim of the containerd runtime `io.containerd.imrun.v1`: one process per pod, which serves containerd's task
//! API (version 2) and launches containers with imrun's own commands.
//!
//! ```text
//! containerd ─ start ──→ binds the pod's socket, starts its shim, prints the address
//!            ─ ttrpc ──→ shim ─ image ───→ containerd's digest; its blobs into imrun's store, verified
//!                             └ create … → the supervisor, whose app is the shim's child
//!            ─ delete ─→ cleans up after a shim that was killed
//! ```
//! `image` and `create` are the same program, executed with a first argument that containerd never uses: so the
//! versions match, and their memory is freed when they end.
//!
//! Source: containerd, core/runtime/v2/README.md; api/runtime/task/v2/shim.proto.
#![forbid(unsafe_code)]

mod containerd;
mod content;
mod events;
mod flags;
mod grpc;
mod image_identity;
mod metrics;
mod oom;
mod pod;
mod runtime;
mod serve;
mod socket;
mod stdin;
mod task;

use crate::base::error::{Context, Result};
use crate::base::protobuf::{bytes, message};
use crate::cli;
use crate::oci::features::features;
use flags::{Action, Flags};
use std::ffi::OsString;
use std::io::Write;

const VERSION: &str = concat!("containerd-shim-imrun-v1 ", env!("CARGO_PKG_VERSION"), "\n");
/// First argument that selects imrun's command line.
const IMRUN: &str = "imrun";
/// First argument that selects the import of a container's image.
const IMAGE: &str = "image";

/// Runs the action in the arguments. Returns the exit code.
pub fn main(mut args: Vec<OsString>) -> u8 {
    if args.get(1).is_some_and(|first| first == IMRUN) {
        args.remove(0);
        return cli::main(args);
    }
    cli::warn_on_stderr();
    match act(&args) {
        Ok(()) => 0,
        Err(error) => {
            cli::report(&error);
            error.exit
        }
    }
}

fn act(args: &[OsString]) -> Result<()> {
    if args.get(1).is_some_and(|first| first == IMAGE) {
        return content::main(&Flags::parse(&args[2..])?);
    }
    let flags = Flags::parse(&args[1..])?;
    match flags.action {
        Action::Start => socket::start(&flags),
        Action::Delete => runtime::clean_up(&flags),
        Action::Version => cli::print(VERSION).map(drop),
        Action::Info => info(),
        Action::Serve => serve::serve(flags),
    }
}

/// Prints the runtime's information for containerd 2 (api/types/introspection.proto, RuntimeInfo).
fn info() -> Result<()> {
    const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
    let mut info = Vec::new();
    bytes(&mut info, 1, b"io.containerd.imrun.v1");
    message(&mut info, 2, |version| {
        bytes(version, 1, env!("CARGO_PKG_VERSION").as_bytes());
        bytes(version, 2, env!("IMRUN_BUILD").as_bytes());
    });
    message(&mut info, 4, |any| {
        bytes(any, 1, FEATURES.as_bytes());
        bytes(any, 2, features().to_string().as_bytes());
    });
    std::io::stdout()
        .write_all(&info)
        .context(|| "write(standard output)")
}
