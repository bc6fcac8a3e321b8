//! Source of a container's root, and its preparation for one container.

use super::unpacked;
use crate::base::error::{Context, Error, Result};
use crate::base::sys::mount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Source of a container's root.
pub enum RootSource {
    /// A detached mount with all files, including the runtime's own.
    Whole(OwnedFd),
    /// A directory of the host over a detached mount of the runtime's files. A mount point that is
    /// missing in the directory is provided by that mount; imrun never creates anything in the directory.
    Directory {
        /// The directory, opened with `O_PATH`.
        directory: OwnedFd,
        /// Detached mount of the runtime's files.
        own: OwnedFd,
    },
    /// An image's unpacked files, including the runtime's own.
    Unpacked {
        /// Directory that contains the two lower layers.
        path: PathBuf,
        /// Lower layer with the files, opened when they were compared.
        root: OwnedFd,
        /// Empty lower layer.
        empty: OwnedFd,
        /// True if the layer's device nodes are only empty files.
        needs_devices: bool,
    },
}

/// A container's root, mapped to its ids.
pub(super) struct PreparedRoot<'a> {
    root: Root<'a>,
    /// Mount for /dev, if the root has none of its own.
    pub dev: Option<OwnedFd>,
    devices: Option<OwnedFd>,
}

enum Root<'a> {
    Borrowed(BorrowedFd<'a>),
    Owned(OwnedFd),
}

impl PreparedRoot<'_> {
    /// Returns the detached mount.
    pub fn mount(&self) -> BorrowedFd<'_> {
        match &self.root {
            Root::Borrowed(root) => *root,
            Root::Owned(root) => root.as_fd(),
        }
    }

    /// Returns the directory with the device nodes.
    pub fn devices(&self) -> BorrowedFd<'_> {
        let directory = self.devices.as_ref().or(self.dev.as_ref());
        directory.expect("`prepare` opens one of them").as_fd()
    }
}

impl RootSource {
    /// Returns the mount points in addition to those of every container.
    pub(super) fn mount_points(&self) -> &'static [&'static str] {
        match self {
            RootSource::Whole(_) => &[],
            RootSource::Directory { .. } => &["/dev"],
            RootSource::Unpacked { needs_devices, .. } => {
                if *needs_devices {
                    &unpacked::DEVICES
                } else {
                    &[]
                }
            }
        }
    }

    /// Maps the owners of the files to the ids of `namespace`, if given. `stage` is a directory that may
    /// be mounted on in a private mount namespace.
    pub(super) fn prepare(
        &self,
        namespace: Option<BorrowedFd<'_>>,
        stage: &Path,
    ) -> Result<PreparedRoot<'_>> {
        match self {
            RootSource::Whole(root) => {
                map(root, namespace)?;
                Ok(PreparedRoot {
                    root: Root::Borrowed(root.as_fd()),
                    dev: None,
                    devices: Some(open_dev(root)?),
                })
            }
            RootSource::Directory { directory, own } => {
                let layer = mount::open_tree_clone_of(directory.as_fd())
                    .context(|| "open_tree(root.path, OPEN_TREE_CLONE)")?;
                map(&layer, namespace)?;
                map(own, namespace)?;
                let dev = mount::open_tree_clone_of(open_dev(own)?.as_fd())
                    .map_err(|errno| too_old("open_tree(dev, OPEN_TREE_CLONE)", errno))?;
                let overlay = overlay(&layer, own, mount::NODEV)
                    .map_err(|(call, errno)| too_old(call, errno))?;
                Ok(PreparedRoot {
                    root: Root::Owned(overlay),
                    dev: Some(dev),
                    devices: None,
                })
            }
            RootSource::Unpacked {
                path,
                root,
                empty,
                needs_devices,
            } => {
                let root =
                    unpacked::prepare(path, [root, empty], *needs_devices, namespace, stage)?;
                Ok(PreparedRoot {
                    devices: Some(open_dev(&root)?),
                    dev: None,
                    root: Root::Owned(root),
                })
            }
        }
    }

    /// Returns a detached mount for imrun itself, with unmapped owners.
    pub fn prepare_unmapped(&self, stage: &Path) -> Result<OwnedFd> {
        match self.prepare(None, stage)?.root {
            Root::Borrowed(root) => root.try_clone_to_owned().context(|| "dup(root)"),
            Root::Owned(root) => Ok(root),
        }
    }
}

/// Maps the owners of a detached mount's files to the ids of `namespace`.
pub(super) fn map(root: &OwnedFd, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
    let Some(namespace) = namespace else {
        return Ok(());
    };
    mount::idmap(root.as_fd(), namespace).context(|| "mount_setattr(root, MOUNT_ATTR_IDMAP)")
}

fn open_dev(root: &OwnedFd) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, "dev", how).context(|| "openat2(root, \"dev\", O_PATH)")
}

/// Mounts two lower layers as an overlay without an upper one: nothing can be written.
///
/// `attributes` is `NODEV` for a directory that imrun did not make: its device nodes must not be opened.
pub(super) fn overlay(
    upper: &OwnedFd,
    lower: &OwnedFd,
    attributes: mount::Attributes,
) -> std::result::Result<OwnedFd, (&'static str, Errno)> {
    let context = mount::fsopen(c"overlay").map_err(|errno| ("fsopen(\"overlay\")", errno))?;
    let layers = format!(
        "/proc/self/fd/{}:/proc/self/fd/{}",
        upper.as_raw_fd(),
        lower.as_raw_fd()
    );
    let layers = CString::new(layers).expect("digits have no NUL");
    let context = context.as_fd();
    mount::fsconfig_flag(context, c"ro").map_err(|e| ("fsconfig(overlay, \"ro\")", e))?;
    // Markers that another overlay left in the directory are ignored.
    for (key, value) in [(c"redirect_dir", c"nofollow"), (c"metacopy", c"off")] {
        mount::fsconfig_string(context, key, value)
            .map_err(|e| ("fsconfig(overlay, redirect_dir, metacopy)", e))?;
    }
    mount::fsconfig_string(context, c"lowerdir", &layers)
        .map_err(|e| ("fsconfig(overlay, \"lowerdir\")", e))?;
    mount::fsconfig_create(context).map_err(|e| ("fsconfig(overlay, FSCONFIG_CMD_CREATE)", e))?;
    mount::fsmount(context, mount::RDONLY | mount::NOSUID | attributes)
        .map_err(|e| ("fsmount(overlay, MOUNT_ATTR_RDONLY)", e))
}

fn too_old(call: &str, errno: Errno) -> Error {
    let error = Error::system(call, errno.desc());
    match errno {
        Errno::EINVAL | Errno::ENODEV => error.hint(
            "a directory as root needs Linux 6.15 or later with overlayfs; an image does not",
        ),
        _ => error,
    }
}
