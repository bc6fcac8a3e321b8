//! The system call filter (seccomp(2)).

use super::check;
use libc::sock_filter;
use nix::Result;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
    set_filter(program, 0).map(drop)
}

/// The same with a descriptor that tells of the calls whose answer is `SECCOMP_RET_USER_NOTIF`;
/// close-on-exec. A call that was told of can be interrupted only by what kills (Linux 5.19), or a
/// program with frequent signals would make it again for ever.
pub fn install_with_listener(program: &[sock_filter]) -> Result<OwnedFd> {
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5; // linux/seccomp.h
    let listener = set_filter(
        program,
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE_RECV,
    )?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) })
}

fn set_filter(program: &[sock_filter], flags: libc::c_ulong) -> Result<libc::c_long> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies as many instructions as the length says, and writes nothing.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })
}

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// What the answer is for.
    pub id: u64,
    /// The thread that calls, in the reader's pid namespace.
    pub pid: i32,
    /// The call's number on this architecture.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// The listening end of a filter (seccomp_unotify(2)).
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Of the descriptor that [`install_with_listener`] gave.
    pub fn new(descriptor: OwnedFd) -> Listener {
        Listener(descriptor)
    }

    /// Lets the caller run on the reader's processor while the reader waits: half the time for each
    /// call. EINVAL before Linux 6.6.
    pub fn wake_in_turn(&self) -> Result<()> {
        const SYNC_WAKE_UP: libc::c_ulong = 1; // linux/seccomp.h
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS);
        // SAFETY: the flags are the argument itself.
        Errno::result(unsafe { libc::ioctl(fd, request, SYNC_WAKE_UP) }).map(drop)
    }

    /// The next call; waits for one. ENOENT where the caller was killed meanwhile.
    pub fn receive(&self) -> Result<Notification> {
        // SAFETY: an all-zero structure is a valid one, and the kernel demands it.
        let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV);
        // SAFETY: the kernel fills the structure, which is as long as the request's number says.
        Errno::result(unsafe { libc::ioctl(fd, request, &raw mut told) })?;
        Ok(Notification {
            id: told.id,
            pid: told.pid as i32,
            number: told.data.nr as u32,
            arguments: told.data.args,
        })
    }

    /// Whether the call still waits: only then its thread is still the one that `pid` named.
    pub fn is_waiting(&self, id: u64) -> bool {
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID);
        // SAFETY: the kernel reads one 64-bit number.
        unsafe { libc::ioctl(fd, request, &raw const id) == 0 }
    }

    /// Lets the kernel make the call. ENOENT where the caller is gone.
    pub fn proceed(&self, id: u64) -> Result<()> {
        self.answer(id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Fails the call. ENOENT where the caller is gone.
    pub fn refuse(&self, id: u64, errno: Errno) -> Result<()> {
        self.answer(id, -(errno as i32), 0)
    }

    /// Answers in the kernel's place that the call worked and returned 0. ENOENT where the caller is
    /// gone.
    pub fn succeed(&self, id: u64) -> Result<()> {
        self.answer(id, 0, 0)
    }

    /// Gives the caller a copy of `descriptor`, whose number is what the call returns, in one step
    /// (Linux 5.14). ENOENT where the caller is gone; EMFILE where it has no room for another one,
    /// and then the call still waits.
    pub fn give(&self, id: u64, descriptor: BorrowedFd<'_>, close_on_exec: bool) -> Result<()> {
        let given = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: descriptor.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec {
                libc::O_CLOEXEC as u32
            } else {
                0
            },
        };
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD);
        // SAFETY: the kernel reads the structure, which is as long as the request's number says.
        Errno::result(unsafe { libc::ioctl(fd, request, &raw const given) }).map(drop)
    }

    fn answer(&self, id: u64, error: i32, flags: u32) -> Result<()> {
        let answer = libc::seccomp_notif_resp {
            id,
            val: 0,
            error,
            flags,
        };
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND);
        // SAFETY: the kernel reads the structure, which is as long as the request's number says.
        Errno::result(unsafe { libc::ioctl(fd, request, &raw const answer) }).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
