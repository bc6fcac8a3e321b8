//! A descriptor that is readable when there is something new to ask about.

use crate::base::error::{Context, Result};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};

/// One for all buffers of a launch.
#[derive(Debug)]
pub struct Notice(EventFd);

impl Notice {
    /// Not readable yet.
    pub fn new() -> Result<Notice> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let made = EventFd::from_flags(flags);
        Ok(Notice(
            made.context(|| "eventfd(EFD_CLOEXEC | EFD_NONBLOCK)")?,
        ))
    }

    /// Makes it readable.
    pub fn give(&self) {
        match self.0.write(1) {
            // Full: it has been readable for 2^64 notices.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => unreachable!("write(eventfd): {error}"),
        }
    }

    /// Makes it unreadable until the next one; says whether it was readable.
    pub fn clear(&self) -> Result<bool> {
        match self.0.read() {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN) => Ok(false),
            Err(error) => Err(error).context(|| "read(eventfd)"),
        }
    }
}

impl AsFd for Notice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
