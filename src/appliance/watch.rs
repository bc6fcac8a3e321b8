//! The first process's own work: it reaps whoever is left behind, feeds the watchdog, and hears from
//! the launch that it forked.

use crate::base::error::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Often enough for every watchdog: none waits less than a second.
const INTERVAL: u16 = 500;
const WATCHDOG: &str = "/dev/watchdog";

/// How a launch ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code of `imrun run`.
    pub code: u8,
    /// Why nothing of the image ran, or what failed later, as far as it was told.
    pub error: Option<String>,
    /// How long the app ran; None where it was not started.
    pub ran: Option<Duration>,
}

/// Watches over a machine.
pub struct Watch {
    signals: SignalFd,
    watchdog: Option<File>,
    /// Somebody asked for the machine's end.
    pub stopped: bool,
}

/// What a launch tells through `--status-fd`.
#[derive(Default)]
struct StatusEvents {
    text: Vec<u8>,
    started: Option<Instant>,
    error: Option<String>,
}

impl Watch {
    /// Signals are blocked from now on: the kernel drops those that its first process does not
    /// expect. Ctrl-Alt-Del is one, too.
    pub fn new() -> Result<Watch> {
        let set: SigSet = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM]
            .into_iter()
            .collect();
        set.thread_block().context(|| "rt_sigprocmask(SIG_BLOCK)")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).context(|| "signalfd(SFD_CLOEXEC)")?;
        nix::sys::reboot::set_cad_enabled(false).context(|| "reboot(LINUX_REBOOT_CMD_CAD_OFF)")?;
        let watchdog = match OpenOptions::new().write(true).open(WATCHDOG) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            watchdog => Some(watchdog.context(|| format!("open({WATCHDOG:?})"))?),
        };
        Ok(Watch {
            signals,
            watchdog,
            stopped: false,
        })
    }

    /// Returns when the launch has ended that writes its status events to the other end of `status`.
    pub fn wait_for(&mut self, launch: Pid, status: OwnedFd) -> Result<Ended> {
        let (mut status, mut events) = (File::from(status), StatusEvents::default());
        let code = loop {
            self.feed_watchdog()?;
            if let Some(code) = reap(launch)? {
                break code;
            }
            self.wait(&status)?;
            self.forward_signals(launch)?;
            events.read(&mut status)?;
        };
        events.read(&mut status)?;
        Ok(Ended {
            code,
            error: events.error,
            ran: events.started.map(|started| started.elapsed()),
        })
    }

    /// Any byte will do (Documentation/watchdog/watchdog-api.rst). There is none that ends it: a
    /// machine that hangs on its way down is started again.
    fn feed_watchdog(&mut self) -> Result<()> {
        match &mut self.watchdog {
            Some(watchdog) => watchdog
                .write_all(b".")
                .context(|| format!("write({WATCHDOG:?})")),
            None => Ok(()),
        }
    }

    fn wait(&self, status: &File) -> Result<()> {
        let mut sources = [&self.signals.as_fd(), &status.as_fd()]
            .map(|source| PollFd::new(*source, PollFlags::POLLIN));
        let timeout = match self.watchdog {
            Some(_) => PollTimeout::from(INTERVAL),
            None => PollTimeout::NONE,
        };
        match poll(&mut sources, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context(|| "poll()"),
        }
    }

    /// Passes a wish for the end on.
    fn forward_signals(&mut self, launch: Pid) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            if info.ssi_signo as i32 == Signal::SIGCHLD as i32 {
                continue;
            }
            self.stopped = true;
            match kill(launch, Signal::SIGTERM) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno).context(|| format!("kill({launch}, SIGTERM)")),
            }
        }
        Ok(())
    }
}

/// Reaps all who have ended; the exit code of the one that counts, if it is among them.
fn reap(launch: Pid) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == launch => code = Some(status as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == launch => {
                code = Some(128 + signal as u8);
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(code),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(|| "waitpid(-1, WNOHANG)"),
        }
    }
}

impl StatusEvents {
    /// Reads what there is: `status` does not block.
    fn read(&mut self, status: &mut File) -> Result<()> {
        match status.read_to_end(&mut self.text) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(error).context(|| "read(status)");
            }
            _ => {}
        }
        let end = self
            .text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        let lines: Vec<_> = self.text.drain(..end).collect();
        for line in lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            self.take(&serde_json::from_slice(line).unwrap_or_default());
        }
        Ok(())
    }

    fn take(&mut self, event: &Value) {
        match event["event"].as_str() {
            Some("started") => self.started = Some(Instant::now()),
            Some("refused") => self.error = event["error"].as_str().map(String::from),
            // The others are for the sink, which has them.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn status_events_are_read_in_pieces() {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let (mut read, mut write) = (File::from(read), File::from(write));
        let mut events = StatusEvents::default();
        for (piece, started, error) in [
            ("{\"event\":\"verified\"}\n{\"event\":\"sta", false, None),
            ("rted\"}\nno JSON\n", true, None),
            (
                "{\"event\":\"refused\",\"error\":\"a: b\"}\n",
                true,
                Some("a: b"),
            ),
        ] {
            write.write_all(piece.as_bytes()).unwrap();
            events.read(&mut read).unwrap();
            assert_eq!(
                (events.started.is_some(), events.error.as_deref()),
                (started, error)
            );
        }
        drop(write);
        events.read(&mut read).unwrap();
        assert!(read.as_raw_fd() > 2 && events.text.is_empty());
    }
}
