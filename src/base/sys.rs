//! System calls that no library wraps: the only module with `unsafe`.
//!
//! Every function makes one call, returns the kernel's errno, and neither allocates nor locks: a cloned child uses
//! them between clone3(2) and execve(2), where it may be killed at any moment and would never release a lock.
#![allow(unsafe_code)]

pub mod arguments;
mod call;
pub mod clone;
pub mod guard;
pub mod landlock;
pub mod lease;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod network;
pub mod open;
pub mod probe;
pub mod process;
pub mod seccomp;
pub mod socket;
pub mod verity;
pub mod xattr;

use nix::errno::Errno;

/// Converts -1 to the errno of the system call.
fn check(result: libc::c_long) -> nix::Result<libc::c_long> {
    Errno::result(result)
}
