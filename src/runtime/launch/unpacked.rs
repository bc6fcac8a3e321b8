//! An image's unpacked files as a root: an overlay with lower layers only.
//!
//! The kernel accepts layers from the caller's own mount namespace only; before Linux 6.15 it accepts no
//! detached mount either. So a thread with a mount namespace of its own builds the overlay and then ends.
//! The caller's `stage` stays as it is; the result is a detached mount.

use super::root_source::{map, overlay};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::sys::mount::{self, NOEXEC, NOSUID, RDONLY};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Device nodes that are bound from the host if the image's are only empty files.
pub(super) const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// Returns a detached overlay of the directories `root` and `empty` beneath `path`, which must still be
/// the `compared` ones.
///
/// Only a thread that ends with this call sees the mounts on `stage`: removing the stage later removes
/// none of the image's files.
pub(super) fn prepare(
    path: &Path,
    compared: [&OwnedFd; 2],
    needs_devices: bool,
    namespace: Option<BorrowedFd<'_>>,
    stage: &Path,
) -> Result<OwnedFd> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay".into())
            .spawn_scoped(scope, || {
                leave_mounts()?;
                prepare_here(path, compared, needs_devices, namespace, stage)
            })
            .context(|| "clone(thread)")?;
        let prepared = thread.join();
        prepared.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Builds the overlay in this thread's mount namespace, and leaves mounts on `stage` there.
fn prepare_here(
    path: &Path,
    compared: [&OwnedFd; 2],
    needs_devices: bool,
    namespace: Option<BorrowedFd<'_>>,
    stage: &Path,
) -> Result<OwnedFd> {
    let layers = mount::open_tree_clone_of(reopen(path)?.as_fd())
        .context(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))?;
    map(&layers, namespace).map_err(|error| {
        error.hint("the store's file system must support idmapped mounts (ext4, XFS, btrfs)")
    })?;
    let stage = CString::new(stage.as_os_str().as_bytes())
        .map_err(|_| Error::usage(format_args!("{stage:?}"), "has a NUL byte"))?;
    attach(&layers, &stage)?;
    let attributes = if needs_devices { mount::NODEV } else { 0 };
    let [root, empty] = compared;
    let root = overlay(
        &layer(&layers, "root", root)?,
        &layer(&layers, "empty", empty)?,
        attributes,
    )
    .map_err(|(call, errno)| too_old(call, errno))?;
    if !needs_devices {
        return Ok(root);
    }
    attach(&root, &stage)?;
    for device in DEVICES {
        bind_device(&root, device)?;
    }
    mount::open_tree_clone_all(root.as_fd()).context(|| "open_tree(root, OPEN_TREE_CLONE)")
}

/// Tries to mount two directories beneath `place` as a launch as root does, and removes them afterwards.
pub fn try_overlay(place: &Path) -> Result<()> {
    let top = place.join(format!(".imrun-doctor-{}", std::process::id()));
    let make = |path: &Path| std::fs::create_dir(path).context(|| format!("mkdir({path:?})"));
    make(&top)?;
    let attempt = || {
        for name in ["root", "empty", "stage"] {
            make(&top.join(name))?;
        }
        let [root, empty] = ["root", "empty"].map(|name| reopen(&top.join(name)));
        prepare(&top, [&root?, &empty?], false, None, &top.join("stage")).map(drop)
    };
    let tried = attempt();
    let removed = files::remove_tree(&top);
    tried.and(removed)
}

/// Enters a private mount namespace.
fn leave_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context(|| "unshare(CLONE_NEWNS)")?;
    let none: Option<&CStr> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(none, c"/", none, private, none).context(|| "mount(\"/\", MS_REC|MS_PRIVATE)")
}

/// Opens a path in this mount namespace.
fn reopen(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).context(|| format!("open({path:?}, O_PATH)"))
}

fn attach(root: &OwnedFd, stage: &CStr) -> Result<()> {
    mount::move_mount(root.as_fd(), libc::AT_FDCWD, stage)
        .context(|| format!("move_mount({stage:?})"))
}

/// Opens the directory `name`, which must be the one that was compared: it may have been replaced or
/// hidden by a mount since.
fn layer(layers: &OwnedFd, name: &str, compared: &OwnedFd) -> Result<OwnedFd> {
    let found = open_in(layers, name, OFlag::O_DIRECTORY)?;
    let inode = |file: &OwnedFd| fstat(file).map(|status| (status.st_dev, status.st_ino));
    let same = inode(&found).and_then(|found| Ok(found == inode(compared)?));
    match same.context(|| format!("fstat({name:?})"))? {
        true => Ok(found),
        false => Err(Error::digest(
            format_args!("unpacked {name}"),
            "was replaced after it was compared",
        )),
    }
}

fn open_in(root: &OwnedFd, path: &str, flags: OFlag) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    openat2(root, path, how).context(|| format!("openat2(root, {path:?}, O_PATH)"))
}

/// Binds the host's device node over the empty file. A device node can be opened only if the user
/// namespace did not create it.
fn bind_device(root: &OwnedFd, path: &str) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let node = open(path, flags, Mode::empty()).context(|| format!("open({path:?}, O_PATH)"))?;
    let kind = fstat(&node).context(|| format!("fstat({path:?})"))?.st_mode;
    if kind & SFlag::S_IFMT.bits() != SFlag::S_IFCHR.bits() {
        return Err(Error::unsupported(path, "is not a device on this host"));
    }
    let node = mount::open_tree_clone_of(node.as_fd())
        .context(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))?;
    mount::set_attributes(node.as_fd(), RDONLY | NOSUID | NOEXEC)
        .context(|| format!("mount_setattr({path:?}, MOUNT_ATTR_RDONLY)"))?;
    let target = open_in(root, &path[1..], OFlag::empty())?;
    mount::move_mount_onto(node.as_fd(), target.as_fd())
        .context(|| format!("move_mount({path:?}, {})", root.as_raw_fd()))
}

fn too_old(call: &str, errno: Errno) -> Error {
    let error = Error::system(call, errno.desc());
    match errno {
        Errno::ENODEV => error.hint("enable CONFIG_OVERLAY_FS: this kernel has no overlayfs"),
        Errno::EINVAL => error.hint("as root, the driver overlay needs Linux 5.19 or later"),
        Errno::EPERM => error.hint("without root, the driver overlay needs Linux 5.11 or later"),
        _ => error,
    }
}
