//! What is known of containers between the commands.
//!
//! ```text
//! ROOT/oci/ID/lock        locked (flock(2)) as long as the container's supervisor lives
//! ROOT/oci/ID/state.json  what was asked for, and the app's process
//! ROOT/oci/ID/socket      where the supervisor waits for `start` (0600)
//! ```
//! What the supervisor has beside it is that of every container: `crate::runtime::state`.

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

/// What the file of a container says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// As the caller named it.
    pub id: String,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// The bundle's.
    pub annotations: BTreeMap<String, String>,
    /// The root, or the image's digest.
    pub rootfs: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// The cgroup, once it is made.
    pub cgroup: Option<Made>,
    /// The process that creates and watches over it, once there is one.
    pub supervisor: Option<ProcessRef>,
    /// The app's process.
    pub app: Option<ProcessRef>,
    /// Whether its program was executed.
    pub started: bool,
    /// What is run when it was deleted, as its config.json said when it was created.
    #[serde(default)]
    pub poststop: Vec<Hook>,
}

/// A process, whoever has its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in ticks since boot (proc_pid_stat(5), starttime).
    pub since: u64,
}

impl ProcessRef {
    /// Process `pid`, as it is now.
    pub fn of(pid: i32) -> Result<ProcessRef> {
        let (_, since) = stat(pid)
            .ok_or_else(|| Error::system(format_args!("/proc/{pid}/stat"), "cannot be read"))?;
        Ok(ProcessRef { pid, since })
    }

    /// Whether it is there, and no zombie.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, since)| since == self.since && !"ZX".contains(state))
    }
}

/// State and start of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let state = fields.chars().next()?;
    let since = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((state, since))
}

/// The words of the specification, and `paused`, as runc has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is no process yet.
    Creating,
    /// The process waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped,
}

impl Phase {
    /// The word.
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
    /// The container's cgroup, if it is made and still there.
    pub fn existing_cgroup(&self) -> Result<Option<Cgroup>> {
        let existing = self.cgroup.as_ref().map(Cgroup::existing);
        Ok(existing.transpose()?.flatten())
    }

    /// `state`'s result (runtime-spec, runtime.md).
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

    /// Runs what its bundle has for when it was deleted. One that fails keeps none of the others.
    pub fn run_poststop(&self) {
        let state = self.document(Phase::Stopped);
        for hook in self.poststop.chunks(1) {
            if let Err(error) = hooks::run("poststop", hook, &state, None) {
                log::warn!("{error}");
            }
        }
    }
}

/// A container's directory.
pub struct ContainerDir {
    dir: PathBuf,
}

impl ContainerDir {
    /// That of container `id`, which may not be there.
    ///
    /// # Errors
    /// What could not be a container's name.
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

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Makes it, and locks it for this process and those that it forks.
    pub fn make(&self) -> Result<File> {
        let parent = self.dir.parent().expect("it is within ROOT/oci");
        files::make_directory(parent)?;
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let id = self.dir.file_name().unwrap_or_default();
                Err(
                    Error::usage(format_args!("container {id:?}"), "is there already")
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

    /// What its file says.
    ///
    /// # Errors
    /// There is no such container.
    pub fn read(&self) -> Result<Record> {
        let file = self.dir.join("state.json");
        match std::fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = self.dir.file_name().unwrap_or_default();
                // containerd and Podman know this wording of runc's.
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

    /// Replaces its file.
    pub fn write(&self, record: &Record) -> Result<()> {
        let file = self.dir.join("state.json");
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::system(format_args!("{file:?}"), error))?;
        files::replace(&file, &text, files::PRIVATE)
    }

    /// What its processes are doing.
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

    /// Whether its supervisor lives.
    pub fn has_supervisor(&self) -> Result<bool> {
        self.locked().map(|lock| lock.is_some())
    }

    /// The lock, if its supervisor has it.
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

    /// Waits until its supervisor has cleaned up behind itself; says whether it has.
    pub fn await_supervisor(&self, patience: Duration) -> Result<bool> {
        let Some(lock) = self.locked()? else {
            return Ok(true);
        };
        // Waiting for a lock has no deadline of its own.
        let (told, outcome) = mpsc::channel();
        thread::spawn(move || told.send(lock.lock_shared()));
        match outcome.recv_timeout(patience) {
            Ok(locked) => locked
                .context(|| format!("flock({:?})", self.dir.join("lock")))
                .map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Where the supervisor waits for `start`.
    pub fn listen(&self) -> Result<UnixListener> {
        let (_directory, path) = self.socket()?;
        let socket = self.dir.join("socket");
        let listener = UnixListener::bind(&path).context(|| format!("bind({socket:?})"))?;
        // Nobody else enters the directory meanwhile.
        std::fs::set_permissions(&path, Permissions::from_mode(files::PRIVATE))
            .context(|| format!("chmod({socket:?})"))?;
        Ok(listener)
    }

    /// Reaches the supervisor.
    pub fn connect(&self) -> Result<UnixStream> {
        let (_directory, path) = self.socket()?;
        UnixStream::connect(&path).context(|| format!("connect({:?})", self.dir.join("socket")))
    }

    /// A path to it that is short enough for an address, as long as the directory is held open.
    fn socket(&self) -> Result<(File, PathBuf)> {
        let directory = File::open(&self.dir).context(|| format!("open({:?})", self.dir))?;
        let path = format!("/proc/self/fd/{}/socket", directory.as_raw_fd());
        Ok((directory, path.into()))
    }

    /// Forgets the container.
    pub fn remove(&self) -> Result<()> {
        files::remove_tree(&self.dir)
    }
}

/// The containers' names, sorted.
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
