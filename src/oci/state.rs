//! State of containers between the commands.
//!
//! ```text
//! ROOT/oci/ID/lock        locked (flock(2)) as long as the container's supervisor lives
//! ROOT/oci/ID/state.json  the container's record: its bundle, cgroup and processes
//! ROOT/oci/ID/socket      where the supervisor waits for `start` (0600)
//! ```
//! In addition the supervisor keeps the state of every launch: `crate::runtime::state`.

use super::VERSION;
use super::hooks::{self, Hook};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::runtime::cgroup::{Cgroup, Made};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Content of a container's state.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Container ID, chosen by the caller.
    pub id: String,
    /// Directory of the bundle, absolute.
    pub bundle: PathBuf,
    /// Annotations of the bundle.
    pub annotations: BTreeMap<String, String>,
    /// Path of the root, or digest of the image.
    pub rootfs: String,
    /// Time of creation, RFC 3339, UTC.
    pub created: String,
    /// Cgroup, once it exists.
    pub cgroup: Option<Made>,
    /// Supervisor, once it runs.
    pub supervisor: Option<ProcessRef>,
    /// Process of the app, once it exists.
    pub app: Option<ProcessRef>,
    /// True once the container has executed its program.
    pub started: bool,
    /// Hooks to run after the deletion, from the config.json at the time of creation.
    #[serde(default)]
    pub poststop: Vec<Hook>,
}

/// Reference to a process that stays valid when its process id is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Process id.
    pub pid: i32,
    /// Start time, in clock ticks since boot (proc_pid_stat(5), starttime).
    pub since: u64,
}

impl ProcessRef {
    /// Refers to the process that has `pid` now.
    pub fn of(pid: i32) -> Result<ProcessRef> {
        let (_, since) = stat(pid)
            .ok_or_else(|| Error::system(format_args!("/proc/{pid}/stat"), "cannot be read"))?;
        Ok(ProcessRef { pid, since })
    }

    /// Returns true if the process exists and is no zombie.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, since)| since == self.since && !"ZX".contains(state))
    }
}

/// Reads the state and the start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let state = fields.chars().next()?;
    let since = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((state, since))
}

/// Status of a container (runtime-spec, runtime.md, State), with `paused` as in runc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The container has no process yet.
    Creating,
    /// The container's process waits for `start`.
    Created,
    /// The container's program runs.
    Running,
    /// The container is frozen.
    Paused,
    /// The container has ended.
    Stopped,
}

impl Phase {
    /// Returns the name in the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Creating => "creating",
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Stopped => "stopped",
        }
    }
}

impl Record {
    /// Returns the container's cgroup, if it still exists.
    pub fn existing_cgroup(&self) -> Result<Option<Cgroup>> {
        let existing = self.cgroup.as_ref().map(Cgroup::existing);
        Ok(existing.transpose()?.flatten())
    }

    /// Returns the output of `state` (runtime-spec, runtime.md).
    pub fn document(&self, phase: Phase) -> Value {
        let mut document = json!({
            "ociVersion": VERSION,
            "id": self.id,
            "status": phase.as_str(),
            "pid": 0,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "annotations": self.annotations,
        });
        if let (Some(app), false) = (self.app, phase == Phase::Stopped) {
            document["pid"] = json!(app.pid);
        }
        document
    }

    /// Runs the `poststop` hooks. The others still run if one fails.
    pub fn run_poststop(&self) {
        let state = self.document(Phase::Stopped);
        for hook in self.poststop.chunks(1) {
            if let Err(error) = hooks::run("poststop", hook, &state, None) {
                log::warn!("{error}");
            }
        }
    }
}

/// State directory of a container.
pub struct ContainerDir {
    dir: PathBuf,
}

impl ContainerDir {
    /// Returns the directory of container `id`, which may not exist.
    ///
    /// # Errors
    /// `id` is not a valid container ID.
    pub fn of(root: &Path, id: &str) -> Result<ContainerDir> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(plain) {
            return Err(Error::usage(
                format_args!("container ID {id:?}"),
                "invalid character or length: expected 1 to 255 letters, digits, '_', '+', '-' and '.'",
            ));
        }
        Ok(ContainerDir {
            dir: root.join("oci").join(id),
        })
    }

    /// Returns true if the directory exists.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Creates the directory, and locks it for this process and its children.
    pub fn make(&self) -> Result<File> {
        let parent = self.dir.parent().expect("it is within ROOT/oci");
        files::make_directory(parent)?;
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let id = self.dir.file_name().unwrap_or_default();
                Err(
                    Error::usage(format_args!("container {id:?}"), "already exists")
                        .hint("imrun delete ID"),
                )
            }
            made => made.context(|| format!("mkdir({:?})", self.dir)),
        }?;
        let file = self.dir.join("lock");
        let lock = files::create_new(&file, files::PRIVATE)?;
        lock.lock().context(|| format!("flock({file:?})"))?;
        Ok(lock)
    }

    /// Reads state.json.
    ///
    /// # Errors
    /// The container does not exist.
    pub fn read(&self) -> Result<Record> {
        let file = self.dir.join("state.json");
        match std::fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = self.dir.file_name().unwrap_or_default();
                // containerd and Podman match this text of runc.
                Err(Error::usage(
                    format_args!("container {id:?}"),
                    "container does not exist",
                ))
            }
            bytes => {
                let bytes = bytes.context(|| format!("read({file:?})"))?;
                serde_json::from_slice(&bytes)
                    .map_err(|error| Error::system(format_args!("{file:?}"), error))
            }
        }
    }

    /// Replaces state.json.
    pub fn write(&self, record: &Record) -> Result<()> {
        let file = self.dir.join("state.json");
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::system(format_args!("{file:?}"), error))?;
        files::replace(&file, &text, files::PRIVATE)
    }

    /// Determines the status from the container's processes.
    pub fn phase(&self, record: &Record) -> Result<Phase> {
        let frozen = || {
            record
                .existing_cgroup()?
                .map_or(Ok(false), |cgroup| cgroup.is_frozen())
        };
        Ok(match record.app {
            None if self.has_supervisor()? => Phase::Creating,
            Some(app) if !app.is_alive() => Phase::Stopped,
            None => Phase::Stopped,
            Some(_) if !record.started => Phase::Created,
            Some(_) if frozen()? => Phase::Paused,
            Some(_) => Phase::Running,
        })
    }

    /// Returns true if the supervisor lives.
    pub fn has_supervisor(&self) -> Result<bool> {
        self.locked().map(|lock| lock.is_some())
    }

    /// Opens the lock; `None` if no supervisor holds it.
    fn locked(&self) -> Result<Option<File>> {
        let file = self.dir.join("lock");
        let lock = match File::open(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            lock => lock.context(|| format!("open({file:?})"))?,
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(lock)),
            Err(TryLockError::Error(error)) => Err(error).context(|| format!("flock({file:?})")),
        }
    }

    /// Waits until the supervisor has cleaned up and ended. Returns false after `patience`.
    pub fn await_supervisor(&self, patience: Duration) -> Result<bool> {
        let Some(lock) = self.locked()? else {
            return Ok(true);
        };
        // flock(2) has no timeout.
        let (told, outcome) = mpsc::channel();
        thread::spawn(move || told.send(lock.lock_shared()));
        match outcome.recv_timeout(patience) {
            Ok(locked) => locked
                .context(|| format!("flock({:?})", self.dir.join("lock")))
                .map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Creates the socket on which the supervisor waits for `start`.
    pub fn listen(&self) -> Result<UnixListener> {
        let (_directory, path) = self.socket()?;
        let socket = self.dir.join("socket");
        let listener = UnixListener::bind(&path).context(|| format!("bind({socket:?})"))?;
        // The directory is private, so nobody else can connect meanwhile.
        std::fs::set_permissions(&path, Permissions::from_mode(files::PRIVATE))
            .context(|| format!("chmod({socket:?})"))?;
        Ok(listener)
    }

    /// Connects to the supervisor.
    pub fn connect(&self) -> Result<UnixStream> {
        let (_directory, path) = self.socket()?;
        UnixStream::connect(&path).context(|| format!("connect({:?})", self.dir.join("socket")))
    }

    /// Returns a path of the socket that is short enough for an address, valid while the directory is open.
    fn socket(&self) -> Result<(File, PathBuf)> {
        let directory = File::open(&self.dir).context(|| format!("open({:?})", self.dir))?;
        let path = format!("/proc/self/fd/{}/socket", directory.as_raw_fd());
        Ok((directory, path.into()))
    }

    /// Removes the directory.
    pub fn remove(&self) -> Result<()> {
        files::remove_tree(&self.dir)
    }
}

/// Returns the IDs of all containers, sorted.
pub fn list(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("oci");
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("readdir({dir:?})"))?,
    };
    let names = entries.map(|entry| {
        let entry = entry.context(|| format!("readdir({dir:?})"))?;
        Ok(entry.file_name().to_string_lossy().into_owned())
    });
    let mut names: Vec<_> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}
