//! A process that does one thing when this one dies, however that comes.

use super::{check, memory};
use nix::Result;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Writes "1" to a file when this process is gone; dropping it lets it do so at once.
#[derive(Debug)]
pub struct Guard {
    // Closed by the kernel when this process dies.
    alive: Option<OwnedFd>,
    pid: libc::pid_t,
}

impl Guard {
    /// Forks it. `file` is open for writing.
    pub fn new(file: BorrowedFd<'_>) -> Result<Guard> {
        let (end, alive) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: the child makes system calls alone but for the heap's own functions, whose locks
        // fork(3) takes care of.
        match check(unsafe { libc::fork() }.into())? {
            0 => wait_and_write(end.as_raw_fd(), file.as_raw_fd()),
            pid => Ok(Guard {
                alive: Some(alive),
                pid: pid as libc::pid_t,
            }),
        }
    }
}

impl Guard {
    /// The end that it waits at: an error there (POLLERR) says that it is gone.
    pub fn alive(&self) -> Option<BorrowedFd<'_>> {
        self.alive.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.alive.take());
        // SAFETY: a child of this process, which nobody else waits for; the status is not asked for.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

fn wait_and_write(end: i32, file: i32) -> ! {
    // SAFETY: this process is alone, owns all its descriptors, and never returns.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        // Of the caller's nothing is held, neither a session nor a pipe. The copies go where neither
        // of the two can be.
        libc::setsid();
        let (end, file) = (
            libc::fcntl(end, libc::F_DUPFD, 3),
            libc::fcntl(file, libc::F_DUPFD, 3),
        );
        libc::dup2(end, 0);
        libc::dup2(file, 1);
        libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0);
        // What cannot be given back is kept.
        let _kept = memory::forget_heap();
        let mut byte = 0u8;
        libc::read(0, (&raw mut byte).cast(), 1);
        libc::write(1, c"1".as_ptr().cast(), 1);
        libc::_exit(0)
    }
}
