//! `hooks` of config.json (runtime-spec, config.md, POSIX-platform Hooks): programs of the host that run at
//! given points of a container's life, with its state on their standard input.

use super::config::{malformed, wrong};
use crate::base::error::{Context, EXIT_REFUSED, Error, Result};
use crate::base::sys::process::{self, Identity};
use crate::runtime::supervise::signals;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::signalfd::{SignalFd, siginfo};
use nix::unistd::Pid;
use oci_spec::runtime;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::RefCell;
use std::ffi::{CString, OsString};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
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

/// Events that end a hook before its time.
pub struct Interrupts<'a> {
    /// Signals that imrun has caught.
    signals: &'a SignalFd,
    /// Connection to the command that waits for the hooks. If the command dies, the hook ends.
    client: Option<UnixStream>,
    /// Signals read while hooks ran.
    read: RefCell<Vec<siginfo>>,
}

impl<'a> Interrupts<'a> {
    /// Returns the events: signals, and the end of `client`.
    pub fn new(signals: &'a SignalFd, client: Option<UnixStream>) -> Interrupts<'a> {
        Interrupts {
            signals,
            client,
            read: RefCell::default(),
        }
    }

    /// Makes the signals that were read pending again, for the supervisor of the app.
    pub fn give_back(self) -> Result<()> {
        signals::give_back(&self.read.into_inner())
    }

    /// Returns the reason to end a hook, and the exit code for it.
    fn cause(&self) -> Result<Option<(String, u8)>> {
        let keep = |info| self.read.borrow_mut().push(info);
        if let Some(signal) = signals::read_ending(self.signals, keep)? {
            return Ok(Some((format!("ended by {signal}"), 128 + signal as u8)));
        }
        let Some(client) = &self.client else {
            return Ok(None);
        };
        let mut set = [PollFd::new(client.as_fd(), PollFlags::empty())];
        let gone = poll(&mut set, PollTimeout::ZERO).context(|| "poll(client)")? > 0;
        let why = "ended: the command that waited for it has exited";
        Ok(gone.then(|| (why.to_owned(), EXIT_REFUSED)))
    }
}

/// Runs hooks one after the other, in the host's namespaces or in those of a container.
///
/// # Errors
/// The first hook that fails or is interrupted; the remaining hooks do not run.
pub fn run(
    kind: &str,
    hooks: &[Hook],
    state: &Value,
    container: Option<ContainerContext<'_>>,
    interrupts: &Interrupts<'_>,
) -> Result<()> {
    hooks
        .iter()
        .try_for_each(|hook| hook.run(kind, state, container, interrupts))
}

impl Hook {
    fn run(
        &self,
        kind: &str,
        state: &Value,
        container: Option<ContainerContext<'_>>,
        interrupts: &Interrupts<'_>,
    ) -> Result<()> {
        let what = || format!("{kind} hook {:?}", self.path);
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let bundle = Path::new(state["bundle"].as_str().unwrap_or("/"));
        let mut child = self.command(bundle, container)?.spawn().context(what)?;
        let text = state.to_string();
        match await_end(&mut child, text.as_bytes(), deadline, interrupts) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Error::usage(what(), status)),
            Err(error) => {
                // The hook leads a process group, and nothing has reaped it yet.
                let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
                child.wait().context(what)?;
                Err(Error {
                    what: what(),
                    ..error
                })
            }
        }
    }

    fn command(&self, bundle: &Path, container: Option<ContainerContext<'_>>) -> Result<Command> {
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
        process::isolate_before_exec(&mut command);
        if let Some(container) = container {
            let directory = CString::new(container.directory.as_os_str().as_encoded_bytes())
                .map_err(|_| Error::usage(&self.path, "its working directory has a NUL byte"))?;
            let identity = container.identity.clone();
            process::enter_before_exec(&mut command, container.process, identity, directory)
                .context(|| "dup(pidfd)")?;
        } else if bundle.is_dir() {
            // At the end of a container the bundle may be gone.
            command.current_dir(bundle);
        }
        Ok(command)
    }
}

/// Writes a hook's input and waits until the hook ends.
///
/// # Errors
/// The deadline, or an interrupt; the hook still runs.
fn await_end(
    child: &mut Child,
    mut input: &[u8],
    deadline: Option<Instant>,
    interrupts: &Interrupts<'_>,
) -> Result<ExitStatus> {
    let pidfd = process::pidfd_open(child.id() as i32).context(|| "pidfd_open(hook)")?;
    let mut stdin = child.stdin.take();
    if let Some(stdin) = &stdin {
        fcntl(stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(|| "fcntl(F_SETFL)")?;
    }
    loop {
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(written) if written < input.len() => input = &input[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // All is written, or the hook ignores its standard input.
                _ => stdin = None,
            }
        }
        if let Some(status) = child.try_wait().context(|| "waitpid(hook)")? {
            return Ok(status);
        }
        if let Some((why, exit)) = interrupts.cause()? {
            return Err(Error::system("hook", why).exit(exit));
        }
        let mut set = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if let Some(pipe) = &stdin {
            set.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(client) = &interrupts.client {
            set.push(PollFd::new(client.as_fd(), PollFlags::empty()));
        }
        if !signals::wait(&set, deadline, Some(interrupts.signals))? {
            return Err(Error::usage("hook", "took longer than its timeout"));
        }
    }
}
