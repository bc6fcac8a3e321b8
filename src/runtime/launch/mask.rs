//! Masks over the files of /proc and /sys that reveal the host rather than the container.
//!
//! The list is the default of Docker and containerd (masked paths of the OCI runtime specification). A
//! mask is a bind mount of the root's own /dev/null, or of its empty directory for cgroups, so no other
//! file system is needed. Everything else in /proc and /sys is read-only.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::mount;
use crate::base::sys::open::openat2;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, SFlag, fstat, makedev};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Masked paths beneath /proc.
pub(super) const PROC: [&CStr; 10] = [
    c"acpi",
    c"asound",
    c"interrupts",
    c"kcore",
    c"keys",
    c"latency_stats",
    c"sched_debug",
    c"scsi",
    c"timer_list",
    c"timer_stats",
];

/// Masked paths beneath /sys.
pub(super) const SYS: [&CStr; 3] = [
    c"devices/virtual/powercap",
    c"devices/virtual/thermal",
    c"firmware",
];

/// Returns true if a mount point is always masked.
pub fn is_mask(point: &str) -> bool {
    let among =
        |list: &[&CStr], path: &str| list.iter().any(|name| name.to_bytes() == path.as_bytes());
    point
        .strip_prefix("/proc/")
        .is_some_and(|path| among(&PROC, path))
        || point
            .strip_prefix("/sys/")
            .is_some_and(|path| among(&SYS, path))
}

/// Sources of the masks, opened once, before anything is mounted in the root.
pub(super) struct Masks {
    null: OwnedFd,
    empty: OwnedFd,
}

impl Masks {
    /// Opens the sources. `root` and `dev`, the directory with the device nodes, must be attached: the
    /// kernel copies only attached mounts.
    pub fn open(root: BorrowedFd<'_>, dev: Option<BorrowedFd<'_>>) -> nix::Result<Masks> {
        // /dev may be a mount of its own.
        let null = match dev {
            Some(dev) => open_across(dev, c"null", ResolveFlag::empty())?,
            None => open_across(root, c"dev/null", ResolveFlag::empty())?,
        };
        if fstat(&null)?.st_rdev != makedev(1, 3) {
            return Err(Errno::ENODEV);
        }
        let empty = open_beneath(root, c"sys/fs/cgroup")?;
        if !is_directory(&fstat(&empty)?) {
            return Err(Errno::ENOTDIR);
        }
        Ok(Masks { null, empty })
    }

    /// Masks those of `paths` that exist in an attached file system.
    pub fn mask_all(&self, filesystem: BorrowedFd<'_>, paths: &[&CStr]) -> nix::Result<()> {
        for path in paths {
            match open_beneath(filesystem, path) {
                Ok(target) => self.mask(target)?,
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Masks a path of the whole container, if it exists and is not masked already.
    pub fn mask_path(&self, root: BorrowedFd<'_>, path: &CStr) -> nix::Result<()> {
        match find(root, path)? {
            Some(target) if !self.is_masked(&target)? => self.mask(target),
            _ => Ok(()),
        }
    }

    fn is_masked(&self, target: &OwnedFd) -> nix::Result<bool> {
        let (target, empty) = (fstat(target)?, fstat(&self.empty)?);
        Ok(is_null(&target) || (target.st_dev, target.st_ino) == (empty.st_dev, empty.st_ino))
    }

    fn mask(&self, target: OwnedFd) -> nix::Result<()> {
        let source = if is_directory(&fstat(&target)?) {
            &self.empty
        } else {
            &self.null
        };
        let mask = mount::open_tree_clone_of(source.as_fd())?;
        mount::move_mount_onto(mask.as_fd(), target.as_fd())
    }
}

fn is_directory(status: &FileStat) -> bool {
    status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn is_null(status: &FileStat) -> bool {
    let is_device = status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
    is_device && status.st_rdev == makedev(1, 3)
}

/// Opens a path, following links inside the root and never outside it. `None` if it does not exist.
fn find(root: BorrowedFd<'_>, path: &CStr) -> nix::Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(root, path, how) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns the id of the mount that masks a path of the container (proc_pid_mountinfo(5)); `None` if the
/// path does not exist. `what` names the path in errors.
///
/// # Errors
/// The path is not masked.
pub(super) fn mask_id(root: BorrowedFd<'_>, path: &CStr, what: &str) -> Result<Option<u64>> {
    let Some(target) = find(root, path).context(|| format!("{what}: openat2()"))? else {
        return Ok(None);
    };
    let status = fstat(&target).context(|| format!("{what}: fstat()"))?;
    let shows_nothing = if is_directory(&status) {
        is_empty(&target).context(|| format!("{what}: readdir()"))?
    } else {
        is_null(&status)
    };
    if shows_nothing {
        mount_id(&target).map(Some)
    } else {
        Err(Error::system(what, "is not masked in the container"))
    }
}

fn is_empty(directory: &OwnedFd) -> std::io::Result<bool> {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(std::fs::read_dir(path)?.next().is_none())
}

fn mount_id(file: &OwnedFd) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = std::fs::read_to_string(&path).context(|| format!("read({path:?})"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| Error::system(path, "has no mnt_id"))
}

fn open_beneath(directory: BorrowedFd<'_>, path: &CStr) -> nix::Result<OwnedFd> {
    open_across(directory, path, ResolveFlag::RESOLVE_NO_XDEV)
}

fn open_across(
    directory: BorrowedFd<'_>,
    path: &CStr,
    mounts: ResolveFlag,
) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | mounts);
    openat2(directory, path, how)
}
