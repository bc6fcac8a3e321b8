//! Read leases (fcntl(2), "Leases"): while one is held, no process has the file open for writing.

use super::process;
use nix::Result;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes a read lease on a file that is open for reading. Needs the file's owner or CAP_LEASE. The lease ends with
/// the last copy of the descriptor.
///
/// # Errors
/// EAGAIN: a process has the file open or mapped for writing. EINVAL: the file system has no leases.
pub fn take(file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the command takes an integer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    Errno::result(result).map(drop)
}

/// Writes a file's dirty pages back, and waits: afterwards the file system notices the next write through a mapping.
/// The pages are not made durable (sync_file_range(2)), which is the slow part of fsync(2).
pub fn write_back(file: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: plain integers.
    Errno::result(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) }).map(drop)
}

/// Returns true if the read lease is still held, and no process waits to open the file for writing.
pub fn is_held(file: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: the command has no argument.
    let held = Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) })?;
    Ok(held == libc::F_RDLCK)
}

/// Ignores SIGIO, which the kernel sends when a writer waits, and which would end this process.
pub fn ignore_signal() -> Result<()> {
    process::ignore_signal(libc::SIGIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_writer_prevents_or_breaks_a_lease() {
        ignore_signal().unwrap();
        let named = tempfile::NamedTempFile::new().unwrap();
        let file = File::open(named.path()).unwrap();
        assert_eq!(
            take(file.as_fd()),
            Err(Errno::EAGAIN),
            "{named:?} is open for writing"
        );
        let path = named.into_temp_path();
        take(file.as_fd()).unwrap();
        assert_eq!(is_held(file.as_fd()), Ok(true));
        let mut writer = OpenOptions::new();
        let refused = writer
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        let refused = refused.unwrap_err().raw_os_error();
        assert_eq!(refused, Some(libc::EWOULDBLOCK));
        assert_eq!(is_held(file.as_fd()), Ok(false));
    }
}
