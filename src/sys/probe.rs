//! Calls that ask the kernel what it can do.

use super::check;
use nix::Result;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes a process in fresh namespaces (`CLONE_NEW*`), which ends at once.
pub fn try_namespaces(flags: u64) -> Result<()> {
    // SAFETY: an all-zero clone_args is a valid one.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child runs on a copy of this stack, as after fork(2).
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match check(result)? {
        0 => super::process::exit(0),
        pid => nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid as i32), None).map(drop),
    }
}

/// Whether seccomp filters can notify another process (seccomp(2), SECCOMP_GET_NOTIF_SIZES).
pub fn seccomp_notification() -> Result<()> {
    let mut sizes = [0u16; 3];
    let operation = libc::SECCOMP_GET_NOTIF_SIZES;
    // SAFETY: the kernel writes struct seccomp_notif_sizes, three 16-bit words.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, sizes.as_mut_ptr()) }).map(drop)
}

/// Turns fs-verity on, with SHA-256 over blocks of 4,096 bytes; the file must be open for reading
/// alone, here and everywhere (Linux, Documentation/filesystems/fsverity.rst).
pub fn enable_verity(file: BorrowedFd<'_>) -> Result<()> {
    const FS_IOC_ENABLE_VERITY: libc::Ioctl = 0x4080_6685; // _IOW('f', 133, [u8; 128])
    // struct fsverity_enable_arg: version, hash_algorithm (1: SHA-256), block_size, then zeros.
    let mut argument = [0u32; 32];
    argument[..3].copy_from_slice(&[1, 1, 4096]);
    // SAFETY: the structure is as long as the request's number says and lives for the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY, argument.as_ptr()) };
    Errno::result(result).map(drop)
}
