//! A cgroup (version 2) for each container: it groups, it limits, and it kills all that is in it at
//! once.
//!
//! Source: Linux, Documentation/admin-guide/cgroup-v2.rst.
#![forbid(unsafe_code)]

mod limits;

use crate::error::{Context, Error, Result};
use crate::sys::guard::Guard;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use limits::{Cpus, Limits, Setting, controllers};

/// Where hosts mount the version 2 hierarchy: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The parent of all containers' cgroups, beneath the hierarchy's root.
const PARENT: &str = "imrun";

/// The directory of one container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a container's cgroup, at `place` beneath the hierarchy's root, with its limits.
    pub fn create(place: &Path, limits: &Limits) -> Result<Cgroup> {
        let mut path = hierarchy()?;
        limits.check(&path)?;
        for parent in place.parent().into_iter().flat_map(Path::components) {
            limits.enable(&path)?;
            path.push(parent);
            make_directory(&path)?;
        }
        limits.enable(&path)?;
        path.push(place.file_name().unwrap_or_default());
        std::fs::create_dir(&path).context(|| format!("mkdir({path:?})"))?;
        let cgroup = Cgroup { path };
        match limits.apply(&cgroup.path) {
            Ok(()) => Ok(cgroup),
            // The first error is the one to tell.
            Err(error) => cgroup.remove().and(Err(error)),
        }
    }

    /// The cgroup that an earlier process made at `place`, if it is still there.
    pub fn existing(place: &Path) -> Result<Option<Cgroup>> {
        let path = hierarchy()?.join(place);
        Ok(path.is_dir().then_some(Cgroup { path }))
    }

    /// The directory, for CLONE_INTO_CGROUP.
    pub fn open(&self) -> Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(&self.path, flags, Mode::empty()).context(|| format!("open({:?})", self.path))
    }

    /// How many of its processes the kernel killed because memory ran out.
    pub fn oom_kills(&self) -> Result<u64> {
        limits::oom_kills(&self.path)
    }

    /// The processes in it.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let file = self.path.join("cgroup.procs");
        let text = std::fs::read_to_string(&file).context(|| format!("read({file:?})"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Lets no process in it run, or lets them run again.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let file = self.path.join("cgroup.freeze");
        std::fs::write(&file, if frozen { "1" } else { "0" }).context(|| format!("write({file:?})"))
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        let file = self.path.join("cgroup.freeze");
        let text = std::fs::read_to_string(&file).context(|| format!("read({file:?})"))?;
        Ok(text.trim() == "1")
    }

    /// From now on every process in it is killed when this process dies, however that comes.
    pub fn guard(&self) -> Result<Guard> {
        let file = self.path.join("cgroup.kill");
        let kill = OpenOptions::new().write(true).open(&file);
        let kill = kill.context(|| format!("open({file:?})"))?;
        Guard::new(kill.as_fd()).context(|| "fork()")
    }

    /// Kills every process in it.
    pub fn kill(&self) -> Result<()> {
        let file = self.path.join("cgroup.kill");
        std::fs::write(&file, "1").context(|| format!("write({file:?})"))
    }

    /// Kills what is left in it and removes it.
    pub fn remove(self) -> Result<()> {
        self.kill()?;
        // A killed process leaves its cgroup a moment after it was reaped.
        const PATIENCE: u32 = 200;
        for attempt in 0.. {
            match nix::unistd::unlinkat(
                nix::fcntl::AT_FDCWD,
                &self.path,
                nix::unistd::UnlinkatFlags::RemoveDir,
            ) {
                Ok(()) | Err(Errno::ENOENT) => break,
                Err(Errno::EBUSY) if attempt < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(errno) => return Err(errno).context(|| format!("rmdir({:?})", self.path)),
            }
        }
        Ok(())
    }
}

/// Where the cgroup of container `id` is, where nobody says otherwise.
pub fn place(id: &str) -> PathBuf {
    Path::new(PARENT).join(id)
}

fn make_directory(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).context(|| format!("mkdir({path:?})"))
        }
        _ => Ok(()),
    }
}

/// Refuses limits that this host cannot hold a container to.
pub fn check(limits: &Limits) -> Result<()> {
    limits.check(&hierarchy()?)
}

/// The mount point of the version 2 hierarchy.
pub fn hierarchy() -> Result<PathBuf> {
    MOUNTS
        .into_iter()
        .find(|path| statfs(*path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC))
        .map(PathBuf::from)
        .ok_or_else(|| {
            Error::unsupported(
                "cgroup2",
                format_args!("is mounted at neither {} nor {}", MOUNTS[0], MOUNTS[1]),
            )
            .hint("mount -t cgroup2 none /sys/fs/cgroup")
        })
}
