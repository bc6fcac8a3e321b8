//! A process whose death ends all processes of its pid namespace.
//!
//! It is the first process of that namespace, in which a container's own is nested. The kernel kills
//! it when this process dies (PR_SET_PDEATHSIG), and all others when it is gone (pid_namespaces(7)).
//! So no container outlives its supervisor, whoever is killed and in whatever order. The app's own
//! PR_SET_PDEATHSIG would not do: the kernel forgets it when another thread than the first one
//! executes a program.

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
    /// Closed by the kernel when this process dies, also before it could be told of that.
    _alive: OwnedFd,
    _stack: Stack,
}

impl Guard {
    /// Makes one, which ends with the thread that calls this. It shares this process's memory.
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

    /// Refers to the process, and so to its pid namespace; readable when it is gone.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Guard {
    /// Ends a namespace; its end takes a moment.
    pub fn kill(&self) {
        // It may be gone already.
        let _ = super::process::pidfd_send_signal(self.pidfd(), libc::SIGKILL);
    }

    /// Ends a namespace whose other processes were all reaped, and waits for its end.
    pub fn end(&self) {
        self.kill_and_wait(0);
    }

    fn kill_and_wait(&self, flags: libc::c_int) {
        self.kill();
        // SAFETY: a child of this process, which nobody else waits for; the status is not asked for.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), flags) };
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Its end takes until the last process of the namespace is reaped, perhaps by another process.
        // Killed, it uses its stack no more.
        self.kill_and_wait(libc::WNOHANG);
    }
}

/// Its whole life. The thread-local storage is that of a thread that runs: no call of the C library,
/// which would set errno there.
extern "C" fn watch(end: *const c_void) -> ! {
    let end = end as usize;
    let mut byte = 0u8;
    // SAFETY: this process owns all its descriptors, and reads into its own stack. Signals without a
    // handler do nothing to the first process of a pid namespace.
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
        // Of the caller's nothing is held.
        call::raw(libc::SYS_close_range, [0, end - 1, 0]);
        call::raw(libc::SYS_close_range, [end + 1, u32::MAX as usize, 0]);
        loop {
            // An end of file, or the descriptor is not there: this process is gone.
            if call::raw(libc::SYS_read, [end, &raw mut byte as usize, 1])
                != -(libc::EINTR as isize)
            {
                call::raw(libc::SYS_exit_group, [0, 0, 0]);
            }
        }
    }
}
