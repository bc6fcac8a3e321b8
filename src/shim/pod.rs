//! State of the containers of a pod, and the reaper of all processes.
//!
//! The shim is the subreaper of its pod: apps, supervisors and commands are its children, and one thread reaps
//! them all. One lock guards the state.

use super::events::{self, Events};
use super::runtime::Streams;
use super::stdin::Stdin;
use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::MessageField;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Maximum output of a command, in bytes.
const MAX_OUTPUT: u64 = 64 << 10;

/// Exit of a process.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Exit code, or 128 plus the signal number.
    pub code: u32,
    /// Time when the process was reaped.
    pub at: SystemTime,
}

/// A container of the pod.
#[derive(Debug)]
pub struct Container {
    /// Directory of the bundle.
    pub bundle: PathBuf,
    /// Standard streams, as containerd named them.
    pub streams: Streams,
    /// Standard input, if there is one.
    pub stdin: Option<Stdin>,
    /// Process id of the app.
    pub pid: i32,
    /// Exit of the app, if it has ended.
    pub exit: Option<Exit>,
    /// True during `start`. An exit is reported only afterwards, so that events keep their order.
    pub starting: bool,
}

/// Containers of a pod.
pub struct Pod {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Publisher of events to containerd.
    pub events: Events,
}

#[derive(Default)]
struct Inner {
    containers: BTreeMap<String, Container>,
    /// Containers that are being created, by ID; true if their standard input is closed already.
    creating: BTreeMap<String, bool>,
    /// Number of [`ExitWatch`]es; while it is not 0, all exits are kept.
    waiting: usize,
    ended: HashMap<i32, Exit>,
    /// Number of children started so far.
    children: u64,
    over: bool,
}

/// Guard that keeps the exits of all processes while it lives.
pub struct ExitWatch<'a>(&'a Pod);

impl Drop for ExitWatch<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.waiting -= 1;
        if inner.waiting == 0 {
            inner.ended = HashMap::new();
        }
    }
}

/// Guard of a container that is being created. Dropping it ends the creation, successful or not.
pub struct Creation<'a> {
    pod: &'a Pod,
    id: String,
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        self.pod.inner().creating.remove(&self.id);
    }
}

impl Pod {
    /// Returns a pod without containers; `first` is about to be created.
    pub fn new(events: Events, first: &str) -> Pod {
        let inner = Inner {
            creating: [(first.to_owned(), false)].into(),
            ..Inner::default()
        };
        Pod {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            events,
        }
    }

    /// Locks the state. No code panics while it holds the lock, so a poisoned one is usable.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let woken = self.changed.wait(inner);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the exits of all processes from now on.
    pub fn watch_exits(&self) -> ExitWatch<'_> {
        self.inner().waiting += 1;
        ExitWatch(self)
    }

    /// Runs a command to its end. Returns its exit code, and its output and errors if they are pipes.
    pub fn run(&self, command: &mut Command) -> Result<(u32, String, String)> {
        let watch = self.watch_exits();
        let mut child = command.spawn().context(|| "execve(\"/proc/self/exe\")")?;
        self.inner().children += 1;
        self.changed.notify_all();
        // The output is short and fits into a pipe, so reading one after the other cannot block.
        let output = output(&mut child)?;
        let exit = self.await_exit(child.id() as i32);
        drop(watch);
        Ok((exit.code, output.0, output.1))
    }

    fn await_exit(&self, pid: i32) -> Exit {
        let mut inner = self.inner();
        loop {
            if let Some(exit) = inner.ended.remove(&pid) {
                return exit;
            }
            inner = self.wait(inner);
        }
    }

    /// Begins to create a container. Clients may query it and close its standard input before it exists.
    pub fn begin_creation(&self, id: &str) -> Creation<'_> {
        self.inner().creating.entry(id.to_owned()).or_default();
        Creation {
            pod: self,
            id: id.to_owned(),
        }
    }

    /// Returns true if a container is being created.
    pub fn is_creating(&self, id: &str) -> bool {
        self.inner().creating.contains_key(id)
    }

    /// Closes a container's standard input, now or as soon as the container exists.
    ///
    /// # Errors
    /// The container does not exist.
    pub fn close_stdin(&self, id: &str) -> Result<()> {
        let mut guard = self.inner();
        let inner = &mut *guard;
        match (inner.containers.get_mut(id), inner.creating.get_mut(id)) {
            (Some(container), _) => container.stdin.iter_mut().for_each(Stdin::close),
            (None, Some(closed)) => *closed = true,
            (None, None) => return Err(missing(id)),
        }
        Ok(())
    }

    /// Adds a container that was created while `_watch` kept all exits.
    pub fn add(&self, creation: Creation<'_>, mut container: Container, _watch: &ExitWatch<'_>) {
        let id = &creation.id;
        let mut inner = self.inner();
        if inner.creating.get(id) == Some(&true) {
            container.stdin.iter_mut().for_each(Stdin::close);
        }
        container.exit = inner.ended.remove(&container.pid);
        if let Some(exit) = container.exit {
            self.send_exit(id, container.pid, exit);
        }
        inner.containers.insert(id.to_owned(), container);
        drop(inner);
        drop(creation);
    }

    /// Calls `act` with a container.
    ///
    /// # Errors
    /// The container does not exist.
    pub fn with<T>(&self, id: &str, act: impl FnOnce(&mut Container) -> T) -> Result<T> {
        let mut inner = self.inner();
        let container = inner.containers.get_mut(id);
        Ok(act(container.ok_or_else(|| missing(id))?))
    }

    /// Removes a container. Returns true if the pod has others.
    pub fn remove(&self, id: &str) -> bool {
        let mut inner = self.inner();
        inner.containers.remove(id);
        !inner.containers.is_empty()
    }

    /// Begins the start of a container, and forwards its standard input from now on. Returns its process id.
    pub fn begin_start(&self, id: &str) -> Result<i32> {
        self.with(id, |container| {
            container.stdin.as_mut().map_or(Ok(()), Stdin::start)?;
            container.starting = true;
            Ok(container.pid)
        })?
    }

    /// Finishes the start of a container: `begin` reports it; then its exit is reported, if it has ended already.
    pub fn finish_start(&self, id: &str, begin: impl FnOnce()) -> Result<()> {
        let (pid, exit) = self.with(id, |container| {
            begin();
            container.starting = false;
            (container.pid, container.exit)
        })?;
        if let Some(exit) = exit {
            self.send_exit(id, pid, exit);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until a container has ended.
    pub fn await_end(&self, id: &str) -> Result<Exit> {
        let mut inner = self.inner();
        loop {
            let container = inner.containers.get(id).ok_or_else(|| missing(id))?;
            match container.exit {
                Some(exit) if !container.starting => return Ok(exit),
                _ => inner = self.wait(inner),
            }
        }
    }

    /// Requests the end of the shim, unless the pod has containers.
    pub fn shut_down(&self) {
        let mut inner = self.inner();
        inner.over = inner.containers.is_empty();
        self.changed.notify_all();
    }

    /// Waits until the end of the shim is requested.
    pub fn await_shutdown(&self) {
        let mut inner = self.inner();
        while !inner.over {
            inner = self.wait(inner);
        }
    }

    /// Reaps children forever.
    pub fn reap(&self) {
        loop {
            let children = self.inner().children;
            match process::wait_for_any(libc::__WALL) {
                Ok(Some((pid, status))) => self.ended(pid, process::code_of(status).0.into()),
                Ok(None) | Err(Errno::EINTR) => {}
                // Without children there are no descendants, so the next process to reap is started by this one.
                Err(_) => self.await_child(children),
            }
        }
    }

    fn await_child(&self, children: u64) {
        let mut inner = self.inner();
        while inner.children == children {
            inner = self.wait(inner);
        }
    }

    fn ended(&self, pid: Pid, code: i32) {
        let exit = Exit {
            code: code as u32,
            at: SystemTime::now(),
        };
        let mut guard = self.inner();
        let inner = &mut *guard;
        let mut containers = inner.containers.iter_mut();
        let found = containers
            .find(|(_, container)| container.pid == pid.as_raw() && container.exit.is_none());
        match found {
            Some((id, container)) => {
                container.exit = Some(exit);
                if !container.starting {
                    self.send_exit(id, container.pid, exit);
                }
            }
            None if inner.waiting > 0 => {
                inner.ended.insert(pid.as_raw(), exit);
            }
            None => {}
        }
        self.changed.notify_all();
    }

    fn send_exit(&self, id: &str, pid: i32, exit: Exit) {
        self.events.send(&TaskExit {
            container_id: id.to_owned(),
            id: id.to_owned(),
            pid: pid as u32,
            exit_status: exit.code,
            exited_at: MessageField::some(events::timestamp(exit.at)),
            ..TaskExit::default()
        });
    }
}

fn output(child: &mut Child) -> Result<(String, String)> {
    fn all(pipe: Option<impl Read>) -> Result<String> {
        let mut text = Vec::new();
        pipe.map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT).read_to_end(&mut text))
            .context(|| "read(pipe)")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
    Ok((all(child.stdout.take())?, all(child.stderr.take())?))
}

fn missing(id: &str) -> Error {
    Error::usage(format_args!("container {id:?}"), "container does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a pod whose events go to a socket without a listener.
    fn pod() -> Pod {
        let address = "unix:///nowhere".to_owned();
        Pod::new(Events::new("test", address).unwrap(), "first")
    }

    /// Returns a container, the directory of its input fifo, and the pipe that its app reads.
    fn container() -> (Container, tempfile::TempDir, std::io::PipeReader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdin");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let stdin = Stdin::new(path.to_str().unwrap()).unwrap();
        let (stdin, app) = stdin.unwrap();
        let container = Container {
            bundle: PathBuf::new(),
            streams: Streams::default(),
            stdin: Some(stdin),
            pid: 1,
            exit: None,
            starting: false,
        };
        (container, dir, app)
    }

    #[test]
    fn standard_input_closed_during_the_creation_stays_closed() {
        let pod = pod();
        // The shim is started for the first container, so clients may query that before it is created.
        assert!(pod.is_creating("first") && !pod.is_creating("second"));
        pod.close_stdin("first").unwrap();
        for id in ["first", "second"] {
            let (container, _fifo, mut app) = container();
            let watch = pod.watch_exits();
            let creation = pod.begin_creation(id);
            pod.close_stdin(id).unwrap();
            pod.add(creation, container, &watch);
            assert!(!pod.is_creating(id));
            pod.begin_start(id).unwrap();
            assert_eq!(app.read(&mut [0]).unwrap(), 0, "{id}");
        }
    }

    #[test]
    fn a_standard_input_ends_when_it_is_closed() {
        let pod = pod();
        let (container, _fifo, mut app) = container();
        let watch = pod.watch_exits();
        pod.add(pod.begin_creation("first"), container, &watch);
        pod.begin_start("first").unwrap();
        pod.close_stdin("first").unwrap();
        assert_eq!(app.read(&mut [0]).unwrap(), 0);
        pod.close_stdin("first").unwrap();
    }

    #[test]
    fn a_container_whose_creation_failed_does_not_exist() {
        let pod = pod();
        drop(pod.begin_creation("first"));
        let error = pod.close_stdin("first").unwrap_err();
        assert!(error.why.ends_with("does not exist"), "{error}");
        assert!(!pod.is_creating("first"));
    }
}
