//! Network namespaces, and the loopback interface of a fresh one.

use nix::Result;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Brings the interface `lo` up, through any socket of the namespace (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is a whole ifreq that lives for the length of the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop)
}

/// The `CLONE_NEW*` flag of the kind of namespace that a file of nsfs is (ioctl_nsfs(2)).
pub fn namespace_type(file: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the request has no argument.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) })
}
