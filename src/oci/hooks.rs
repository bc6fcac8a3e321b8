//! `hooks` of config.json (runtime-spec, config.md, POSIX-platform Hooks): programs of the host that run at
//! given points of a container's life, with its state on their standard input.

use super::config::{malformed, wrong};
use crate::base::error::{Context, Error, Result};
use crate::base::sys::process::{self, Identity};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// First minor version of the specification in which a failed `poststart` hook ends the start.
const STRICT_POSTSTART_MINOR: u64 = 3;

/// One hook program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    path: String,
    args: Vec<String>,
    /// Environment; `None` inherits that of the process that runs the hook.
    env: Option<Vec<(String, String)>>,
    timeout: Option<Duration>,
}

/// Hooks of a bundle; each list runs in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Run before the start, in the host's namespaces.
    pub prestart: Vec<Hook>,
    /// Run before the start, in the host's namespaces, after all of `prestart`.
    pub create_runtime: Vec<Hook>,
    /// Run before the start, in the container's namespaces: its mounts exist, and the host's are still visible.
    pub create_container: Vec<Hook>,
    /// Run in the container, just before the app.
    pub start_container: Vec<Hook>,
    /// Run in the host's namespaces when the app runs.
    pub poststart: Vec<Hook>,
    /// True if a failed `poststart` hook ends the container (from version 1.3 of the specification).
    pub poststart_is_strict: bool,
    /// Run in the host's namespaces after the container is deleted.
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Returns true if any hook runs while the container is created.
    pub fn has_mount_hooks(&self) -> bool {
        let lists = [&self.prestart, &self.create_runtime, &self.create_container];
        lists.into_iter().any(|list| !list.is_empty())
    }
}

/// Checks `hooks`; `minor` is the second number of the document's version.
pub(super) fn read(hooks: &runtime::Hooks, minor: u64) -> Result<Hooks> {
    // Engines still use it.
    #[allow(deprecated)]
    let prestart = hooks.prestart();
    Ok(Hooks {
        prestart: list("prestart", prestart)?,
        create_runtime: list("createRuntime", hooks.create_runtime())?,
        create_container: list("createContainer", hooks.create_container())?,
        start_container: list("startContainer", hooks.start_container())?,
        poststart: list("poststart", hooks.poststart())?,
        poststart_is_strict: minor >= STRICT_POSTSTART_MINOR,
        poststop: list("poststop", hooks.poststop())?,
    })
}

fn list(kind: &str, hooks: &Option<Vec<runtime::Hook>>) -> Result<Vec<Hook>> {
    let hooks = hooks.iter().flatten().enumerate();
    hooks
        .map(|(index, read)| hook(&format!("hooks.{kind}[{index}]"), read))
        .collect()
}

/// Checks a hook. imrun's own type is what state.json has: variables by name, and a timeout that is valid.
fn hook(place: &str, hook: &runtime::Hook) -> Result<Hook> {
    let path = hook.path().to_str().expect("it was text").to_owned();
    if !path.starts_with('/') {
        return Err(malformed(place, "has a path that is not absolute"));
    }
    let pair = |entry: &String| match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(wrong("hooks", "an environment entry has no name")),
    };
    let env = hook.env().as_ref();
    let env = env.map(|env| env.iter().map(pair).collect::<Result<_>>());
    let timeout = match hook.timeout() {
        // A century is enough, and the clock does not reach beyond every i64.
        Some(seconds @ 1..) => Some(Duration::from_secs(seconds.min(u32::MAX.into()) as u64)),
        Some(_) => {
            let why = "is not greater than zero";
            return Err(malformed(&format!("{place}.timeout"), why));
        }
        None => None,
    };
    Ok(Hook {
        path,
        args: hook.args().clone().unwrap_or_default(),
        env: env.transpose()?,
        timeout,
    })
}

/// A container in which hooks run.
#[derive(Clone, Copy)]
pub struct ContainerContext<'a> {
    /// Pidfd of a process of the container.
    pub process: BorrowedFd<'a>,
    /// User and capabilities of the hooks.
    pub identity: &'a Identity,
    /// Default environment of hooks; `None` is imrun's own.
    pub env: Option<&'a [(OsString, OsString)]>,
    /// Working directory of the hooks.
    pub directory: &'a Path,
}

/// Runs hooks one after the other, in the host's namespaces or in those of a container.
///
/// # Errors
/// The first hook that fails; the remaining hooks do not run.
pub fn run(
    kind: &str,
    hooks: &[Hook],
    state: &Value,
    container: Option<ContainerContext<'_>>,
) -> Result<()> {
    hooks
        .iter()
        .try_for_each(|hook| hook.run(kind, state, container))
}

impl Hook {
    fn run(
        &self,
        kind: &str,
        state: &Value,
        container: Option<ContainerContext<'_>>,
    ) -> Result<()> {
        let what = || format!("{kind} hook {:?}", self.path);
        let mut command = Command::new(&self.path);
        if let [name, rest @ ..] = &self.args[..] {
            command.arg0(name).args(rest);
        }
        match (&self.env, container.and_then(|container| container.env)) {
            (Some(own), _) => drop(command.env_clear().envs(own.iter().cloned())),
            (None, Some(env)) => drop(command.env_clear().envs(env.iter().cloned())),
            (None, None) => {}
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let bundle = Path::new(state["bundle"].as_str().unwrap_or("/"));
        if let Some(container) = container {
            let directory = CString::new(container.directory.as_os_str().as_encoded_bytes())
                .map_err(|_| Error::usage(what(), "its working directory has a NUL byte"))?;
            let identity = container.identity.clone();
            process::enter_before_exec(&mut command, container.process, identity, directory)
                .context(|| "dup(pidfd)")?;
        } else if bundle.is_dir() {
            // At the end of a container the bundle may be gone.
            command.current_dir(bundle);
        }
        let mut child = command.spawn().context(what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A hook may ignore its standard input.
            let _ = stdin.write_all(state.to_string().as_bytes());
        }
        if !ends_in_time(&child, self.timeout)? {
            child.kill().and_then(|()| child.wait()).context(what)?;
            return Err(Error::usage(what(), "took longer than its timeout"));
        }
        let status = child.wait().context(what)?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::usage(what(), status))
        }
    }
}

/// Waits until a program ends, without reaping it. Returns false if it exceeds the timeout.
fn ends_in_time(child: &Child, timeout: Option<Duration>) -> Result<bool> {
    let pidfd = process::pidfd_open(child.id() as i32).context(|| "pidfd_open(hook)")?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        // Round up: a fraction of a millisecond counts, too.
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
