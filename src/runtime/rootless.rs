//! Launches by an ordinary user of the host, as root of a user namespace that maps only his own id.
//!
//! In that namespace, and nowhere else, he may mount and create namespaces. Everything that he creates
//! belongs to him; on the host he gains no privileges.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Error, Result};
use crate::base::ids::is_ordinary;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

const SETGROUPS: &str = "/proc/self/setgroups";

/// Enters a user namespace that maps only the caller's id, with a mount and an ipc namespace of its own.
/// Does nothing for the host's root. This process must have one thread.
///
/// The container will use the ipc namespace: only here it has a root who can set its limits to 0. In the
/// container's own user namespace the single id is the app's.
///
/// # Errors
/// The host allows its users no user namespaces.
pub fn enter() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    if !is_ordinary()? {
        return Ok(());
    }
    if user.is_root() {
        return unshare(own).map_err(refused);
    }
    unshare(CloneFlags::CLONE_NEWUSER | own).map_err(refused)?;
    let put = |path: &str, text: String| {
        std::fs::write(path, text).map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Error {
                what: format!("write({path:?})"),
                ..refused(errno)
            }
        })
    };
    // Required before the kernel accepts a group map: a process that drops a group could gain access that
    // the group was denied.
    put(SETGROUPS, "deny".to_owned())?;
    put("/proc/self/uid_map", format!("0 {user} 1\n"))?;
    put("/proc/self/gid_map", format!("0 {group} 1\n"))
}

fn refused(errno: Errno) -> Error {
    let error = Error::unsupported(
        "unshare(CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWIPC)",
        errno.desc(),
    );
    match errno {
        Errno::ENOSPC | Errno::EUSERS => {
            error.hint("raise /proc/sys/user/max_user_namespaces: it is 0, or the limit is reached")
        }
        _ => error.hint("imrun needs root or a user namespace, which this host does not allow its users (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"),
    }
}

/// Returns true if this process may set its supplementary groups.
pub fn may_set_groups() -> Result<bool> {
    if !is_ordinary()? {
        return Ok(true);
    }
    let text = std::fs::read_to_string(SETGROUPS).context(|| format!("read({SETGROUPS:?})"))?;
    Ok(text.trim_end() == "allow")
}
