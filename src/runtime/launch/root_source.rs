//! What a container's root is made of.

use super::unpacked;
use crate::base::error::{Context, Error, Result};
use crate::base::sys::mount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What a container's root is made of.
pub enum RootSource {
    /// A detached mount with all in it, the runtime's own too.
    Whole(OwnedFd),
    /// A directory of the host, over a detached mount of what the runtime owns: where the directory
    /// lacks a mount point, that one's shows. Nothing is ever made in the directory.
    Directory {
        /// Open as `O_PATH`.
        directory: OwnedFd,
        /// A detached mount.
        own: OwnedFd,
    },
    /// An image's files with all in them, the runtime's own too.
    Unpacked {
        /// Has the two lower layers in it.
        path: PathBuf,
        /// The one with the files, as they were compared.
        root: OwnedFd,
        /// The one with nothing in it.
        empty: OwnedFd,
        /// Whether its device nodes are only empty files.
        needs_devices: bool,
    },
}

/// The root, mapped to the container's ids.
pub(super) struct PreparedRoot<'a> {
    root: Root<'a>,
    /// A mount for /dev, where the root has none of its own.
    pub dev: Option<OwnedFd>,
    devices: Option<OwnedFd>,
}

enum Root<'a> {
    Given(BorrowedFd<'a>),
    Made(OwnedFd),
}

impl PreparedRoot<'_> {
    /// A detached mount.
    pub fn mount(&self) -> BorrowedFd<'_> {
        match &self.root {
            Root::Given(root) => *root,
            Root::Made(root) => root.as_fd(),
        }
    }

    /// The directory with the device nodes.
    pub fn devices(&self) -> BorrowedFd<'_> {
        let directory = self.devices.as_ref().or(self.dev.as_ref());
        directory.expect("`prepare` opens one of them").as_fd()
    }
}

impl RootSource {
    /// The mount points that it has beyond those of every container.
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

    /// Maps its owners to the ids of a user namespace, if there is one; `stage` is a directory that
    /// may be mounted on, where nobody sees it.
    pub(super) fn prepare(
        &self,
        namespace: Option<BorrowedFd<'_>>,
        stage: &Path,
    ) -> Result<PreparedRoot<'_>> {
        match self {
            RootSource::Whole(root) => {
                map(root, namespace)?;
                Ok(PreparedRoot {
                    root: Root::Given(root.as_fd()),
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
                    root: Root::Made(overlay),
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
                    root: Root::Made(root),
                })
            }
        }
    }

    /// A detached mount that no container has, with the owners that the files have.
    pub fn prepare_unmapped(&self, stage: &Path) -> Result<OwnedFd> {
        match self.prepare(None, stage)?.root {
            Root::Given(root) => root.try_clone_to_owned().context(|| "dup(root)"),
            Root::Made(root) => Ok(root),
        }
    }
}

/// Maps the owners of a detached mount's files.
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

/// Two layers, both of them lower ones: there is nothing that could be written to.
///
/// Device nodes of a directory that imrun did not make are not to open: `NODEV`.
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
    // Marks that an overlay of somebody else's left in the directory mean nothing here.
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
            "a directory as root takes Linux 6.15 or later with overlayfs; an image takes less",
        ),
        _ => error,
    }
}
