//! The container's root: a tree image and its layer tars as one read-only EROFS mount.
//!
//! Every mount is a new superblock: a launch must never see a page that an earlier launch read before the
//! files were hashed again.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Error, Result, reason_of};
use crate::base::sys::{loop_device, mount};
use crate::image::erofs;
use crate::image::tree;
use crate::store::image::Sources;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `--driver`: driver that mounts an image as a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    /// `erofs` if this host supports it, else `overlay`.
    Auto,
    /// EROFS mount of the tree image over the layers' tars.
    Erofs,
    /// Overlay without an upper layer over the image's files, unpacked in the store.
    Overlay,
}

/// Access of the kernel to the backing files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Directly from the files (Linux 6.12 and later, disk file systems).
    File,
    /// Through read-only loop devices.
    Loop,
}

/// A detached read-only mount; it ends with its last user.
pub struct Root {
    /// Mount, as returned by fsmount(2).
    pub mount: OwnedFd,
    /// Access to the backing files.
    pub backing: Backing,
}

/// Mounts the tree image over its tars, in the order of its device table.
///
/// The descriptors are the ones whose bytes were verified; no path is looked up again.
///
/// # Errors
/// The system call that failed. A file system that cannot back the mount (ENOTBLK: tmpfs, overlayfs,
/// EROFS; any before Linux 6.12) is not an error: imrun then uses loop devices.
pub fn mount(sources: &Sources) -> Result<Root> {
    let tree = sources.tree.as_fd();
    let tars: Vec<_> = sources.tars.iter().map(AsFd::as_fd).collect();
    match erofs(&proc_path(tree), tars.iter().map(|tar| proc_path(*tar))) {
        Ok(mount) => Ok(Root {
            mount,
            backing: Backing::File,
        }),
        Err((_, Errno::ENOTBLK)) => mount_by_loop(tree, &tars),
        Err((call, errno)) => Err(failed(call, errno)),
    }
}

/// Mounts the runtime's own files and nothing else: /proc, /sys, /dev with its nodes, and placeholders in
/// /etc.
pub fn own() -> Result<Root> {
    let mut tree = tree::merge([])?;
    tree::synthesise(&mut tree)?;
    let memory = memfd_create(c"imrun", MFdFlags::MFD_CLOEXEC | NOEXEC)
        .context(|| "memfd_create(MFD_NOEXEC_SEAL)")?;
    let mut image = File::from(memory);
    erofs::write(&tree, &[], &mut image)?;
    mount(&Sources {
        tree: image,
        tars: Vec::new(),
    })
}

const NOEXEC: MFdFlags = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);

fn mount_by_loop(tree: BorrowedFd<'_>, tars: &[BorrowedFd<'_>]) -> Result<Root> {
    // The kernel frees the devices when both these descriptors and the mount are gone.
    let tree = attach_loop(tree)?;
    let tars = tars
        .iter()
        .map(|tar| attach_loop(*tar))
        .collect::<Result<Vec<_>>>()?;
    let mount = erofs(&tree.path, tars.iter().map(|tar| tar.path.clone()))
        .map_err(|(call, errno)| failed(call, errno))?;
    Ok(Root {
        mount,
        backing: Backing::Loop,
    })
}

/// Returns the error of a mount. A kernel without support is `Unsupported`, because another driver may
/// work.
fn failed(call: String, errno: Errno) -> Error {
    const NEEDS: &str = "a tree image needs Linux 6.4 or later with CONFIG_EROFS_FS";
    match errno {
        Errno::ENODEV | Errno::EINVAL => Error::unsupported(call, errno.desc())
            .hint(format_args!("{NEEDS}; --driver overlay does not")),
        Errno::EPERM => Error::system(call, errno.desc()).hint("run as root to mount a tree image"),
        _ => Error::system(call, errno.desc()),
    }
}

/// Returns true if this kernel has EROFS.
pub fn is_known() -> bool {
    mount::fsopen(c"erofs").is_ok()
}

fn erofs(
    tree: &CStr,
    tars: impl Iterator<Item = CString>,
) -> std::result::Result<OwnedFd, (String, Errno)> {
    let context = mount::fsopen(c"erofs").map_err(|e| ("fsopen(\"erofs\")".into(), e))?;
    let context = context.as_fd();
    // Otherwise the kernel opens a read-only loop device for writing, which fails with EACCES.
    mount::fsconfig_flag(context, c"ro").map_err(|e| ("fsconfig(\"ro\")".into(), e))?;
    let set = |key: &CStr, value: &CStr| {
        mount::fsconfig_string(context, key, value)
            .map_err(|e| (format!("fsconfig({key:?}, {value:?})"), e))
    };
    set(c"source", tree)?;
    for tar in tars {
        set(c"device", &tar)?;
    }
    mount::fsconfig_create(context)
        .map_err(|e| ("fsconfig(FSCONFIG_CMD_CREATE, erofs)".into(), e))?;
    // Not NODEV: /dev is part of the tree image, which contains no other device nodes.
    mount::fsmount(context, mount::RDONLY | mount::NOSUID)
        .map_err(|e| ("fsmount(erofs, MOUNT_ATTR_RDONLY)".into(), e))
}

/// Returns the path of an open file in /proc, which always refers to that file (fsconfig accepts no
/// descriptor).
fn proc_path(file: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("no NUL in a number")
}

struct Loop {
    path: CString,
    _device: OwnedFd,
}

fn attach_loop(file: BorrowedFd<'_>) -> Result<Loop> {
    const CONTROL: &str = "/dev/loop-control";
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let control = open(CONTROL, flags, Mode::empty()).map_err(|errno| {
        Error::unsupported(format_args!("open({CONTROL:?})"), errno.desc())
            .hint("put the store on a disk file system (ext4, XFS, btrfs), or provide loop devices: its file system cannot back an EROFS mount")
    })?;
    loop {
        let number =
            loop_device::free_number(control.as_fd()).context(|| "ioctl(LOOP_CTL_GET_FREE)")?;
        let path = format!("/dev/loop{number}");
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let device =
            open(path.as_str(), flags, Mode::empty()).context(|| format!("open({path:?})"))?;
        match loop_device::configure(device.as_fd(), file) {
            Ok(()) => {
                let path = CString::new(path).expect("no NUL in a number");
                return Ok(Loop {
                    path,
                    _device: device,
                });
            }
            Err(Errno::EBUSY) => continue,
            Err(errno) => {
                let why = reason_of(&errno.into());
                return Err(Error::system(
                    format_args!("ioctl({path:?}, LOOP_CONFIGURE)"),
                    why,
                ));
            }
        }
    }
}
