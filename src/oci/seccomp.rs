//! `linux.seccomp` of config.json (runtime-spec, config-linux.md, Seccomp).

use super::config::{WHAT, malformed, refuse, text, wrong};
use crate::base::error::{Context, Error, Result};
use crate::base::sys::socket;
use crate::runtime::launch::Filter;
use crate::runtime::seccomp::{Case, Comparison, Profile, Test, number_of};
use crate::runtime::supervise::signals;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signalfd::SignalFd;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Maximum number of instructions in a filter (linux/bpf_common.h, BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;
/// Time limit for an agent to accept the connection and read the state.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two attempts to connect to an agent.
const RETRY: Duration = Duration::from_millis(20);
/// Action that passes the call to the process with the listener.
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
/// Reason why `sendmsg` cannot have the action [`NOTIFY`].
const NOTIFY_SENDMSG: &str =
    "SCMP_ACT_NOTIFY: sendmsg passes the listener on, so no agent could answer it yet";

/// A bundle's filter, and the agent that answers its notifications.
pub struct Seccomp {
    pub filter: Filter,
    pub agent: Option<Agent>,
}

/// Process that gets the listener of a bundle's filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Unix socket of the agent on the host.
    pub socket: PathBuf,
    /// Text that the agent gets unchanged.
    pub metadata: String,
}

/// Reads the filter. `quiet` is true if imrun's own filter has no listener.
pub(super) fn read(seccomp: &LinuxSeccomp, quiet: bool) -> Result<Seccomp> {
    let agent = agent(seccomp)?;
    if agent.is_some() && !quiet {
        return Err(one_listener("linux.seccomp.listenerPath"));
    }
    let (program, asks) = filter(seccomp)?;
    if asks && !quiet {
        return Err(one_listener("linux.seccomp, SCMP_ACT_NOTIFY"));
    }
    if asks && agent.is_none() {
        return Err(wrong(
            "linux.seccomp",
            "SCMP_ACT_NOTIFY needs a listenerPath",
        ));
    }
    Ok(Seccomp {
        filter: Filter {
            program,
            has_listener: asks,
        },
        agent: agent.filter(|_| asks),
    })
}

fn one_listener(path: &str) -> Error {
    let why = "a process has one listener, and it is imrun's observer";
    refuse(path, why)
        .hint("IMRUN_ON_WRITE=quiet in the runtime's environment leaves it to the bundle")
}

fn agent(seccomp: &LinuxSeccomp) -> Result<Option<Agent>> {
    let Some(socket) = text(seccomp.listener_path()) else {
        return Ok(None);
    };
    if socket.is_absolute() {
        Ok(Some(Agent {
            socket: socket.clone(),
            metadata: seccomp.listener_metadata().clone().unwrap_or_default(),
        }))
    } else {
        Err(wrong("linux.seccomp.listenerPath", "is not absolute"))
    }
}

/// Returns the filter program, and whether it notifies an agent of any call.
fn filter(seccomp: &LinuxSeccomp) -> Result<(Vec<libc::sock_filter>, bool)> {
    let default = (seccomp.default_action(), seccomp.default_errno_ret());
    let otherwise = action("linux.seccomp.defaultAction", default)?;
    let mut asks = otherwise == NOTIFY;
    if asks {
        return Err(refuse("linux.seccomp.defaultAction", NOTIFY_SENDMSG));
    }
    let mut cases: BTreeMap<u32, Vec<Case>> = BTreeMap::new();
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        let path = format!("linux.seccomp.syscalls[{index}]");
        let answer = action(&format!("{path}.action"), (rule.action(), rule.errno_ret()))?;
        let args = rule.args().iter().flatten().enumerate();
        let tests = args
            .map(|(index, arg)| test(&format!("{path}.args[{index}]"), arg))
            .collect::<Result<Vec<_>>>()?;
        for name in rule.names() {
            // A call that this architecture does not have needs no rule.
            if let Some(number) = number_of(name) {
                asks |= answer == NOTIFY;
                if answer == NOTIFY && i64::from(number) == libc::SYS_sendmsg {
                    return Err(refuse("linux.seccomp, sendmsg", NOTIFY_SENDMSG));
                }
                let of_call = cases.entry(number).or_default();
                for tests in alternatives(&tests) {
                    of_call.push(Case { tests, answer });
                }
            }
        }
    }
    let program = Profile { cases, otherwise }.compile();
    match program.len() {
        ..=MAX_INSTRUCTIONS => Ok((program, asks)),
        length => Err(wrong(
            "linux.seccomp",
            format_args!("needs {length} instructions: the kernel allows {MAX_INSTRUCTIONS}"),
        )),
    }
}

/// Splits tests into rules. Several tests of one argument are alternatives, a rule each, as in runc
/// (libcontainer/seccomp, matchCall).
fn alternatives(tests: &[Test]) -> Vec<Vec<Test>> {
    let repeated = tests.iter().enumerate().any(|(index, test)| {
        tests[..index]
            .iter()
            .any(|other| other.argument == test.argument)
    });
    if repeated {
        tests.iter().map(|test| vec![*test]).collect()
    } else {
        vec![tests.to_vec()]
    }
}

/// Translates an action to `SECCOMP_RET_*` with its errno, which is EPERM unless the bundle has another.
fn action(path: &str, (action, errno): (LinuxSeccompAction, Option<u32>)) -> Result<u32> {
    const LAST: u32 = 4095; // MAX_ERRNO
    match errno {
        None | Some(0..=LAST) => Ok(action.as_u32(errno)),
        Some(_) => {
            let why = "has an invalid errnoRet: expected an errno of Linux";
            Err(malformed(path, why))
        }
    }
}

fn test(path: &str, arg: &LinuxSeccompArg) -> Result<Test> {
    use LinuxSeccompOperator as Op;
    let argument = u8::try_from(arg.index())
        .ok()
        .filter(|argument| *argument < 6)
        .ok_or_else(|| malformed(path, "has an invalid index: expected 0 to 5"))?;
    let value = arg.value();
    let (comparison, value) = match arg.op() {
        Op::ScmpCmpEq => (Comparison::Equal, value),
        Op::ScmpCmpNe => (Comparison::NotEqual, value),
        Op::ScmpCmpLt => (Comparison::Less, value),
        Op::ScmpCmpLe => (Comparison::AtMost, value),
        Op::ScmpCmpGt => (Comparison::Greater, value),
        Op::ScmpCmpGe => (Comparison::AtLeast, value),
        // Bits of the value outside the mask could never match.
        Op::ScmpCmpMaskedEq => {
            let second = arg.value_two().unwrap_or_default();
            (Comparison::Masked(value), second & value)
        }
    };
    Ok(Test {
        argument,
        comparison,
        value,
    })
}

impl Agent {
    /// Sends a container's state with the listener to the agent (runtime-spec, config-linux.md,
    /// containerProcessState).
    ///
    /// # Errors
    /// The agent does not take it in time, or a signal ends the launch.
    pub fn send_state(
        &self,
        state: &[u8],
        listener: BorrowedFd<'_>,
        signals: &SignalFd,
    ) -> Result<()> {
        let what = || format!("{WHAT} `linux.seccomp.listenerPath` {:?}", self.socket);
        let deadline = Instant::now() + TIMEOUT;
        let late = |why| Err(Error::system(what(), why));
        let stream = loop {
            signals::refuse(signals)?;
            if let Some(stream) = socket::connect_unix(&self.socket).context(what)? {
                break stream;
            }
            // The kernel does not tell when the queue of connections has room again.
            if Instant::now() >= deadline {
                return late("the agent accepts no connection");
            }
            signals::wait(&[], Some(Instant::now() + RETRY), Some(signals))?;
        };
        // The listener goes with the first byte; the stream takes the rest in pieces.
        socket::send(stream.as_raw_fd(), &state[..1], &[listener]).context(what)?;
        let mut rest = &state[1..];
        while !rest.is_empty() {
            signals::refuse(signals)?;
            match (&stream).write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let room = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
                    if !signals::wait(&room, Some(deadline), Some(signals))? {
                        return late("the agent does not read the state");
                    }
                }
                Err(error) => return Err(error).context(what),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LinuxSeccompAction as Action;

    #[test]
    fn an_action_has_the_kernels_number_and_an_errno_where_it_takes_one() {
        const EPERM: u32 = libc::EPERM as u32;
        for (name, number, default) in [
            (Action::ScmpActAllow, libc::SECCOMP_RET_ALLOW, 0),
            (Action::ScmpActErrno, libc::SECCOMP_RET_ERRNO, EPERM),
            (Action::ScmpActKill, libc::SECCOMP_RET_KILL_THREAD, 0),
            (Action::ScmpActKillThread, libc::SECCOMP_RET_KILL_THREAD, 0),
            (
                Action::ScmpActKillProcess,
                libc::SECCOMP_RET_KILL_PROCESS,
                0,
            ),
            (Action::ScmpActLog, libc::SECCOMP_RET_LOG, 0),
            (Action::ScmpActNotify, NOTIFY, 0),
            (Action::ScmpActTrace, libc::SECCOMP_RET_TRACE, EPERM),
            (Action::ScmpActTrap, libc::SECCOMP_RET_TRAP, 0),
        ] {
            assert_eq!(action("x", (name, None)).unwrap(), number | default);
            let errno = if default == 0 { 0 } else { 4095 };
            assert_eq!(action("x", (name, Some(4095))).unwrap(), number | errno);
            assert!(action("x", (name, Some(4096))).is_err());
        }
    }
}
