//! What of /proc and /sys tells of the host rather than of the container is covered.
//!
//! The list is the default of Docker and containerd (masked paths of the OCI runtime
//! specification). A cover is a mount of the root's own: its /dev/null, or the empty directory that
//! it has for cgroups, so that no other file system is needed. All else in /proc and /sys is
//! read-only anyway.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::mount;
use crate::base::sys::open::openat2;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, SFlag, fstat, makedev};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Beneath /proc.
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

/// Beneath /sys.
pub(super) const SYS: [&CStr; 3] = [
    c"devices/virtual/powercap",
    c"devices/virtual/thermal",
    c"firmware",
];

/// Whether a mount point is a cover.
pub fn covers(point: &str) -> bool {
    let among =
        |list: &[&CStr], path: &str| list.iter().any(|name| name.to_bytes() == path.as_bytes());
    point
        .strip_prefix("/proc/")
        .is_some_and(|path| among(&PROC, path))
        || point
            .strip_prefix("/sys/")
            .is_some_and(|path| among(&SYS, path))
}

/// What covers are made of, opened once, in the root as it is before anything is mounted in it.
pub(super) struct Covers {
    null: OwnedFd,
    empty: OwnedFd,
}

impl Covers {
    /// `root` and `dev`, the directory with the device nodes, have to be attached: the kernel copies
    /// no mount that is not.
    pub fn open(root: BorrowedFd<'_>, dev: Option<BorrowedFd<'_>>) -> nix::Result<Covers> {
        // It may be a mount of its own.
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
        Ok(Covers { null, empty })
    }

    /// Covers what there is of `paths` in a file system that is attached.
    pub fn put(&self, filesystem: BorrowedFd<'_>, paths: &[&CStr]) -> nix::Result<()> {
        for path in paths {
            match open_beneath(filesystem, path) {
                Ok(target) => self.cover(target)?,
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Covers what a path of the whole container leads to, if it is there and not covered already.
    pub fn put_in(&self, root: BorrowedFd<'_>, path: &CStr) -> nix::Result<()> {
        match find(root, path)? {
            Some(target) if !self.are_at(&target)? => self.cover(target),
            _ => Ok(()),
        }
    }

    fn are_at(&self, target: &OwnedFd) -> nix::Result<bool> {
        let (target, empty) = (fstat(target)?, fstat(&self.empty)?);
        Ok(is_null(&target) || (target.st_dev, target.st_ino) == (empty.st_dev, empty.st_ino))
    }

    fn cover(&self, target: OwnedFd) -> nix::Result<()> {
        let source = if is_directory(&fstat(&target)?) {
            &self.empty
        } else {
            &self.null
        };
        let cover = mount::open_tree_clone_of(source.as_fd())?;
        mount::move_mount_onto(cover.as_fd(), target.as_fd())
    }
}

fn is_directory(status: &FileStat) -> bool {
    status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn is_null(status: &FileStat) -> bool {
    let is_device = status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
    is_device && status.st_rdev == makedev(1, 3)
}

/// What a path leads to, through links of the root and never outside it; None where nothing is there.
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

/// The id of the mount that covers what a path of the container leads to (proc_pid_mountinfo(5)); None
/// where nothing is there. `what` names the path in errors.
///
/// # Errors
/// The path shows something.
pub(super) fn cover_of(root: BorrowedFd<'_>, path: &CStr, what: &str) -> Result<Option<u64>> {
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
        Err(Error::system(what, "is not covered in the container"))
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
