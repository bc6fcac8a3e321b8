//! Delays an app's exit until the caller has received all of its output.
//!
//! conmon reads its pipes when it has reaped the app, and ignores later output. The app is conmon's
//! child, so imrun cannot delay the reaping; but it can delay the app's call of exit_group(2) while
//! output is on its way.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Result};
use crate::logs::Shipper;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum delay of an exit: a reader that does not read must not keep the app alive.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two checks.
const PAUSE: Duration = Duration::from_micros(100);

/// Second view of the app's pipes, beside the supervisor's.
pub struct Relay {
    app: i32,
    pipes: [OwnedFd; 2],
    /// Locked while output is read from the pipes; true if some of it waits for room in the buffer.
    is_waiting: Mutex<bool>,
}

impl Relay {
    /// Makes the relay for the process `app`, which writes to these pipes.
    pub fn new(app: Pid, pipes: [&OwnedFd; 2]) -> Result<Relay> {
        let dup = |pipe: &OwnedFd| pipe.try_clone().context(|| "dup(pipe)");
        let [stdout, stderr] = pipes;
        Ok(Relay {
            app: app.as_raw(),
            pipes: [dup(stdout)?, dup(stderr)?],
            is_waiting: Mutex::new(false),
        })
    }

    /// Locks the pipes while output is read from them.
    pub fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// If `thread` belongs to the app's first process, waits until all of its output has been passed on.
    /// `process` returns the thread's process if its id does not show it.
    pub fn delay_exit(
        &self,
        thread: i32,
        process: impl FnOnce() -> Option<i32>,
        shipper: &Shipper,
    ) -> Result<()> {
        if thread != self.app && process() != Some(self.app) {
            return Ok(());
        }
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while !(self.is_empty()? && shipper.is_drained()) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool> {
        let waits = self.lock();
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
