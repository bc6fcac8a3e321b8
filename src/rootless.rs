//! An ordinary user of the host: root of a user namespace that has no id but his own.
//!
//! In there he may mount and make namespaces, and nowhere else. All that he makes belongs to him; on
//! the host he has no right that he did not have before.
#![forbid(unsafe_code)]

use crate::error::{Context, Error, Result};
use crate::ids::is_ordinary;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

const SETGROUPS: &str = "/proc/self/setgroups";

/// Enters such a namespace, with mounts and System V objects of its own; nothing to do for root of the
/// host. This process must have one thread.
///
/// The ipc namespace is the container's: only here it has a root who can empty it, for in the
/// container's own user namespace the one id is the app's.
///
/// # Errors
/// A host that gives its users none.
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
    // Else the kernel takes no map of groups: who leaves one could gain what it was kept from.
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
            error.hint("/proc/sys/user/max_user_namespaces is 0 or reached")
        }
        _ => error.hint("this host gives its users no user namespace (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); imrun takes that or root"),
    }
}

/// Whether this process may choose its supplementary groups: then it has none that it does not want.
pub fn may_set_groups() -> Result<bool> {
    if !is_ordinary()? {
        return Ok(true);
    }
    let text = std::fs::read_to_string(SETGROUPS).context(|| format!("read({SETGROUPS:?})"))?;
    Ok(text.trim_end() == "allow")
}
