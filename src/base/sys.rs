//! The system calls that no library wraps: the only module with `unsafe`.
//!
//! Every function does one call, gives its error back as the kernel's errno, and neither allocates
//! nor locks: the child of a clone uses them between clone3(2) and execve(2), where it may be killed
//! at any moment, and what it had locked would stay so.
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

/// The errno of a system call that returned -1, else its value.
fn check(result: libc::c_long) -> nix::Result<libc::c_long> {
    Errno::result(result)
}
