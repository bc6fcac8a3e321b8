//! The container's root: a tree image and its layer tars as one read-only EROFS mount.
//!
//! Every mount is a new superblock: a page that one launch read must never serve another whose
//! files were hashed later.
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

/// `--driver`: how an image becomes a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    /// `erofs` where this host mounts it, else `overlay`.
    Auto,
    /// The tree image over the layers' tars, mounted.
    Erofs,
    /// The image unpacked in the store, as the lower layers of an overlay without an upper one.
    Overlay,
}

/// How the kernel reads the backing files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Straight from the files (Linux 6.12 and later, disk file systems).
    File,
    /// Through read-only loop devices.
    Loop,
}

/// A detached read-only mount; it goes away with its last user.
pub struct Root {
    /// The mount, as fsmount(2) gave it.
    pub mount: OwnedFd,
    /// How its bytes are read.
    pub backing: Backing,
}

/// Mounts the tree image over its tars, in the order of its device table.
///
/// The descriptors are the very ones whose bytes were verified; no path is looked up again.
///
/// # Errors
/// The failing call. A file system that cannot serve as backing (ENOTBLK: tmpfs, overlayfs, EROFS;
/// any before Linux 6.12) is not an error: loop devices take its place.
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

/// What the runtime owns of every root, and nothing else: /proc, /sys, /dev with its nodes, and
/// placeholders in /etc.
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
    // The devices are freed by the kernel when both these descriptors and the mount are gone.
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

/// What this kernel does not know is no failure of the system: another driver may do.
fn failed(call: String, errno: Errno) -> Error {
    const TAKES: &str = "a tree image takes Linux 6.4 or later with CONFIG_EROFS_FS";
    match errno {
        Errno::ENODEV | Errno::EINVAL => Error::unsupported(call, errno.desc())
            .hint(format_args!("{TAKES}; --driver overlay takes less")),
        Errno::EPERM => Error::system(call, errno.desc()).hint("mounting a tree image takes root"),
        _ => Error::system(call, errno.desc()),
    }
}

/// Whether this kernel knows EROFS at all.
pub fn is_known() -> bool {
    mount::fsopen(c"erofs").is_ok()
}

fn erofs(
    tree: &CStr,
    tars: impl Iterator<Item = CString>,
) -> std::result::Result<OwnedFd, (String, Errno)> {
    let context = mount::fsopen(c"erofs").map_err(|e| ("fsopen(\"erofs\")".into(), e))?;
    let context = context.as_fd();
    // Without it the kernel opens a read-only loop device for writing, which is EACCES.
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
    // Not NODEV: /dev is part of the tree image, which holds no other device nodes.
    mount::fsmount(context, mount::RDONLY | mount::NOSUID)
        .map_err(|e| ("fsmount(erofs, MOUNT_ATTR_RDONLY)".into(), e))
}

/// The name of an open file; the only one that is sure to mean it (fsconfig has no other way in).
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
            .hint("this store's file system cannot back an EROFS mount itself; it takes loop devices or a store on a disk file system (ext4, XFS, btrfs)")
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
