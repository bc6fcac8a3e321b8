//! A guard: a process whose death ends all processes of its pid namespace.
//!
//! The guard is the first process of that namespace, in which a container's own is nested. The kernel kills the
//! guard when this process dies (PR_SET_PDEATHSIG), and all others when the guard is gone (pid_namespaces(7)). So no
//! container outlives its supervisor, whatever is killed first. PR_SET_PDEATHSIG in the app would not be enough: the
//! kernel clears it when a thread other than the first one executes a program.

use super::clone::{CLONE_PIDFD, Stack, clone3};
use super::{call, check};
use nix::Result;
use nix::fcntl::OFlag;
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The first process of a pid namespace; dropping it ends the namespace.
#[derive(Debug)]
pub struct Guard {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    /// Write end of a pipe. The kernel closes it when this process dies, even before the guard has set its death
    /// signal.
    _alive: OwnedFd,
    _stack: Stack,
}

impl Guard {
    /// Starts a guard, which shares this process's memory and ends with the calling thread.
    pub fn new() -> Result<Guard> {
        let (end, alive) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let stack = Stack::new()?;
        let flags = (libc::CLONE_VM | libc::CLONE_NEWPID) as u64;
        let mut args = stack.arguments(flags | CLONE_PIDFD);
        let mut pidfd: RawFd = -1;
        args.pidfd = &raw mut pidfd as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        let number = end.as_raw_fd() as usize as *const c_void;
        // SAFETY: the stack is unmapped when the process is gone; it is given the number it expects.
        let pid = check(unsafe { clone3(&args, watch, number) })? as libc::pid_t;
        // SAFETY: the kernel has just made this descriptor for the caller.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Guard {
            pid,
            pidfd,
            _alive: alive,
            _stack: stack,
        })
    }

    /// Returns the pidfd of the process, which also refers to its pid namespace. It is readable when the process is
    /// gone.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Guard {
    /// Kills the namespace, without waiting for its end.
    pub fn kill(&self) {
        // The process may be gone already.
        let _ = super::process::pidfd_send_signal(self.pidfd(), libc::SIGKILL);
    }

    /// Kills a namespace whose other processes are all reaped, and waits for its end.
    pub fn end(&self) {
        self.kill_and_wait(0);
    }

    fn kill_and_wait(&self, flags: libc::c_int) {
        self.kill();
        // SAFETY: a child of this process that only this code waits for; the status is not stored.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), flags) };
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The guard ends when the last process of the namespace is reaped, perhaps by another process. Once killed,
        // it no longer uses its stack.
        self.kill_and_wait(libc::WNOHANG);
    }
}

/// Main function of the guard. Its thread-local storage belongs to a running thread, so it makes no calls of the C
/// library, which would set errno there.
extern "C" fn watch(end: *const c_void) -> ! {
    let end = end as usize;
    let mut byte = 0u8;
    // SAFETY: this process owns all its descriptors, and reads into its own stack. Signals without a handler
    // have no effect on the first process of a pid namespace.
    unsafe {
        call::raw(
            libc::SYS_prctl,
            [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0],
        );
        call::raw(
            libc::SYS_prctl,
            [
                libc::PR_SET_NAME as usize,
                c"imrun-guard".as_ptr() as usize,
                0,
            ],
        );
        // Close all descriptors of the caller.
        call::raw(libc::SYS_close_range, [0, end - 1, 0]);
        call::raw(libc::SYS_close_range, [end + 1, u32::MAX as usize, 0]);
        loop {
            // An end of file or an error: the supervisor is gone.
            if call::raw(libc::SYS_read, [end, &raw mut byte as usize, 1])
                != -(libc::EINTR as isize)
            {
                call::raw(libc::SYS_exit_group, [0, 0, 0]);
            }
        }
    }
}
