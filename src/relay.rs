//! Lets an app's exit wait until the caller has all of its output.
//!
//! conmon reads what is in its pipes when it has reaped the app, and nothing that comes later. The app
//! is a child of its own, so imrun cannot keep its end from it; but it can keep the app from calling
//! exit_group(2) as long as something is on its way.
#![forbid(unsafe_code)]

use crate::error::{Context, Result};
use crate::ship::Shipper;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time that an exit waits: a reader that takes nothing keeps no app alive.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_micros(100);

/// The app's pipes, seen from beside the supervisor.
pub struct Relay {
    app: i32,
    pipes: [OwnedFd; 2],
    /// Held while something is moved out of the pipes; true when some of it waits for room.
    turn: Mutex<bool>,
}

impl Relay {
    /// The relay of the app `app`, which writes into these pipes.
    pub fn new(app: Pid, pipes: [&OwnedFd; 2]) -> Result<Relay> {
        let dup = |pipe: &OwnedFd| pipe.try_clone().context(|| "dup(pipe)");
        let [stdout, stderr] = pipes;
        Ok(Relay {
            app: app.as_raw(),
            pipes: [dup(stdout)?, dup(stderr)?],
            turn: Mutex::new(false),
        })
    }

    /// To be held while something is moved out of the pipes.
    pub fn turn(&self) -> MutexGuard<'_, bool> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when all output of the app was passed on, if `thread` is one of the app's first process;
    /// `process` is asked for its process where the thread's own number does not say so.
    pub fn hold(
        &self,
        thread: i32,
        process: impl FnOnce() -> Option<i32>,
        shipper: &Shipper,
    ) -> Result<()> {
        if thread != self.app && process() != Some(self.app) {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        while !(self.is_empty()? && shipper.is_drained()) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool> {
        let waits = self.turn();
        let mut set = self
            .pipes
            .each_ref()
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        poll(&mut set, PollTimeout::ZERO).context(|| "poll()")?;
        let readable = |fd: &PollFd<'_>| {
            fd.revents()
                .is_some_and(|events| events.contains(PollFlags::POLLIN))
        };
        Ok(!*waits && !set.iter().any(readable))
    }
}
