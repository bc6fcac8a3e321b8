//! The cgroup (version 2) of a container: it groups, limits and kills the container's processes.
//!
//! Source: Linux, Documentation/admin-guide/cgroup-v2.rst.
#![forbid(unsafe_code)]

mod limits;

use crate::base::error::{Context, Error, Result};
use crate::base::ids;
use crate::base::sys::process;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

pub use limits::{Cpus, Limits, Setting, controllers};

/// Mount points of the version 2 hierarchy: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Parent of all containers' cgroups, beneath the hierarchy's root.
const PARENT: &str = "imrun";

/// Identity of a cgroup that imrun created. The path alone is not enough: another cgroup may have taken
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupIdentity {
    /// Path beneath the hierarchy's root.
    pub place: PathBuf,
    /// Inode number of the directory, which the kernel never gives to a second cgroup.
    pub inode: u64,
    /// Inode numbers of the directories above it that were made for it, the innermost first.
    #[serde(default)]
    pub parents: Vec<u64>,
}

/// Processes of one container: those of its cgroup or, if this host delegates none to its user, those of
/// its pid namespace, which end with the first of them.
#[derive(Debug)]
pub struct Cgroup {
    directory: Option<Directory>,
    init: OnceLock<OwnedFd>,
}

/// Directory of a cgroup, held open, so that it stays the same whatever its path leads to.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    handle: OwnedFd,
    identity: CgroupIdentity,
}

impl Cgroup {
    fn of(directory: Option<Directory>) -> Cgroup {
        Cgroup {
            directory,
            init: OnceLock::new(),
        }
    }

    /// Makes a value without a cgroup.
    pub fn none() -> Cgroup {
        Cgroup::of(None)
    }

    /// Creates a container's cgroup with its limits, at `place` beneath the hierarchy's root.
    ///
    /// # Errors
    /// A cgroup exists at that place already, which imrun did not create for this container.
    pub fn create(place: &Path, limits: &Limits) -> Result<Cgroup> {
        let hierarchy = hierarchy()?;
        limits.check(&hierarchy)?;
        let path = hierarchy.join(place);
        // Another container may remove a parent of its own before this one is in it.
        const ATTEMPTS: u32 = 20;
        let mut attempt = 1;
        let directory = loop {
            let mut parents = Vec::new();
            let made = Directory::make(&hierarchy, place, limits, &mut parents);
            match made {
                Ok(directory) => break directory,
                Err(_) if attempt < ATTEMPTS && !path.parent().is_some_and(Path::is_dir) => {
                    attempt += 1;
                }
                // Return the first error.
                Err(error) => return remove_parents(&path, &parents).and(Err(error)),
            }
        };
        let applied = limits.apply(&directory.path);
        let cgroup = Cgroup::of(Some(directory));
        match applied {
            Ok(()) => Ok(cgroup),
            // Return the first error.
            Err(error) => cgroup.remove().and(Err(error)),
        }
    }

    /// Returns the identity by which another process can find it; `None` without a cgroup.
    pub fn identity(&self) -> Option<&CgroupIdentity> {
        self.directory.as_ref().map(|directory| &directory.identity)
    }

    /// Sets the first process of the pid namespace, to kill if there is no cgroup.
    pub fn follow(&self, init: OwnedFd) {
        // A container has only one.
        let _ = self.init.set(init);
    }

    /// Opens the cgroup that an earlier process created, if it still exists.
    pub fn existing(identity: &CgroupIdentity) -> Result<Option<Cgroup>> {
        let path = hierarchy()?.join(&identity.place);
        if !path.is_dir() {
            return Ok(None);
        }
        let mut directory = Directory::open(path, &identity.place)?;
        directory.identity.parents.clone_from(&identity.parents);
        Ok((directory.identity == *identity).then(|| Cgroup::of(Some(directory))))
    }

    /// Removes the empty cgroup of container `id`, which a process left that died right after creating
    /// it. The random name identifies it.
    pub fn remove_empty(id: &str) -> Result<()> {
        let Some(place) = own_place(id)? else {
            return Ok(());
        };
        let path = hierarchy()?.join(place);
        match std::fs::remove_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.context(|| format!("rmdir({path:?})")),
        }
    }

    fn directory(&self) -> Result<&Directory> {
        let missing = || Error::unsupported("cgroup", DELEGATED_NONE).hint(DELEGATE);
        self.directory.as_ref().ok_or_else(missing)
    }

    /// Returns the directory, for CLONE_INTO_CGROUP.
    pub fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.directory
            .as_ref()
            .map(|directory| directory.handle.as_fd())
    }

    /// Returns the number of processes that the kernel killed because memory ran out.
    pub fn oom_kills(&self) -> Result<u64> {
        let path = self.directory.as_ref().map(|directory| &*directory.path);
        path.map_or(Ok(0), limits::oom_kills)
    }

    /// Returns the ids of its processes; none if it has just been removed.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let text = self.read("cgroup.procs")?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Reads one of its files; `None` if it has just been removed.
    fn read(&self, name: &str) -> Result<Option<String>> {
        let directory = self.directory()?;
        let read = |mut file: File| {
            let mut text = String::new();
            file.read_to_string(&mut text).map(|_| text)
        };
        match directory.open_file(name, OFlag::O_RDONLY).and_then(read) {
            Err(error) if is_gone(&error) => Ok(None),
            text => text.map(Some).context(|| directory.call("read", name)),
        }
    }

    /// Freezes or thaws its processes.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let directory = self.directory()?;
        let written = directory.write("cgroup.freeze", if frozen { "1" } else { "0" });
        written.context(|| directory.call("write", "cgroup.freeze"))
    }

    /// Returns true if it is frozen; false if it has just been removed.
    pub fn is_frozen(&self) -> Result<bool> {
        let text = self.read("cgroup.freeze")?;
        Ok(text.is_some_and(|text| text.trim() == "1"))
    }

    /// Kills all of its processes.
    pub fn kill(&self) -> Result<()> {
        let Some(directory) = &self.directory else {
            return self.init.get().map_or(Ok(()), kill_init);
        };
        match directory.write("cgroup.kill", "1") {
            // Unless the cgroup exists: then the kernel lacks the file.
            Err(error) if is_gone(&error) && !directory.is_there()? => Ok(()),
            written => written.context(|| directory.call("write", "cgroup.kill")),
        }
    }

    /// Kills its remaining processes and removes it, with the parents that were made for it and are empty.
    pub fn remove(self) -> Result<()> {
        self.kill()?;
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let path = &directory.path;
        // A killed process leaves its cgroup shortly after it was reaped.
        const ATTEMPTS: u32 = 200;
        for attempt in 0.. {
            if !directory.is_there()? {
                break;
            }
            match nix::unistd::unlinkat(
                nix::fcntl::AT_FDCWD,
                path,
                nix::unistd::UnlinkatFlags::RemoveDir,
            ) {
                Ok(()) | Err(Errno::ENOENT) => break,
                Err(Errno::EBUSY) if attempt < ATTEMPTS => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(errno) => return Err(errno).context(|| format!("rmdir({path:?})")),
            }
        }
        remove_parents(path, &directory.identity.parents)
    }
}

impl Directory {
    /// Makes the cgroup at `place`. `parents` gets the inodes of the directories above that it makes, the innermost first.
    fn make(
        hierarchy: &Path,
        place: &Path,
        limits: &Limits,
        parents: &mut Vec<u64>,
    ) -> Result<Directory> {
        let mut path = hierarchy.to_owned();
        for parent in place.parent().into_iter().flat_map(Path::components) {
            limits.enable(&path)?;
            path.push(parent);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // All containers share it, so it stays, and what it is in.
                made if parent.as_os_str() == PARENT => {
                    made.context(|| format!("mkdir({path:?})"))?;
                    parents.clear();
                }
                made => {
                    made.context(|| format!("mkdir({path:?})"))?;
                    let metadata = path.symlink_metadata();
                    let metadata = metadata.context(|| format!("lstat({path:?})"))?;
                    parents.insert(0, metadata.ino());
                }
            }
        }
        limits.enable(&path)?;
        path.push(place.file_name().unwrap_or_default());
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(foreign(&path)),
            made => made.context(|| format!("mkdir({path:?})"))?,
        }
        match Directory::open(path.clone(), place) {
            Ok(mut directory) => {
                directory.identity.parents.clone_from(parents);
                Ok(directory)
            }
            // Nothing else knows of it. The first error is the one to tell.
            Err(error) => {
                let removed = std::fs::remove_dir(&path).context(|| format!("rmdir({path:?})"));
                removed.and(Err(error))
            }
        }
    }

    /// Opens `path`, which is `place` beneath the hierarchy's root.
    fn open(path: PathBuf, place: &Path) -> Result<Directory> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let handle = open(&path, flags, Mode::empty()).context(|| format!("open({path:?})"))?;
        let status = fstat(&handle).context(|| format!("fstat({path:?})"))?;
        let identity = CgroupIdentity {
            place: place.to_owned(),
            inode: status.st_ino,
            parents: Vec::new(),
        };
        Ok(Directory {
            path,
            handle,
            identity,
        })
    }

    /// Returns true if its path still leads to it.
    fn is_there(&self) -> Result<bool> {
        match self.path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            found => {
                let found = found.context(|| format!("lstat({:?})", self.path))?;
                Ok(found.ino() == self.identity.inode)
            }
        }
    }

    fn open_file(&self, name: &str, flags: OFlag) -> std::io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.handle, name, flags, Mode::empty())?.into())
    }

    fn write(&self, name: &str, text: &str) -> std::io::Result<()> {
        self.open_file(name, OFlag::O_WRONLY)?
            .write_all(text.as_bytes())
    }

    /// Names a call on one of its files, for errors.
    fn call(&self, call: &str, name: &str) -> String {
        format!("{call}({:?})", self.path.join(name))
    }
}

fn foreign(path: &Path) -> Error {
    Error::usage(
        format_args!("cgroup {path:?}"),
        "exists, but this container did not create it",
    )
    .hint("choose another cgroupsPath, or remove it with rmdir if it is empty")
}

/// Returns true if the cgroup was removed: its directory, or the object of an open file.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// Returns the default place of container `id`'s cgroup.
fn place(id: &str) -> PathBuf {
    Path::new(PARENT).join(id)
}

/// Removes the directories above `path` that have these inodes, from the innermost on, up to one that is in use.
fn remove_parents(path: &Path, inodes: &[u64]) -> Result<()> {
    for (path, inode) in path.ancestors().skip(1).zip(inodes) {
        if !path
            .symlink_metadata()
            .is_ok_and(|found| found.ino() == *inode)
        {
            break;
        }
        match std::fs::remove_dir(path) {
            Ok(()) => {}
            Err(error)
                if [
                    ErrorKind::DirectoryNotEmpty,
                    ErrorKind::ResourceBusy,
                    ErrorKind::NotFound,
                ]
                .contains(&error.kind()) =>
            {
                break;
            }
            Err(error) => return Err(error).context(|| format!("rmdir({path:?})")),
        }
    }
    Ok(())
}

fn kill_init(init: &OwnedFd) -> Result<()> {
    match process::pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).context(|| "pidfd_send_signal(SIGKILL)"),
    }
}

const DELEGATED_NONE: &str = "this host delegates no cgroup to this user";
const DELEGATE: &str = "start imrun with systemd-run --user --scope -p Delegate=yes imrun …";

/// Returns the place of container `id`'s cgroup beneath the hierarchy's root; `None` if this host
/// delegates no cgroup to its user.
pub fn own_place(id: &str) -> Result<Option<PathBuf>> {
    if ids::is_ordinary()? {
        Ok(delegated()?.map(|parent| parent.join(place(id))))
    } else {
        Ok(Some(place(id)))
    }
}

/// Refuses limits that this host cannot enforce.
pub fn check(limits: &Limits) -> Result<()> {
    if !ids::is_ordinary()? {
        return limits.check(&hierarchy()?);
    }
    match (delegated()?, limits.first()) {
        (Some(parent), _) => limits.check(&hierarchy()?.join(parent)),
        (None, None) => Ok(()),
        (None, Some(option)) => Err(Error::unsupported(option, DELEGATED_NONE).hint(DELEGATE)),
    }
}

/// Returns the highest ancestor of this process's cgroup, or that cgroup itself, that this user may
/// divide; a path beneath the hierarchy's root.
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

/// Returns the mount point of the version 2 hierarchy.
pub fn hierarchy() -> Result<PathBuf> {
    MOUNTS
        .into_iter()
        .find(|path| statfs(*path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC))
        .map(PathBuf::from)
        .ok_or_else(|| {
            Error::unsupported(
                "cgroup2",
                format_args!("is not mounted at {} or {}", MOUNTS[0], MOUNTS[1]),
            )
            .hint("mount -t cgroup2 none /sys/fs/cgroup")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_cgroup_is_not_frozen_and_has_no_processes() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("gone");
        std::fs::create_dir(&path).unwrap();
        let directory = Directory::open(path.clone(), Path::new("gone")).unwrap();
        std::fs::remove_dir(&path).unwrap();
        let gone = Cgroup::of(Some(directory));
        assert_eq!(gone.is_frozen(), Ok(false));
        assert_eq!(gone.processes(), Ok(Vec::new()));
        assert_eq!(gone.kill(), Ok(()));
    }

    #[test]
    fn parents_that_were_made_are_removed_up_to_one_that_is_in_use_or_anothers() {
        let root = tempfile::tempdir().unwrap();
        let (mut parents, place) = (Vec::new(), Path::new("a/b/c/leaf"));
        std::fs::create_dir(root.path().join("a")).unwrap();
        let make = |place: &Path, parents: &mut Vec<u64>| {
            Directory::make(root.path(), place, &Limits::default(), parents).unwrap()
        };
        let path = make(place, &mut parents).path;
        assert_eq!(parents.len(), 2);
        std::fs::remove_dir(&path).unwrap();
        // In use.
        std::fs::create_dir(root.path().join("a/b/other")).unwrap();
        remove_parents(&path, &parents).unwrap();
        assert!(root.path().join("a/b/other").exists() && !root.path().join("a/b/c").exists());
        // Another's, of the same name.
        std::fs::create_dir(root.path().join("a/b/c")).unwrap();
        std::fs::remove_dir(root.path().join("a/b/other")).unwrap();
        remove_parents(&path, &[0, parents[1]]).unwrap();
        assert!(root.path().join("a/b/c").exists());
        std::fs::remove_dir(root.path().join("a/b/c")).unwrap();
        remove_parents(&root.path().join("a/b/x"), &parents[1..]).unwrap();
        assert!(root.path().join("a").exists() && !root.path().join("a/b").exists());
        // The one of all containers stays.
        let (mut shared, place) = (Vec::new(), Path::new("d/imrun/x/leaf"));
        make(place, &mut shared);
        assert_eq!(shared.len(), 1);
    }

    #[test]
    fn a_cgroup_that_replaced_a_removed_one_is_neither_killed_nor_removed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("place");
        std::fs::create_dir(&path).unwrap();
        let gone = Cgroup::of(Some(
            Directory::open(path.clone(), Path::new("place")).unwrap(),
        ));
        // Both exist for a moment, so that their inode numbers differ.
        let other = parent.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("cgroup.kill"), "").unwrap();
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&other, &path).unwrap();
        gone.remove().unwrap();
        assert_eq!(
            std::fs::read_to_string(path.join("cgroup.kill")).unwrap(),
            ""
        );
    }
}
