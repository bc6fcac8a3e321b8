//! Probes of the kernel's features.

use super::check;
use nix::Result;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Tests whether a process can be made in new namespaces (`CLONE_NEW*`); it ends at once.
pub fn try_namespaces(flags: u64) -> Result<()> {
    in_namespaces(flags, || Ok(()))
}

/// Tests whether root of a new user namespace can mount an overlay there.
pub fn try_overlay(flags: u64) -> Result<()> {
    in_namespaces(flags, || super::mount::fsopen(c"overlay").map(drop))
}

/// Runs `attempt` in a process in new namespaces. It must neither allocate nor lock; its errno comes back as the exit
/// code.
fn in_namespaces(flags: u64, attempt: fn() -> Result<()>) -> Result<()> {
    // SAFETY: an all-zero clone_args is a valid one.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child runs on a copy of this stack, as after fork(2).
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match check(result)? {
        0 => super::process::exit(attempt().map_or_else(|errno| errno as i32, |()| 0)),
        pid => match waitpid(Pid::from_raw(pid as i32), None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
            _ => Err(Errno::ECHILD),
        },
    }
}

/// Returns true if this kernel has a system call that is harmless with every argument -1.
pub fn has_call(number: libc::c_long) -> bool {
    // SAFETY: all flags set and an invalid address make each of these calls fail.
    let result = check(unsafe { libc::syscall(number, -1, -1, -1, -1, -1, -1) });
    result != Err(Errno::ENOSYS)
}

/// Tests whether seccomp filters can notify another process (seccomp(2), SECCOMP_GET_NOTIF_SIZES).
pub fn seccomp_notification() -> Result<()> {
    let mut sizes = [0u16; 3];
    let operation = libc::SECCOMP_GET_NOTIF_SIZES;
    // SAFETY: the kernel writes struct seccomp_notif_sizes, three 16-bit words.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, sizes.as_mut_ptr()) }).map(drop)
}
