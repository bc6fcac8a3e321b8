//! The second wall: should a mount ever be writable, nothing can be written all the same.
//!
//! It also keeps the app from executing what is not in its root. Without that, an entrypoint or an
//! interpreter `/proc/self/exe` would be imrun's own file, run inside the container (CVE-2019-5736).
//!
//! The three system calls are made directly: the crate of that name would bring three others.

use crate::error::{Context, Error, Result};
use crate::sys::landlock::{self, Access, Handled};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

// linux/landlock.h: LANDLOCK_ACCESS_FS_* and LANDLOCK_SCOPE_*.
const EXECUTE: Access = 1;
const WRITE_FILE: Access = 1 << 1;
/// Removing and making entries of every kind.
const DIRECTORIES: Access = 0x1ff << 4;
const REFER: Access = 1 << 13;
const TRUNCATE: Access = 1 << 14;
const ABSTRACT_SOCKETS: u64 = 1;
const SIGNALS: u64 = 1 << 1;

/// The device nodes that are meant to be written.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Denies all that this kernel's Landlock knows of writing, and of reaching out of the container.
///
/// `root` need not be attached: a rule is about what is beneath a directory, wherever it is mounted.
///
/// # Errors
/// A kernel without Landlock, or with it switched off.
pub(super) fn ruleset(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let version = landlock::version().map_err(missing)?;
    let since = |first, rights| if version >= first { rights } else { 0 };
    let handled = Handled {
        files: EXECUTE | WRITE_FILE | DIRECTORIES | since(2, REFER) | since(3, TRUNCATE),
        network: 0,
        scopes: since(6, ABSTRACT_SOCKETS | SIGNALS),
    };
    let ruleset = landlock::create(&handled).context(|| "landlock_create_ruleset()")?;
    landlock::allow(ruleset.as_fd(), root, EXECUTE)
        .context(|| "landlock_add_rule(root, LANDLOCK_ACCESS_FS_EXECUTE)")?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    for name in DEVICES {
        let path = format!("dev/{name}");
        let device = openat2(root, path.as_str(), how)
            .context(|| format!("openat2(root, {path:?}, O_PATH)"))?;
        landlock::allow(ruleset.as_fd(), device.as_fd(), WRITE_FILE)
            .context(|| format!("landlock_add_rule({path:?}, LANDLOCK_ACCESS_FS_WRITE_FILE)"))?;
    }
    Ok(ruleset)
}

fn missing(errno: Errno) -> Error {
    let error = Error::unsupported(
        "Landlock",
        format_args!("this kernel has none: {}", errno.desc()),
    );
    match errno {
        Errno::EOPNOTSUPP => error.hint("landlock has to be in the kernel's lsm= list"),
        _ => error
            .hint("it takes a kernel with CONFIG_SECURITY_LANDLOCK and landlock in its lsm= list"),
    }
}
