//! What a shim knows of its pod's containers, and the one place where processes are reaped.
//!
//! The shim is the subreaper of its pod: apps, supervisors and the commands that it executes are its
//! children, and one thread waits for all of them. One lock guards everything.

use super::events::{self, Events};
use super::runtime::Streams;
use crate::error::{Context, Error, Result};
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::MessageField;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Bytes that a command may say.
const MAX_TOLD: u64 = 64 << 10;

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Its exit code, or 128 and the signal's number.
    pub code: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

/// A container of the pod.
#[derive(Debug)]
pub struct Container {
    /// Its bundle.
    pub bundle: PathBuf,
    /// What containerd has for its streams.
    pub streams: Streams,
    /// Keeps its standard input open.
    pub stdin: Option<File>,
    /// The app's process.
    pub pid: i32,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// It is being started: that comes before its end, whatever happens first.
    pub starting: bool,
}

/// A pod's containers.
pub struct Pod {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Where containerd hears of them.
    pub events: Events,
}

#[derive(Default)]
struct Inner {
    containers: BTreeMap<String, Container>,
    /// Commands that somebody waits for; while there are any, all ends are kept.
    waiting: usize,
    ended: HashMap<i32, Exit>,
    /// Counts the children that were made.
    born: u64,
    over: bool,
}

/// As long as it lives, the end of no process is forgotten.
pub struct Attention<'a>(&'a Pod);

impl Drop for Attention<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.waiting -= 1;
        if inner.waiting == 0 {
            inner.ended = HashMap::new();
        }
    }
}

impl Pod {
    /// An empty one.
    pub fn new(events: Events) -> Pod {
        Pod {
            inner: Mutex::default(),
            changed: Condvar::new(),
            events,
        }
    }

    /// Nothing can go wrong while it is held.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let woken = self.changed.wait(inner);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the ends of all processes from here on.
    pub fn attention(&self) -> Attention<'_> {
        self.inner().waiting += 1;
        Attention(self)
    }

    /// Runs a command to its end; its exit code, and what it said on the streams that are pipes.
    pub fn run(&self, command: &mut Command) -> Result<(u32, String, String)> {
        let attention = self.attention();
        let mut child = command.spawn().context(|| "execve(\"/proc/self/exe\")")?;
        self.inner().born += 1;
        self.changed.notify_all();
        // These few lines fit into pipes, so that none is waited for in vain.
        let said = said(&mut child)?;
        let exit = self.end_of(child.id() as i32);
        drop(attention);
        Ok((exit.code, said.0, said.1))
    }

    fn end_of(&self, pid: i32) -> Exit {
        let mut inner = self.inner();
        loop {
            if let Some(exit) = inner.ended.remove(&pid) {
                return exit;
            }
            inner = self.wait(inner);
        }
    }

    /// Adds a container that was created under `attention`.
    pub fn add(&self, id: &str, mut container: Container, _attention: &Attention<'_>) {
        let mut inner = self.inner();
        container.exit = inner.ended.remove(&container.pid);
        if let Some(exit) = container.exit {
            self.tell(id, container.pid, exit);
        }
        inner.containers.insert(id.to_owned(), container);
    }

    /// Does something with a container.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn with<T>(&self, id: &str, act: impl FnOnce(&mut Container) -> T) -> Result<T> {
        let mut inner = self.inner();
        let container = inner.containers.get_mut(id);
        Ok(act(container.ok_or_else(|| missing(id))?))
    }

    /// Forgets a container; whether there are others.
    pub fn remove(&self, id: &str) -> bool {
        let mut inner = self.inner();
        inner.containers.remove(id);
        !inner.containers.is_empty()
    }

    /// Ends the start of a container: `begin` tells of it, then comes the end, if it has ended already.
    pub fn started(&self, id: &str, begin: impl FnOnce()) -> Result<()> {
        let (pid, exit) = self.with(id, |container| {
            begin();
            container.starting = false;
            (container.pid, container.exit)
        })?;
        if let Some(exit) = exit {
            self.tell(id, pid, exit);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for a container's end.
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

    /// Ends the shim, unless it has containers.
    pub fn shut_down(&self) {
        let mut inner = self.inner();
        inner.over = inner.containers.is_empty();
        self.changed.notify_all();
    }

    /// Waits until it is to end.
    pub fn await_shutdown(&self) {
        let mut inner = self.inner();
        while !inner.over {
            inner = self.wait(inner);
        }
    }

    /// Reaps children for ever.
    pub fn reap(&self) {
        loop {
            let born = self.inner().born;
            match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid, 128 + signal as i32),
                Ok(_) | Err(Errno::EINTR) => {}
                // Whoever has no child has no descendant either: the next one is its own.
                Err(_) => self.await_birth(born),
            }
        }
    }

    fn await_birth(&self, born: u64) {
        let mut inner = self.inner();
        while inner.born == born {
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
                    self.tell(id, container.pid, exit);
                }
            }
            None if inner.waiting > 0 => {
                inner.ended.insert(pid.as_raw(), exit);
            }
            None => {}
        }
        self.changed.notify_all();
    }

    fn tell(&self, id: &str, pid: i32, exit: Exit) {
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

fn said(child: &mut Child) -> Result<(String, String)> {
    fn all(pipe: Option<impl Read>) -> Result<String> {
        let mut text = Vec::new();
        pipe.map_or(Ok(0), |pipe| pipe.take(MAX_TOLD).read_to_end(&mut text))
            .context(|| "read(pipe)")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
    Ok((all(child.stdout.take())?, all(child.stderr.take())?))
}

fn missing(id: &str) -> Error {
    Error::usage(format_args!("container {id:?}"), "container does not exist")
}
