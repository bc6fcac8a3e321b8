//! A cgroup (version 2) for each container: it groups, it limits, and it kills all that is in it at
//! once.
//!
//! Source: Linux, Documentation/admin-guide/cgroup-v2.rst.
#![forbid(unsafe_code)]

mod limits;

use crate::error::{Context, Error, Result};
use crate::rootless;
use crate::sys::process;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

pub use limits::{Cpus, Limits, Setting, controllers};

/// Where hosts mount the version 2 hierarchy: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The parent of all containers' cgroups, beneath the hierarchy's root.
const PARENT: &str = "imrun";

/// One container's processes: those of a cgroup, or, where this host delegates none to its user, those
/// of its pid namespace, which end with the first of them.
#[derive(Debug)]
pub struct Cgroup {
    path: Option<PathBuf>,
    init: OnceLock<OwnedFd>,
}

impl Cgroup {
    fn at(path: PathBuf) -> Cgroup {
        Cgroup {
            path: Some(path),
            init: OnceLock::new(),
        }
    }

    /// No cgroup.
    pub fn none() -> Cgroup {
        Cgroup {
            path: None,
            init: OnceLock::new(),
        }
    }

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
        let applied = limits.apply(&path);
        let cgroup = Cgroup::at(path);
        match applied {
            Ok(()) => Ok(cgroup),
            // The first error is the one to tell.
            Err(error) => cgroup.remove().and(Err(error)),
        }
    }

    /// Without a cgroup, who is killed: the first process of the pid namespace.
    pub fn follow(&self, init: OwnedFd) {
        // There is one only.
        let _ = self.init.set(init);
    }

    /// The cgroup that an earlier process made at `place`, if it is still there.
    pub fn existing(place: &Path) -> Result<Option<Cgroup>> {
        let path = hierarchy()?.join(place);
        Ok(path.is_dir().then(|| Cgroup::at(path)))
    }

    fn path(&self) -> Result<&Path> {
        let missing = || Error::unsupported("cgroup", DELEGATED_NONE).hint(DELEGATE);
        self.path.as_deref().ok_or_else(missing)
    }

    /// The directory, for CLONE_INTO_CGROUP.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty());
        directory.map(Some).context(|| format!("open({path:?})"))
    }

    /// How many of its processes the kernel killed because memory ran out.
    pub fn oom_kills(&self) -> Result<u64> {
        self.path.as_deref().map_or(Ok(0), limits::oom_kills)
    }

    /// The processes in it; none where it has just been removed.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let text = self.read("cgroup.procs")?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// One of its files; none where it has just been removed.
    fn read(&self, name: &str) -> Result<Option<String>> {
        let file = self.path()?.join(name);
        match std::fs::read_to_string(&file) {
            Err(error) if is_gone(&error) => Ok(None),
            text => text.map(Some).context(|| format!("read({file:?})")),
        }
    }

    /// Lets no process in it run, or lets them run again.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let file = self.path()?.join("cgroup.freeze");
        std::fs::write(&file, if frozen { "1" } else { "0" }).context(|| format!("write({file:?})"))
    }

    /// Whether it is frozen; one that has just been removed is not.
    pub fn is_frozen(&self) -> Result<bool> {
        let text = self.read("cgroup.freeze")?;
        Ok(text.is_some_and(|text| text.trim() == "1"))
    }

    /// Kills every process in it.
    pub fn kill(&self) -> Result<()> {
        if self.path.is_none() {
            return self.init.get().map_or(Ok(()), kill_init);
        }
        let file = self.path()?.join("cgroup.kill");
        match std::fs::write(&file, "1") {
            // Not where it is the kernel that has no such file.
            Err(error) if is_gone(&error) && !self.path()?.is_dir() => Ok(()),
            written => written.context(|| format!("write({file:?})")),
        }
    }

    /// Kills what is left in it and removes it.
    pub fn remove(self) -> Result<()> {
        self.kill()?;
        let Some(path) = &self.path else {
            return Ok(());
        };
        // A killed process leaves its cgroup a moment after it was reaped.
        const PATIENCE: u32 = 200;
        for attempt in 0.. {
            match nix::unistd::unlinkat(
                nix::fcntl::AT_FDCWD,
                path,
                nix::unistd::UnlinkatFlags::RemoveDir,
            ) {
                Ok(()) | Err(Errno::ENOENT) => break,
                Err(Errno::EBUSY) if attempt < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(errno) => return Err(errno).context(|| format!("rmdir({path:?})")),
            }
        }
        Ok(())
    }
}

/// Whether the cgroup is no more: its directory, or behind a file that was open already.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// Where the cgroup of container `id` is, where nobody says otherwise.
pub fn place(id: &str) -> PathBuf {
    Path::new(PARENT).join(id)
}

fn make_directory(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).context(|| format!("mkdir({path:?})"))
        }
        _ => Ok(()),
    }
}

fn kill_init(init: &OwnedFd) -> Result<()> {
    match process::pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).context(|| "pidfd_send_signal(SIGKILL)"),
    }
}

const DELEGATED_NONE: &str = "this host delegates no cgroup to this user";
const DELEGATE: &str = "systemd-run --user --scope -p Delegate=yes imrun …";

/// Where the cgroup of container `id` is to be, beneath the hierarchy's root; None where this host
/// delegates none to its user.
pub fn own_place(id: &str) -> Result<Option<PathBuf>> {
    match rootless::is_ordinary()? {
        true => Ok(delegated()?.map(|parent| parent.join(place(id)))),
        false => Ok(Some(place(id))),
    }
}

/// Refuses limits that this host cannot hold a container to.
pub fn check(limits: &Limits) -> Result<()> {
    if !rootless::is_ordinary()? {
        return limits.check(&hierarchy()?);
    }
    match (delegated()?, limits.first()) {
        (Some(parent), _) => limits.check(&hierarchy()?.join(parent)),
        (None, None) => Ok(()),
        (None, Some(option)) => Err(Error::unsupported(option, DELEGATED_NONE).hint(DELEGATE)),
    }
}

/// The highest cgroup above this process's own, or that itself, which this user may divide; beneath the
/// hierarchy's root.
pub fn delegated() -> Result<Option<PathBuf>> {
    let Ok(hierarchy) = hierarchy() else {
        return Ok(None);
    };
    let path = "/proc/self/cgroup";
    let text = std::fs::read_to_string(path).context(|| format!("read({path:?})"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let Some(own) = own.map(Path::new) else {
        return Ok(None);
    };
    let may_write = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    let divisible = |place: &&Path| {
        let directory = hierarchy.join(place);
        may_write(&directory) && may_write(&directory.join("cgroup.procs"))
    };
    let found = own.ancestors().take_while(divisible).last();
    Ok(found.map(Path::to_owned))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_has_gone_is_not_frozen_and_has_no_process_to_kill() {
        let gone = Cgroup::at(std::env::temp_dir().join("imrun-no-such-cgroup"));
        assert_eq!(gone.is_frozen(), Ok(false));
        assert_eq!(gone.processes(), Ok(Vec::new()));
        assert_eq!(gone.kill(), Ok(()));
    }
}
