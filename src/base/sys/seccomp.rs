//! System call filters (seccomp(2)).

use super::check;
use libc::sock_filter;
use nix::Result;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Checks that the kernel supports an action (`SECCOMP_RET_*`).
pub fn knows(action: u32) -> Result<()> {
    let operation = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: the operation reads one 32-bit action.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) }).map(drop)
}

/// Installs a filter for this thread, its future programs and its children.
///
/// Needs no_new_privs or CAP_SYS_ADMIN. EINVAL if the filter is invalid.
pub fn install(program: &[sock_filter]) -> Result<()> {
    set_filter(program, 0).map(drop)
}

/// Installs a filter as [`install`] does. Returns a descriptor, with close-on-exec, that receives notifications of
/// calls with the action `SECCOMP_RET_USER_NOTIF`. Only fatal signals interrupt a call that waits for its answer
/// (Linux 5.19): otherwise a program with frequent signals would repeat it forever.
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
    // SAFETY: the kernel copies as many instructions as the length field contains, and writes nothing.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })
}

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// Id of the notification.
    pub id: u64,
    /// Calling thread, in the reader's pid namespace.
    pub pid: i32,
    /// Number of the call on this architecture.
    pub number: u32,
    /// Arguments of the call.
    pub arguments: [u64; 6],
}

/// Listener of a filter (seccomp_unotify(2)).
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Wraps the descriptor from [`install_with_listener`].
    pub fn new(descriptor: OwnedFd) -> Listener {
        Listener(descriptor)
    }

    /// Makes caller and reader run in turn on one processor, which halves the time of each call. EINVAL before Linux
    /// 6.6.
    pub fn wake_in_turn(&self) -> Result<()> {
        const SYNC_WAKE_UP: libc::c_ulong = 1; // linux/seccomp.h
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS);
        // SAFETY: the flags are the argument itself.
        Errno::result(unsafe { libc::ioctl(fd, request, SYNC_WAKE_UP) }).map(drop)
    }

    /// Waits for the next call. ENOENT if the caller was killed meanwhile.
    pub fn receive(&self) -> Result<Notification> {
        // SAFETY: an all-zero structure is a valid one, and the kernel demands it.
        let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV);
        // SAFETY: the kernel fills the structure, whose size is in the request's number.
        Errno::result(unsafe { libc::ioctl(fd, request, &raw mut told) })?;
        Ok(Notification {
            id: told.id,
            pid: told.pid as i32,
            number: told.data.nr as u32,
            arguments: told.data.args,
        })
    }

    /// Returns true if the call still waits. Only then `pid` still refers to its thread.
    pub fn is_waiting(&self, id: u64) -> bool {
        let (fd, request) = (self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID);
        // SAFETY: the kernel reads one 64-bit number.
        unsafe { libc::ioctl(fd, request, &raw const id) == 0 }
    }

    /// Lets the kernel execute the call. ENOENT if the caller is gone.
    pub fn proceed(&self, id: u64) -> Result<()> {
        self.answer(id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Makes the call fail. ENOENT if the caller is gone.
    pub fn refuse(&self, id: u64, errno: Errno) -> Result<()> {
        self.answer(id, -(errno as i32), 0)
    }

    /// Makes the call return 0 without executing it. ENOENT if the caller is gone.
    pub fn succeed(&self, id: u64) -> Result<()> {
        self.answer(id, 0, 0)
    }

    /// Gives the caller a copy of `descriptor`, and makes the call return its number (Linux 5.14). ENOENT if the
    /// caller is gone; EMFILE if it has too many descriptors, and then the call still waits.
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
        // SAFETY: the kernel reads the structure, whose size is in the request's number.
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
        // SAFETY: the kernel reads the structure, whose size is in the request's number.
        Errno::result(unsafe { libc::ioctl(fd, request, &raw const answer) }).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
