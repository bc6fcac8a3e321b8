//! Keeps a created container waiting until it is started.

use super::VERSION;
use super::hooks::{self, Hooks, Inside};
use super::preserved::Preserved;
use super::seccomp::Agent;
use super::state::{App, Known, Phase, Place};
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

/// The way from a container that is created to one that runs.
pub(super) struct Door<'a> {
    place: &'a Place,
    hooks: &'a Hooks,
    agent: Option<&'a Agent>,
    app: Option<AppIdentity>,
    pid_file: Option<PathBuf>,
    /// Where `start` comes in; without, the container starts as soon as it is created.
    listener: Option<UnixListener>,
    inner: Mutex<Inner>,
}

/// As whom the app runs, and with which environment.
pub(super) struct AppIdentity {
    pub identity: Identity,
    pub env: Vec<(OsString, OsString)>,
}

struct Inner {
    known: Known,
    created: bool,
    /// Who waits for what comes next: `create`, then `start`.
    waiting: Option<UnixStream>,
    /// Until the app has its own.
    preserved: Preserved,
}

impl<'a> Door<'a> {
    pub fn new(
        place: &'a Place,
        hooks: &'a Hooks,
        agent: Option<&'a Agent>,
        known: Known,
        pid_file: Option<PathBuf>,
        preserved: Preserved,
        from: Option<(UnixListener, UnixStream)>,
    ) -> Door<'a> {
        let (listener, waiting) = from.unzip();
        Door {
            place,
            hooks,
            agent,
            app: None,
            pid_file,
            listener,
            inner: Mutex::new(Inner {
                known,
                created: false,
                waiting,
                preserved,
            }),
        }
    }

    /// Hooks that are run in front of the app are run as it is.
    pub fn with_app(self, app: AppIdentity) -> Door<'a> {
        Door {
            app: Some(app),
            ..self
        }
    }

    /// Nothing can go wrong while it is held.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a container that was not created. Where hooks have seen it, those of its end are run.
    pub fn abandon(&self) -> Result<()> {
        let inner = self.inner();
        if inner.created {
            return Ok(());
        }
        self.place.remove()?;
        if inner.known.app.is_some() {
            inner.known.run_poststop();
        }
        Ok(())
    }

    /// Tells who waits how it went. Who went away meanwhile hears nothing.
    pub fn tell(&self, outcome: &Result<()>) -> bool {
        let Some(mut waiting) = self.inner().waiting.take() else {
            return false;
        };
        let line = format!("{}\n", message(outcome));
        waiting.write_all(line.as_bytes()).is_ok()
    }

    fn state(&self, phase: Phase) -> Value {
        self.inner().known.document(phase)
    }

    /// The state as the container sees it: the app is the first of its processes.
    fn state_inside(&self, phase: Phase) -> Value {
        let mut state = self.state(phase);
        state["pid"] = json!(1);
        state
    }

    fn created(&self, app: &Prepared, signals: &SignalFd) -> Result<()> {
        let pid = app.pid.as_raw();
        self.inner().known.app = Some(App::of(pid)?);
        signals::refuse(signals)?;
        if let Some(file) = &self.pid_file {
            // Who waits for the file reads it at once.
            files::replace(file, pid.to_string().as_bytes(), files::PUBLIC)?;
        }
        self.place.write(&self.inner().known)?;
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
                self.inner().waiting = Some(stream);
                return Ok(());
            }
        }
    }
}

impl Gate for Door<'_> {
    fn adopts(&self) -> bool {
        self.listener.is_some()
    }

    fn cgroup_created(&self, identity: &CgroupIdentity) -> Result<()> {
        self.inner().known.cgroup = Some(identity.clone());
        self.place.write(&self.inner().known)
    }

    fn has_hooks(&self) -> bool {
        self.hooks.of_creation()
    }

    fn mounts_ready(&self, app: &Prepared, root: &Path, signals: &SignalFd) -> Result<()> {
        let hooks = self.hooks;
        self.inner().known.app = Some(App::of(app.pid.as_raw())?);
        let creating = self.state(Phase::Creating);
        hooks::run("prestart", &hooks.prestart, &creating, None)?;
        hooks::run("createRuntime", &hooks.create_runtime, &creating, None)?;
        let mut creating = self.state_inside(Phase::Creating);
        creating["rootfs"] = json!(root);
        let bundle = self.inner().known.bundle.clone();
        let inside = Inside {
            process: app.pidfd.as_fd(),
            identity: &Identity::Caller,
            env: None,
            directory: &bundle,
        };
        let list = &hooks.create_container;
        hooks::run("createContainer", list, &creating, Some(inside))?;
        signals::refuse(signals)
    }

    fn wait(&self, app: &Prepared, signals: &SignalFd) -> Result<()> {
        self.created(app, signals)?;
        if let Some(listener) = &self.listener {
            if !self.tell(&Ok(())) {
                return Err(Error::system(
                    "create",
                    "went away before it knew of its container",
                ));
            }
            self.await_start(listener, app, signals)?;
        }
        let inside = self
            .app
            .as_ref()
            .map(|AppIdentity { identity, env }| Inside {
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
            inside,
        )
    }

    fn send_listener(&self, listener: OwnedFd) -> Result<()> {
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
        agent.tell(message.to_string().as_bytes(), listener.as_fd())
    }

    fn started(&self) -> Result<()> {
        // Who reads it sees the end of the app's, not of the supervisor's.
        process::close_stream(1).context(|| "dup2(/dev/null, 1)")?;
        self.inner().known.started = true;
        self.inner().preserved.close();
        self.place.write(&self.inner().known)?;
        let state = self.state(Phase::Running);
        match hooks::run("poststart", &self.hooks.poststart, &state, None) {
            Err(error) if self.hooks.poststart_is_strict => return Err(error.exit(EXIT_FAILED)),
            Err(error) => log::warn!("{error}"),
            Ok(()) => {}
        }
        self.tell(&Ok(()));
        Ok(())
    }
}

/// One line of JSON: `{}`, or an error's parts.
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

/// What the other end of a door says. That is a line and not all until its end: the app's process
/// holds a copy of the end as long as it waits.
pub(super) fn outcome(from: UnixStream) -> Result<()> {
    let mut text = String::new();
    let read = BufReader::new(from).read_line(&mut text);
    read.context(|| "read(supervisor)")?;
    let gone = || Error::system("supervisor", "ended before it said how it went");
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
