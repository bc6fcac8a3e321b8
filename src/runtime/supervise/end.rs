//! Exit status of a process that is another process's child, which may reap it at any moment.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Maximum time to wait for the parent to reap the process.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the wait status of the process `pidfd`, which has ended.
///
/// Before it is reaped, /proc has its status; afterwards the kernel returns the status through the pidfd
/// (Linux 6.15).
pub(super) fn of_adopted(pid: Pid, pidfd: BorrowedFd<'_>) -> Result<i32> {
    let deadline = Instant::now() + REAP_TIMEOUT;
    loop {
        if let Some(status) = of_zombie(pid, pidfd) {
            return Ok(status);
        }
        match process::pidfd_exit_status(pidfd) {
            Ok(Some(status)) => return Ok(status),
            Ok(None) | Err(Errno::ESRCH) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(None) => return Err(unknown()),
            Err(Errno::ESRCH | Errno::ENOTTY | Errno::EINVAL) => return Err(unknown()),
            Err(errno) => return Err(errno).context(|| "ioctl(PIDFD_GET_INFO)"),
        }
    }
}

/// Returns the last field of /proc/PID/stat (proc_pid_stat(5)), if the file still belongs to this
/// process.
fn of_zombie(pid: Pid, pidfd: BorrowedFd<'_>) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let is_zombie = fields.starts_with('Z');
    let status = fields.split_ascii_whitespace().last()?.parse().ok()?;
    let is_there = process::pidfd_send_signal(pidfd, 0).is_ok();
    (is_zombie && is_there).then_some(status)
}

fn unknown() -> Error {
    Error::system(
        "exit status",
        "only the container's parent can read it on this kernel",
    )
    .hint("imrun needs Linux 6.15 for it")
}
