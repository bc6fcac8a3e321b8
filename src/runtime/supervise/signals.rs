//! Signals: caught before anything is started, passed on to the app, named by the operator.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The signals that are passed on to the app.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Blocks the signals that are passed on, for this thread and those that it makes from now on.
pub fn catch() -> Result<SignalFd> {
    let set: SigSet = FORWARDED.into_iter().collect();
    set.thread_block().context(|| "rt_sigprocmask(SIG_BLOCK)")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&set, flags).context(|| "signalfd(SFD_CLOEXEC)")
}

/// The signals that end a launch whose app was not started yet.
const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// Reads signals up to one that ends a launch, and returns that one. `each` gets all that were read.
pub fn read_ending(signals: &SignalFd, mut each: impl FnMut(siginfo)) -> Result<Option<Signal>> {
    while let Some(info) = signals.read_signal().context(|| "read(signalfd)")? {
        each(info);
        let is_it = |signal: &Signal| *signal as u32 == info.ssi_signo;
        if let Some(signal) = ENDING.into_iter().find(is_it) {
            return Ok(Some(signal));
        }
    }
    Ok(None)
}

/// Fails if a signal came that ends the launch: there is no app yet to pass it on to.
///
/// # Errors
/// Exit code 128+n for signal n.
pub fn refuse(signals: &SignalFd) -> Result<()> {
    match read_ending(signals, drop)? {
        None => Ok(()),
        Some(signal) => Err(Error::system(
            "launch",
            format_args!("{signal} came before the app started"),
        )
        .exit(128 + signal as u8)),
    }
}

/// Sends signals that were read to this process again, so that they are pending as before.
pub fn give_back(read: &[siginfo]) -> Result<()> {
    let own = nix::unistd::Pid::this();
    for info in read {
        let signal = info.ssi_signo as i32;
        let sent = if info.ssi_code == libc::SI_QUEUE {
            process::queue_signal(own.as_raw(), signal, info.ssi_int)
        } else {
            Signal::try_from(signal).and_then(|signal| nix::sys::signal::kill(own, signal))
        };
        sent.context(|| format!("kill(self, {signal})"))?;
    }
    Ok(())
}

/// Waits for one of the descriptors or for a signal, at most until `deadline`. Returns false after it.
pub fn wait(
    awaited: &[PollFd<'_>],
    deadline: Option<Instant>,
    signals: Option<&SignalFd>,
) -> Result<bool> {
    let mut set = awaited.to_vec();
    set.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Ok(false);
    }
    // Rounded up, or the last millisecond would be spent spinning.
    let patience = left.map(|left| left + Duration::from_millis(1));
    let patience = patience.map_or(Ok(PollTimeout::NONE), PollTimeout::try_from);
    match poll(&mut set, patience.unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno).context(|| "poll()"),
    }
}

/// `imrun stop -t` sends its timeout along, in milliseconds (sigqueue(3)).
pub(super) fn stop_timeout(info: &siginfo) -> Option<Duration> {
    (info.ssi_code == libc::SI_QUEUE && info.ssi_int >= 0)
        .then(|| Duration::from_millis(info.ssi_int as u64))
}

/// The number of a signal by its name (`SIGTERM`, `TERM`, `RTMIN+3`) or number, as image configs
/// and docker write it.
pub fn parse(text: &str) -> Result<i32> {
    let unknown = || Error::usage(format_args!("signal {text:?}"), "is none that Linux has");
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |offset: i32| libc::SIGRTMIN() + offset;
    let number = match name.parse::<i32>() {
        Ok(number) => number,
        Err(_) if name == "RTMIN" => real_time(0),
        Err(_) => match name.strip_prefix("RTMIN+") {
            Some(offset) => real_time(offset.parse().map_err(|_| unknown())?),
            None => format!("SIG{name}")
                .parse::<Signal>()
                .map_err(|_| unknown())? as i32,
        },
    };
    if (1..=libc::SIGRTMAX()).contains(&number) {
        Ok(number)
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_ends_a_launch_is_told_apart_from_one_that_does_not() {
        // Pending for this thread alone, and blocked in it.
        let signals = catch().unwrap();
        refuse(&signals).unwrap();
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        refuse(&signals).unwrap();
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        let error = refuse(&signals).unwrap_err();
        assert_eq!(error.exit, 130);
        assert!(error.why.contains("SIGINT"), "{error}");
    }

    #[test]
    fn signals_are_read_by_name_and_number() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(parse(text).unwrap(), 15);
        }
        assert_eq!(parse("SIGRTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        for text in ["", "SIG", "0", "-1", "99", "SIGTERMX", "RTMIN+99"] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }
}
