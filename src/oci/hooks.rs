//! `hooks` of config.json (runtime-spec, config.md, POSIX-platform Hooks): programs of the host that
//! are run at a container's turns, with its state on their standard input.

use super::config::wrong;
use crate::error::{Context, Error, Result};
use crate::json::Node;
use crate::sys::process::{self, Namespaces};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    path: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    timeout: Option<Duration>,
}

/// Those of a bundle, each list in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before the app is started, among the host's namespaces.
    pub prestart: Vec<Hook>,
    /// The same; after all of `prestart`.
    pub create_runtime: Vec<Hook>,
    /// The same, but with the container's network, ipc and uts namespaces.
    pub create_container: Vec<Hook>,
    /// In the container, in front of the app.
    pub start_container: Vec<Hook>,
    /// When the app runs.
    pub poststart: Vec<Hook>,
    /// When the container was deleted.
    pub poststop: Vec<Hook>,
}

pub(super) fn read(root: &Node<'_>) -> Result<Hooks> {
    let Some(hooks) = root.get("hooks")? else {
        return Ok(Hooks::default());
    };
    let read = |key| match hooks.get(key)? {
        Some(list) => list.list()?.iter().map(hook).collect(),
        None => Ok(Vec::new()),
    };
    Ok(Hooks {
        prestart: read("prestart")?,
        create_runtime: read("createRuntime")?,
        create_container: read("createContainer")?,
        start_container: read("startContainer")?,
        poststart: read("poststart")?,
        poststop: read("poststop")?,
    })
}

fn hook(node: &Node<'_>) -> Result<Hook> {
    let path = node.need("path")?.text()?.to_owned();
    if !path.starts_with('/') {
        return Err(node.error("has a path that is not absolute"));
    }
    let env = match node.get("env")? {
        Some(env) => env.texts()?,
        None => Vec::new(),
    };
    let pair = |entry: String| match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(wrong("hooks", "an environment entry has no name")),
    };
    let timeout = match node.get("timeout")? {
        Some(timeout) => match timeout.integer()? {
            seconds @ 1.. => Some(Duration::from_secs(seconds as u64)),
            _ => return Err(timeout.error("is not greater than zero")),
        },
        None => None,
    };
    Ok(Hook {
        path,
        args: match node.get("args")? {
            Some(args) => args.texts()?,
            None => Vec::new(),
        },
        env: env.into_iter().map(pair).collect::<Result<_>>()?,
        timeout,
    })
}

/// Runs hooks one after the other; `inside` are the namespaces of a process that they are run in.
///
/// # Errors
/// The first one's that fails.
pub fn run(
    kind: &str,
    hooks: &[Hook],
    state: &Value,
    inside: Option<(BorrowedFd<'_>, Namespaces)>,
) -> Result<()> {
    hooks
        .iter()
        .try_for_each(|hook| hook.run(kind, state, inside))
}

impl Hook {
    fn run(
        &self,
        kind: &str,
        state: &Value,
        inside: Option<(BorrowedFd<'_>, Namespaces)>,
    ) -> Result<()> {
        let what = || format!("{kind} hook {:?}", self.path);
        let mut command = Command::new(&self.path);
        if let [name, rest @ ..] = &self.args[..] {
            command.arg0(name).args(rest);
        }
        command.env_clear().envs(self.env.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        if let Some((process, namespaces)) = inside {
            process::enter_before_exec(&mut command, process, namespaces)
                .context(|| "dup(pidfd)")?;
        }
        let mut child = command.spawn().context(what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A hook need not read it.
            let _ = stdin.write_all(state.to_string().as_bytes());
        }
        if !ends_in_time(&child, self.timeout)? {
            child.kill().and_then(|()| child.wait()).context(what)?;
            return Err(Error::usage(what(), "took longer than its timeout"));
        }
        let status = child.wait().context(what)?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::usage(what(), status)),
        }
    }
}

/// Waits for the end of a program, which is not reaped yet then.
fn ends_in_time(child: &Child, timeout: Option<Duration>) -> Result<bool> {
    let pidfd = process::pidfd_open(child.id() as i32).context(|| "pidfd_open(hook)")?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        // What is left of a millisecond is waited for, too.
        let patience = left.map(|left| left + Duration::from_micros(999));
        let patience = patience.map_or(Ok(PollTimeout::NONE), PollTimeout::try_from);
        let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, patience.unwrap_or(PollTimeout::MAX)) {
            Ok(1..) => return Ok(true),
            Ok(_) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(|| "poll(hook)"),
        }
    }
}
