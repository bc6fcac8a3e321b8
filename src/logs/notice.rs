//! A descriptor that becomes readable when the state of a buffer has changed.

use crate::base::error::{Context, Result};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};

/// Notice shared by all buffers of a launch.
#[derive(Debug)]
pub struct Notice(EventFd);

impl Notice {
    /// Creates a notice that is not readable.
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
            // The counter is full, so the descriptor is readable.
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => unreachable!("write(eventfd): {error}"),
        }
    }

    /// Makes it unreadable until the next notice; returns true if it was readable.
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
