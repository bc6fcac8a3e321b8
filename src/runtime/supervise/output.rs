//! Output pipe of the app: lines go from it to the shipper.

use crate::base::error::{Context, Result};
use crate::logs::{Framer, Pushed, Shipper, Stream};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

/// One of the app's output pipes.
pub(super) struct Output {
    stream: Stream,
    file: Option<File>,
    framer: Framer,
    /// True once the app has closed it and the shipper knows.
    ended: bool,
    /// True until `has_just_ended` has reported the end.
    end_unseen: bool,
    /// True if a frame waits for room in the buffer.
    pub full: bool,
    /// True if there is something to read.
    pub ready: bool,
}

impl Output {
    /// Makes the output of a pipe; `framer` is new.
    pub fn new(stream: Stream, pipe: OwnedFd, framer: Framer) -> Result<Output> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(|| "fcntl(pipe, O_NONBLOCK)")?;
        Ok(Output {
            stream,
            file: Some(pipe.into()),
            framer,
            ended: false,
            end_unseen: false,
            full: false,
            ready: false,
        })
    }

    /// Returns the descriptor to poll, unless a frame waits for room.
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        let file = self.file.as_ref().filter(|_| !self.full)?;
        Some(PollFd::new(file.as_fd(), PollFlags::POLLIN))
    }

    /// Reads once and passes the frames to the shipper, as far as there is room; returns true if there
    /// was anything to read. With `drop`, lines that find no room are counted and dropped.
    ///
    /// Only one read: an app that writes without pause must not delay signals.
    pub fn pump(&mut self, shipper: &Shipper, drop: bool) -> Result<bool> {
        if self.full {
            self.offer(shipper, drop);
        }
        let Some(file) = self.file.as_mut().filter(|_| !self.full) else {
            return Ok(false);
        };
        match self.framer.read_from(file) {
            Ok(0) => self.file = None,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| format!("read({})", self.stream.as_str())),
        }
        self.offer(shipper, drop);
        Ok(true)
    }

    fn offer(&mut self, shipper: &Shipper, drop: bool) {
        let stream = self.stream;
        let mut buffer = shipper.open();
        let full = !self.framer.frames(|frame| {
            if drop {
                buffer.push_or_drop(stream, frame);
                true
            } else {
                buffer.push_frame(stream, frame) != Pushed::Full
            }
        });
        std::mem::drop(buffer);
        self.full = full;
        if self.file.is_none() && !self.full && !self.ended {
            (self.ended, self.end_unseen) = (true, true);
            shipper.end_stream(stream);
        }
    }

    /// Returns true once, when the output has ended.
    pub fn has_just_ended(&mut self) -> bool {
        std::mem::take(&mut self.end_unseen)
    }

    /// Passes on the last line, which may have no newline; there is no time left to wait for room.
    pub fn end(&mut self, shipper: &Shipper) {
        self.file = None;
        self.framer.finish();
        self.offer(shipper, true);
    }
}
