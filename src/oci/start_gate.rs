//! The start gate: a created container waits at it until `start`.

use super::VERSION;
use super::hooks::{self, ContainerContext, Hooks, Interrupts};
use super::preserved::Preserved;
use super::seccomp::Agent;
use super::state::{ContainerDir, Phase, ProcessRef, Record};
use crate::base::error::{Context, EXIT_FAILED, Error, Result};
use crate::base::files;
use crate::base::sys::process::{self, Identity};
use crate::runtime::cgroup::CgroupIdentity;
use crate::runtime::container::Gate;
use crate::runtime::launch::{self, Prepared};
use crate::runtime::supervise::signals;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Steps of a launch between the creation and the start of a container: hooks, state file, reports to clients.
pub(super) struct StartGate<'a> {
    directory: &'a ContainerDir,
    hooks: &'a Hooks,
    agent: Option<&'a Agent>,
    app: Option<AppIdentity>,
    pid_file: Option<PathBuf>,
    /// Socket that `start` connects to. `None` starts the container as soon as it is created.
    listener: Option<UnixListener>,
    inner: Mutex<Inner>,
}

/// The app's user, capabilities and environment.
pub(super) struct AppIdentity {
    pub identity: Identity,
    pub env: Vec<(OsString, OsString)>,
}

struct Inner {
    record: Record,
    created: bool,
    /// Connection to the command that waits for a report: `create`, then `start`.
    client: Option<UnixStream>,
    /// The supervisor's copies of the app's descriptors, closed once the app has its own.
    preserved: Preserved,
}

impl<'a> StartGate<'a> {
    pub fn new(
        directory: &'a ContainerDir,
        hooks: &'a Hooks,
        agent: Option<&'a Agent>,
        record: Record,
        pid_file: Option<PathBuf>,
        preserved: Preserved,
        from: Option<(UnixListener, UnixStream)>,
    ) -> StartGate<'a> {
        let (listener, client) = from.unzip();
        StartGate {
            directory,
            hooks,
            agent,
            app: None,
            pid_file,
            listener,
            inner: Mutex::new(Inner {
                record,
                created: false,
                client,
                preserved,
            }),
        }
    }

    /// Sets the app's identity, with which `startContainer` hooks run.
    pub fn with_app(self, app: AppIdentity) -> StartGate<'a> {
        StartGate {
            app: Some(app),
            ..self
        }
    }

    /// Locks the mutable part. No code panics while it holds the lock, so a poisoned lock is usable.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a container whose creation failed. If hooks have seen it, the `poststop` hooks run.
    pub fn abandon(&self) -> Result<()> {
        let inner = self.inner();
        if inner.created {
            return Ok(());
        }
        self.directory.remove()?;
        if inner.record.app.is_some() {
            inner.record.run_poststop()?;
        }
        Ok(())
    }

    /// Sends the outcome to the waiting client. Returns false if there is none or it has gone away.
    pub fn report(&self, outcome: &Result<()>) -> bool {
        let Some(mut client) = self.inner().client.take() else {
            return false;
        };
        let line = format!("{}\n", message(outcome));
        client.write_all(line.as_bytes()).is_ok()
    }

    fn state(&self, phase: Phase) -> Value {
        self.inner().record.document(phase)
    }

    /// Returns the state as seen inside the container, where the app has process id 1.
    fn state_inside(&self, phase: Phase) -> Value {
        let mut state = self.state(phase);
        state["pid"] = json!(1);
        state
    }

    fn created(&self, app: &Prepared, signals: &SignalFd) -> Result<()> {
        let pid = app.pid.as_raw();
        self.inner().record.app = Some(ProcessRef::of(pid)?);
        signals::refuse(signals)?;
        if let Some(file) = &self.pid_file {
            // Callers read the file as soon as it exists, so it appears complete.
            files::replace(file, pid.to_string().as_bytes(), files::PUBLIC)?;
        }
        self.directory.write(&self.inner().record)?;
        self.inner().created = true;
        Ok(())
    }

    fn await_start(
        &self,
        listener: &UnixListener,
        app: &Prepared,
        signals: &SignalFd,
    ) -> Result<()> {
        loop {
            let mut set = [
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(app.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                launch::guard_poll_fd(&app.guard),
            ];
            match poll(&mut set, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context(|| "poll()"),
            }
            let [start, end, _, unguarded] = set.map(|fd| fd.any().unwrap_or(false));
            if end {
                return Err(Error::system(
                    "container",
                    "was killed before it was started",
                ));
            }
            if unguarded {
                return Err(launch::guard_lost());
            }
            signals::refuse(signals)?;
            if start {
                let (stream, _) = listener.accept().context(|| "accept(socket)")?;
                self.inner().client = Some(stream);
                return Ok(());
            }
        }
    }
}

impl Gate for StartGate<'_> {
    fn adopts(&self) -> bool {
        self.listener.is_some()
    }

    fn cgroup_created(&self, identity: &CgroupIdentity) -> Result<()> {
        self.inner().record.cgroup = Some(identity.clone());
        self.directory.write(&self.inner().record)
    }

    fn has_hooks(&self) -> bool {
        self.hooks.has_mount_hooks()
    }

    fn mounts_ready(&self, app: &Prepared, root: &Path, signals: &SignalFd) -> Result<()> {
        let hooks = self.hooks;
        let client = self.inner().client.as_ref().map(UnixStream::try_clone);
        let client = client.transpose().context(|| "dup(client)")?;
        let interrupts = Interrupts::new(signals, client);
        self.inner().record.app = Some(ProcessRef::of(app.pid.as_raw())?);
        let creating = self.state(Phase::Creating);
        hooks::run("prestart", &hooks.prestart, &creating, None, &interrupts)?;
        let list = &hooks.create_runtime;
        hooks::run("createRuntime", list, &creating, None, &interrupts)?;
        let mut creating = self.state_inside(Phase::Creating);
        creating["rootfs"] = json!(root);
        let bundle = self.inner().record.bundle.clone();
        let container = ContainerContext {
            process: app.pidfd.as_fd(),
            identity: &Identity::Caller,
            env: None,
            directory: &bundle,
        };
        let list = &hooks.create_container;
        hooks::run(
            "createContainer",
            list,
            &creating,
            Some(container),
            &interrupts,
        )?;
        signals::refuse(signals)
    }

    fn wait(&self, app: &Prepared, signals: &SignalFd) -> Result<()> {
        self.created(app, signals)?;
        if let Some(listener) = &self.listener {
            if !self.report(&Ok(())) {
                return Err(Error::system(
                    "create",
                    "exited before its container was created",
                ));
            }
            self.await_start(listener, app, signals)?;
        }
        let container = self
            .app
            .as_ref()
            .map(|AppIdentity { identity, env }| ContainerContext {
                process: app.pidfd.as_fd(),
                identity,
                env: Some(env),
                directory: Path::new("/"),
            });
        let state = self.state_inside(Phase::Created);
        hooks::run(
            "startContainer",
            &self.hooks.start_container,
            &state,
            container,
            &Interrupts::new(signals, None),
        )
    }

    fn send_listener(&self, listener: OwnedFd, signals: &SignalFd) -> Result<()> {
        let Some(agent) = self.agent else {
            return Ok(());
        };
        let state = self.state(Phase::Created);
        let message = json!({
            "ociVersion": VERSION,
            "fds": ["seccompFd"],
            "pid": state["pid"],
            "metadata": agent.metadata,
            "state": state,
        });
        agent.send_state(message.to_string().as_bytes(), listener.as_fd(), signals)
    }

    fn started(&self, signals: &SignalFd) -> Result<()> {
        // Readers of the pipe must see its end when the app closes it, not when the supervisor does.
        process::close_stream(1).context(|| "dup2(/dev/null, 1)")?;
        self.inner().preserved.close();
        self.inner().record.started = true;
        self.inner().record.in_poststart = !self.hooks.poststart.is_empty();
        self.directory.write(&self.inner().record)?;
        let state = self.state(Phase::Running);
        let (list, interrupts) = (&self.hooks.poststart, Interrupts::new(signals, None));
        let outcome = hooks::run("poststart", list, &state, None, &interrupts);
        if !list.is_empty() {
            self.inner().record.in_poststart = false;
            self.directory.write(&self.inner().record)?;
        }
        // The app runs: it gets the signals from its supervisor.
        interrupts.give_back()?;
        match outcome {
            // After a signal the app ends by it.
            Err(error) if self.hooks.poststart_is_strict && error.exit < 128 => {
                return Err(error.exit(EXIT_FAILED));
            }
            Err(error) => log::warn!("{error}"),
            Ok(()) => {}
        }
        self.report(&Ok(()));
        Ok(())
    }
}

/// Encodes an outcome as JSON: `{}`, or the parts of an error.
fn message(outcome: &Result<()>) -> Value {
    match outcome {
        Ok(()) => json!({}),
        Err(error) => json!({
            "what": error.what,
            "why": error.why,
            "hint": error.hint,
            "exit": error.exit,
        }),
    }
}

/// Reads the outcome that a start gate sends. It reads one line, not to the end of file: the app's process
/// holds a copy of the socket as long as it waits.
pub(super) fn read_outcome(from: UnixStream) -> Result<()> {
    let mut text = String::new();
    let read = BufReader::new(from).read_line(&mut text);
    read.context(|| "read(supervisor)")?;
    let gone = || Error::system("supervisor", "ended before it reported an outcome");
    let message: Value = serde_json::from_str(&text).map_err(|_| gone())?;
    let part = |key: &str| message[key].as_str();
    let Some((what, why)) = part("what").zip(part("why")) else {
        return Ok(());
    };
    let exit = message["exit"]
        .as_u64()
        .and_then(|exit| exit.try_into().ok());
    let error = Error::system(what, why).exit(exit.unwrap_or(crate::base::error::EXIT_REFUSED));
    Err(match part("hint") {
        Some(hint) => error.hint(hint),
        None => error,
    })
}
