//! What the container's own namespaces are set to, before it can do anything with them.

use super::child::Step;
use crate::error::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A setting beneath /proc.
pub(super) struct Sysctl {
    /// Names it when it cannot be set.
    pub step: Step,
    path: &'static CStr,
    value: &'static [u8],
}

const fn sysctl(step: Step, path: &'static CStr, value: &'static [u8]) -> Sysctl {
    Sysctl { step, path, value }
}

/// Of the guard's pid namespace, by a member of it who is root of the host: memory cannot be executed
/// by descriptor there, nor in any namespace that is nested in it.
pub(super) const HOST_USER: [Sysctl; 1] = [sysctl(Step::SysctlMemfd, c"sys/vm/memfd_noexec", b"2")];

/// Of the ipc namespace, to be set as its root: nothing can be kept in the kernel.
pub(super) const IPC: [Sysctl; 5] = [
    sysctl(Step::SysctlShmmni, c"sys/kernel/shmmni", b"0"),
    sysctl(Step::SysctlShmall, c"sys/kernel/shmall", b"0"),
    sysctl(Step::SysctlMsgmni, c"sys/kernel/msgmni", b"0"),
    sysctl(Step::SysctlSem, c"sys/kernel/sem", b"0 0 0 0"),
    sysctl(Step::SysctlQueues, c"sys/fs/mqueue/queues_max", b"0"),
];

/// Of the user namespace: no namespace that the app makes can have file systems of its own.
pub(super) const USER: [Sysctl; 1] = [sysctl(
    Step::SysctlUserNamespaces,
    c"sys/user/max_user_namespaces",
    b"0",
)];

/// Of a network namespace of its own: without privileges an app can still listen on port 80.
pub(super) const NETWORK: [Sysctl; 1] = [sysctl(
    Step::SysctlPorts,
    c"sys/net/ipv4/ip_unprivileged_port_start",
    b"0",
)];

impl Sysctl {
    /// See [`set`].
    pub fn set(&self, proc: BorrowedFd<'_>) -> nix::Result<()> {
        set(proc, self.path, self.value)
    }
}

/// Empties the ipc namespace of this process, whose procfs is the host's.
pub fn seal_ipc() -> Result<()> {
    let proc = host_proc()?;
    let set = |sysctl: &Sysctl| sysctl.set(proc.as_fd()).context(|| sysctl.step.call());
    IPC.iter().try_for_each(set)
}

/// Writes a setting of the namespaces that this thread is in, whose procfs is the host's; the path is
/// beneath /proc.
pub(super) fn set_here(path: &CStr, value: &[u8]) -> Result<()> {
    set(host_proc()?.as_fd(), path, value)
        .context(|| format!("write(\"/proc/{}\")", path.to_string_lossy()))
}

fn host_proc() -> Result<OwnedFd> {
    open("/proc", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open(\"/proc\", O_PATH)")
}

/// Writes a setting through a procfs that nobody else has a handle of: what is mounted on it, or a
/// link in it, leads nowhere.
pub(super) fn set(proc: BorrowedFd<'_>, path: &CStr, value: &[u8]) -> nix::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    let file = openat2(proc, path, how)?;
    match nix::unistd::write(&file, value)? {
        length if length == value.len() => Ok(()),
        _ => Err(Errno::EIO),
    }
}
