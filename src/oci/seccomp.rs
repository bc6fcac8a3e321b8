//! `linux.seccomp` of config.json (runtime-spec, config-linux.md, Seccomp).

use super::config::{WHAT, refuse, text, wrong};
use super::process::number;
use crate::base::error::{Context, Error, Result};
use crate::base::json::Node;
use crate::base::sys::socket;
use crate::runtime::launch::Filter;
use crate::runtime::seccomp::{Case, Comparison, Profile, Test, number_of};
use crate::runtime::supervise::signals;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signalfd::SignalFd;
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
pub(super) fn read(node: &Node<'_>, quiet: bool) -> Result<Seccomp> {
    let agent = agent(node)?;
    if agent.is_some() && !quiet {
        return Err(one_listener("linux.seccomp.listenerPath"));
    }
    let (program, asks) = filter(node)?;
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

fn agent(node: &Node<'_>) -> Result<Option<Agent>> {
    let Some(path) = text(node, "listenerPath")? else {
        return Ok(None);
    };
    if path.starts_with('/') {
        Ok(Some(Agent {
            socket: path.into(),
            metadata: text(node, "listenerMetadata")?.unwrap_or_default(),
        }))
    } else {
        Err(wrong("linux.seccomp.listenerPath", "is not absolute"))
    }
}

/// Returns the filter program, and whether it notifies an agent of any call.
fn filter(node: &Node<'_>) -> Result<(Vec<libc::sock_filter>, bool)> {
    let errno = node.get("defaultErrnoRet")?;
    let otherwise = action(&node.need("defaultAction")?, errno.as_ref())?;
    let mut asks = otherwise == NOTIFY;
    if asks {
        return Err(refuse("linux.seccomp.defaultAction", NOTIFY_SENDMSG));
    }
    let mut cases: BTreeMap<u32, Vec<Case>> = BTreeMap::new();
    let list = node.get("syscalls")?;
    for rule in list.map_or(Ok(Vec::new()), |list| list.list())? {
        let answer = action(&rule.need("action")?, rule.get("errnoRet")?.as_ref())?;
        let args = rule.get("args")?;
        let args = args.map_or(Ok(Vec::new()), |args| args.list())?;
        let tests = args.iter().map(test).collect::<Result<Vec<_>>>()?;
        for name in rule.need("names")?.texts()? {
            // A call that this architecture does not have needs no rule.
            if let Some(number) = number_of(&name) {
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

/// Translates an action to `SECCOMP_RET_*` with its data.
fn action(node: &Node<'_>, errno: Option<&Node<'_>>) -> Result<u32> {
    const EPERM: u32 = libc::EPERM as u32;
    const LAST: u32 = 4095; // MAX_ERRNO
    let data = match errno.map(number).transpose()? {
        Some(data @ 0..=LAST) => data,
        Some(_) => return Err(node.error("has an invalid errnoRet: expected an errno of Linux")),
        None => EPERM,
    };
    Ok(match node.text()? {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        _ => return Err(node.error("is not an action: expected SCMP_ACT_…")),
    })
}

fn test(node: &Node<'_>) -> Result<Test> {
    let argument = number(&node.need("index")?)?;
    let argument = u8::try_from(argument)
        .ok()
        .filter(|argument| *argument < 6)
        .ok_or_else(|| node.error("has an invalid index: expected 0 to 5"))?;
    let value = node.need("value")?.word()?;
    let second = node.get("valueTwo")?.map_or(Ok(0), |node| node.word())?;
    let operator = node.need("op")?;
    let (comparison, value) = match operator.text()? {
        "SCMP_CMP_EQ" => (Comparison::Equal, value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, value),
        "SCMP_CMP_LT" => (Comparison::Less, value),
        "SCMP_CMP_LE" => (Comparison::AtMost, value),
        "SCMP_CMP_GT" => (Comparison::Greater, value),
        "SCMP_CMP_GE" => (Comparison::AtLeast, value),
        // Bits of the value outside the mask could never match.
        "SCMP_CMP_MASKED_EQ" => (Comparison::Masked(value), second & value),
        _ => return Err(operator.error("is not a comparison: expected SCMP_CMP_…")),
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
