//! Main loop of the first process: it reaps orphans, feeds the watchdog, and reads the status events of the launch.

use crate::base::error::{Context, Result};
use crate::base::sys::process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Interval of feeding the watchdog, in milliseconds. Watchdogs have timeouts of a second or more.
const INTERVAL: u16 = 500;
const WATCHDOG: &str = "/dev/watchdog";

/// Result of a launch.
#[derive(Debug)]
pub struct Ended {
    /// Exit code of `imrun run`.
    pub code: u8,
    /// Error of the refused or failed launch, if it was reported.
    pub error: Option<String>,
    /// Run time of the app; `None` if it was not started.
    pub ran: Option<Duration>,
}

/// Signals and watchdog of the machine.
pub struct Watch {
    signals: SignalFd,
    watchdog: Option<File>,
    /// True once a signal has asked for the machine's end.
    pub stopped: bool,
}

/// Reader of the events that a launch writes to `--status-fd`.
#[derive(Default)]
struct StatusEvents {
    text: Vec<u8>,
    started: Option<Instant>,
    error: Option<String>,
}

impl Watch {
    /// Blocks signals, so that the kernel keeps them for the first process, and turns Ctrl-Alt-Del into one. Opens
    /// the watchdog, if there is one.
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

    /// Waits until the process `launch` has ended; it writes its status events to the other end of `status`.
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

    /// Feeds the watchdog with a byte (Documentation/watchdog/watchdog-api.rst). imrun never stops it: it restarts a
    /// machine that hangs during shutdown.
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

    /// Forwards requests for the end to the launch, as SIGTERM.
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

/// Reaps all ended processes. Returns the exit code of `launch`, if it is one of them.
fn reap(launch: Pid) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match process::wait_for_any(libc::WNOHANG) {
            Ok(Some((pid, status))) if pid == launch => code = Some(process::code_of(status).0),
            Ok(None) | Err(Errno::ECHILD) => return Ok(code),
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(|| "waitpid(-1, WNOHANG)"),
        }
    }
}

impl StatusEvents {
    /// Reads all available events; `status` does not block.
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
            // The other events are in the sink.
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
