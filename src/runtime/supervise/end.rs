//! How a process ended that is another's child: the other one reaps it, at any moment.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long its parent is waited for.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// How the process ended that `pidfd` refers to, and whose end it told.
///
/// As long as nobody has reaped it, its status is in /proc; afterwards the kernel tells it by the
/// descriptor (Linux 6.15).
pub(super) fn of_adopted(pid: Pid, pidfd: BorrowedFd<'_>) -> Result<WaitStatus> {
    let deadline = Instant::now() + REAP_TIMEOUT;
    loop {
        if let Some(status) = of_zombie(pid, pidfd) {
            return decode(pid, status);
        }
        match process::pidfd_exit_status(pidfd) {
            Ok(Some(status)) => return decode(pid, status),
            Ok(None) | Err(Errno::ESRCH) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(None) => return Err(unknown()),
            Err(Errno::ESRCH | Errno::ENOTTY | Errno::EINVAL) => return Err(unknown()),
            Err(errno) => return Err(errno).context(|| "ioctl(PIDFD_GET_INFO)"),
        }
    }
}

/// The last field of /proc/PID/stat (proc_pid_stat(5)), if the process is still the one that is
/// meant.
fn of_zombie(pid: Pid, pidfd: BorrowedFd<'_>) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let is_zombie = fields.starts_with('Z');
    let status = fields.split_ascii_whitespace().last()?.parse().ok()?;
    let is_there = process::pidfd_send_signal(pidfd, 0).is_ok();
    (is_zombie && is_there).then_some(status)
}

fn decode(pid: Pid, status: i32) -> Result<WaitStatus> {
    WaitStatus::from_raw(pid, status).context(|| format!("wait status {status:#x}"))
}

fn unknown() -> Error {
    Error::system(
        "exit status",
        "the container's parent has it, and this kernel tells nobody else",
    )
    .hint("it takes Linux 6.15")
}
