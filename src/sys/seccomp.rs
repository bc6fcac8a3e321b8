//! The system call filter (seccomp(2)).

use super::check;
use libc::sock_filter;
use nix::Result;

/// Whether the kernel knows an answer (`SECCOMP_RET_*`); an error where it has no filters at all.
pub fn knows(action: u32) -> Result<()> {
    let operation = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: the operation reads one 32-bit action.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) }).map(drop)
}

/// Every call of this thread, and of what it becomes and makes, goes through `program` from now on.
///
/// It takes no_new_privs or CAP_SYS_ADMIN; EINVAL says that the program is none.
pub fn install(program: &[sock_filter]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| nix::errno::Errno::EINVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies as many instructions as the length says, and writes nothing.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const program) }).map(drop)
}
