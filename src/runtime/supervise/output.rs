//! One of the app's output pipes: lines go from it to the shipper.

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
    /// The app has closed it, and the shipper knows.
    ended: bool,
    /// Nobody has asked about that.
    end_unseen: bool,
    /// A frame waits for room in the buffer.
    pub full: bool,
    /// There is something to read.
    pub ready: bool,
}

impl Output {
    /// `framer` has seen nothing yet.
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

    /// What to wait for: something to read, if it could be shipped.
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        let file = self.file.as_ref().filter(|_| !self.full)?;
        Some(PollFd::new(file.as_fd(), PollFlags::POLLIN))
    }

    /// Moves what one read gives to the shipper, as far as there is room; says whether there was
    /// anything. With `drop`, lines that find no room are counted and given up.
    ///
    /// One read, not all there is: an app that never pauses must not keep signals waiting.
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

    /// Whether it has ended since this was asked.
    pub fn has_just_ended(&mut self) -> bool {
        std::mem::take(&mut self.end_unseen)
    }

    /// The last line may have no newline; there is no time left to wait for room.
    pub fn end(&mut self, shipper: &Shipper) {
        self.file = None;
        self.framer.finish();
        self.offer(shipper, true);
    }
}
