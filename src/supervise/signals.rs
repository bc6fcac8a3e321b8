//! Signals: caught before anything is started, passed on to the app, named by the operator.

use crate::error::{Context, Error, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use std::time::Duration;

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

/// The error that a signal is, before there is an app that it could be passed on to.
pub fn refuse(signals: &SignalFd) -> Result<()> {
    while let Some(info) = signals.read_signal().context(|| "read(signalfd)")? {
        let number = info.ssi_signo as i32;
        if let Some(signal) = ENDING.into_iter().find(|signal| *signal as i32 == number) {
            let error = Error::system(
                "launch",
                format_args!("{signal} came before the app started"),
            );
            return Err(error.exit(128 + number as u8));
        }
    }
    Ok(())
}

/// `imrun stop -t` sends its timeout along, in milliseconds (sigqueue(3)).
pub(super) fn stop_timeout(info: &siginfo) -> Option<Duration> {
    (info.ssi_code == libc::SI_QUEUE && info.ssi_int >= 0)
        .then(|| Duration::from_millis(info.ssi_int as u64))
}

/// Whether the kernel drops a signal for process 1 of a pid namespace, by its /proc/PID/status: it has no handler for
/// it, and does not block it (signal(7), pid_namespaces(7)). One that the app itself has chosen to ignore is none of
/// these: it may have its own way to end.
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

/// Whether a process waits for signals, by its /proc/PID/syscall.
pub(super) fn is_waited_for(call: &str) -> bool {
    let number = call.split_ascii_whitespace().next();
    number.and_then(|number| number.parse().ok()) == Some(libc::SYS_rt_sigtimedwait)
}

/// The name of a signal: `SIGTERM`, `SIGRTMIN+3`.
pub fn name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(signal) => signal.to_string(),
        Err(_) => format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()),
    }
}

/// The number of a signal by its name (`SIGTERM`, `TERM`, `RTMIN+3`, `RTMAX-3`) or number, as image configs
/// and docker write it.
pub fn parse(text: &str) -> Result<i32> {
    let unknown = || Error::usage(format_args!("signal {text:?}"), "is none that Linux has");
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
    fn signals_are_read_by_name_and_number() {
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
