//! Signals: blocked before the start, forwarded to the app, parsed from options.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Signals that are forwarded to the app.
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

/// Blocks the forwarded signals in this thread and in those that it creates, and returns a descriptor
/// that receives them.
///
/// imrun ignores SIGXFSZ: it sets the length of an app's file in the app's place, and a limit that imrun
/// inherited then gives EFBIG.
pub fn catch() -> Result<SignalFd> {
    process::ignore_signal(libc::SIGXFSZ).context(|| "rt_sigaction(SIGXFSZ)")?;
    let set: SigSet = FORWARDED.into_iter().collect();
    set.thread_block().context(|| "rt_sigprocmask(SIG_BLOCK)")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&set, flags).context(|| "signalfd(SFD_CLOEXEC)")
}

/// Signals that cancel a launch before the app starts.
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

/// Returns the timeout that `imrun stop -t` sends with its signal, in milliseconds (sigqueue(3)).
pub(super) fn stop_timeout(info: &siginfo) -> Option<Duration> {
    (info.ssi_code == libc::SI_QUEUE && info.ssi_int >= 0)
        .then(|| Duration::from_millis(info.ssi_int as u64))
}

/// Returns true if the kernel drops a signal for process 1 of a pid namespace, by its /proc/PID/status: the process
/// has no handler for it and does not block it (signal(7), pid_namespaces(7)). A signal that the app itself ignores
/// does not count: the app may have its own way to end.
pub(super) fn does_nothing(status: &str, signal: i32) -> bool {
    let forced = [libc::SIGKILL, libc::SIGSTOP].contains(&signal);
    let set = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        u64::from_str_radix(value.trim(), 16).ok()
    };
    let bit = 1_u64.checked_shl((signal - 1) as u32).unwrap_or(0);
    let takes = |name| set(name).is_none_or(|set| set & bit != 0);
    !forced
        && ["SigCgt", "SigBlk", "SigIgn"]
            .into_iter()
            .all(|name| !takes(name))
}

/// Returns true if a process waits for signals, by its /proc/PID/syscall.
pub(super) fn is_waited_for(call: &str) -> bool {
    let number = call.split_ascii_whitespace().next();
    number.and_then(|number| number.parse().ok()) == Some(libc::SYS_rt_sigtimedwait)
}

/// Returns the name of a signal: `SIGTERM`, `SIGRTMIN+3`.
pub fn name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(signal) => signal.to_string(),
        Err(_) => format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()),
    }
}

/// Parses a signal name (`SIGTERM`, `TERM`, `RTMIN+3`, `RTMAX-3`) or number, as in image configs and docker.
pub fn parse(text: &str) -> Result<i32> {
    let unknown = || {
        Error::usage(
            format_args!("signal {text:?}"),
            "expected a name such as SIGTERM, or a number from 1 to 64",
        )
    };
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str| text.parse::<u8>().map(i32::from).map_err(|_| unknown());
    let number = if let Ok(number) = name.parse::<i32>() {
        number
    } else if let Some(text) = name.strip_prefix("RTMIN+") {
        libc::SIGRTMIN() + offset(text)?
    } else if let Some(text) = name.strip_prefix("RTMAX-") {
        let number = libc::SIGRTMAX() - offset(text)?;
        if number < libc::SIGRTMIN() { 0 } else { number }
    } else {
        match name {
            "RTMIN" => libc::SIGRTMIN(),
            "RTMAX" => libc::SIGRTMAX(),
            // Second names (signal(7)).
            "IOT" => libc::SIGIOT,
            "CLD" => libc::SIGCHLD,
            "POLL" => libc::SIGPOLL,
            _ => format!("SIG{name}")
                .parse::<Signal>()
                .map_err(|_| unknown())? as i32,
        }
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
        // Pending for this thread only, and blocked in it.
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
    fn process_1_takes_what_it_handles_or_blocks() {
        let status = |caught: &str, blocked: &str| {
            format!("Name:\ta\nSigBlk:\t{blocked}\nSigIgn:\t0000000000000000\nSigCgt:\t{caught}\n")
        };
        let none = "0000000000000000";
        let term = "0000000000004000";
        assert!(does_nothing(&status(none, none), libc::SIGTERM));
        assert!(!does_nothing(&status(term, none), libc::SIGTERM));
        assert!(!does_nothing(&status(none, term), libc::SIGTERM));
        assert!(does_nothing(&status(term, term), libc::SIGINT));
        let ignored =
            status(none, none).replace(&format!("SigIgn:\t{none}"), &format!("SigIgn:\t{term}"));
        assert!(
            !does_nothing(&ignored, libc::SIGTERM),
            "the app's own choice"
        );
        assert!(!does_nothing(&status(none, none), libc::SIGKILL));
        assert!(!does_nothing(&status("8000000000000000", none), 64));
        for unreadable in ["", "SigCgt:\tx\nSigBlk:\t0\n", "SigCgt:\t0\n"] {
            assert!(
                !does_nothing(unreadable, libc::SIGTERM),
                "{unreadable:?}: it has its time"
            );
        }
        let waiting = format!(
            "{} 0x7ffe 0x0 0x0 0x8 0x0 0x0 0x7ffe 0x4010f5\n",
            libc::SYS_rt_sigtimedwait
        );
        assert!(is_waited_for(&waiting));
        for other in [
            "running\n",
            "",
            "-1 0x7ffe 0x4010f5\n",
            "0 0x3 0x7f 0x1000\n",
        ] {
            assert!(!is_waited_for(other), "{other:?}");
        }
        assert_eq!(name(15), "SIGTERM");
        assert_eq!(name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    }

    #[test]
    fn signals_are_parsed_by_name_and_number() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(parse(text).unwrap(), 15);
        }
        assert_eq!(parse("SIGRTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert_eq!(parse("SIGRTMAX-3").unwrap(), libc::SIGRTMAX() - 3);
        assert_eq!(parse("sigrtmax").unwrap(), libc::SIGRTMAX());
        for (text, number) in [("SIGIOT", 6), ("SIGCLD", 17), ("POLL", 29), ("SIGIO", 29)] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in [
            "", "SIG", "0", "-1", "99", "SIGTERMX", "RTMIN+99", "RTMIN+-1", "RTMIN-1", "RTMAX+1",
            "RTMAX-60", "RTMAX-", "RTMIN+",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }
}
