//! The subject of a launch: an image of the store, or a directory.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::ids;
use crate::base::ids::Owners;
use crate::runtime::id_map::Ids;
use crate::runtime::integrity::{self, Checked, Demand, Memo};
use crate::runtime::launch::RootSource;
use crate::runtime::rootfs::{self, Backing, Driver};
use crate::store::Store;
use crate::store::image::Image;
use crate::store::unpacked::Unpacked;
use nix::fcntl::{Flock, OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Image or directory to use as the root.
#[derive(Debug, Clone)]
pub enum Subject {
    /// Manifest or index in the store.
    Image(Digest),
    /// Directory of the host, unverified.
    Directory(PathBuf),
}

/// A loaded subject: the image's documents, or the path.
pub(super) enum Loaded {
    Image(Box<Image>),
    Directory(PathBuf),
}

/// Checked files that the root is made from.
pub(super) enum RootFiles {
    Image(Checked),
    Unpacked(Checked, Unpacked),
    Directory(OwnedFd),
}

/// A root, as far as it is the same for every container.
pub(super) struct MountedRoot {
    source: RootSource,
    /// Access of the kernel to the tree image; `None` without one.
    backing: Option<Backing>,
}

impl Subject {
    /// Loads and verifies the image, or opens the directory.
    pub(super) fn load(
        &self,
        store: &Store,
        demand: Demand,
        driver: Driver,
    ) -> Result<(Loaded, RootFiles)> {
        match self {
            Subject::Image(digest) => {
                let image = Image::load(store, digest)?;
                image.expect_host()?;
                let root_files = RootFiles::of(&image, store, demand, driver)?;
                Ok((Loaded::Image(Box::new(image)), root_files))
            }
            Subject::Directory(path) if demand == Demand::Auto => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let directory = open(path, flags, Mode::empty())
                    .context(|| format!("open({path:?}, O_PATH|O_DIRECTORY)"))?;
                Ok((
                    Loaded::Directory(path.clone()),
                    RootFiles::Directory(directory),
                ))
            }
            Subject::Directory(path) => Err(Error::policy(
                format_args!("root {path:?}"),
                "a directory has no digest to verify it by",
            )),
        }
    }
}

impl Loaded {
    /// Returns the image, if it is one.
    pub fn image(&self) -> Option<&Image> {
        match self {
            Loaded::Image(image) => Some(image),
            Loaded::Directory(_) => None,
        }
    }

    /// Returns the digest, or the path.
    pub fn name(&self) -> String {
        match self {
            Loaded::Image(image) => image.digest.to_string(),
            Loaded::Directory(path) => path.display().to_string(),
        }
    }

    /// Returns the entry of the launch record.
    pub fn record(&self, root_files: &RootFiles) -> Value {
        match (self, root_files) {
            (Loaded::Image(image), RootFiles::Image(checked) | RootFiles::Unpacked(checked, _)) => {
                json!({
                    "manifest": image.digest,
                    "config": image.manifest.config.digest,
                    "diffIds": image.config.diff_ids,
                    "tree": checked.tree_digest,
                })
            }
            _ => json!({ "directory": self.name() }),
        }
    }
}

impl RootFiles {
    /// Returns the integrity level; a directory is `unverified`.
    pub fn level(&self) -> &'static str {
        match self {
            RootFiles::Image(checked) | RootFiles::Unpacked(checked, _) => checked.level.as_str(),
            RootFiles::Directory(_) => "unverified",
        }
    }

    /// Returns the state of the memo.
    pub fn memo(&self) -> Option<&Memo> {
        match self {
            RootFiles::Image(checked) | RootFiles::Unpacked(checked, _) => Some(&checked.memo),
            RootFiles::Directory(_) => None,
        }
    }

    /// Checks an image's files, with the driver that fits.
    fn of(image: &Image, store: &Store, demand: Demand, driver: Driver) -> Result<RootFiles> {
        let unpacks = match driver {
            Driver::Auto => ids::is_ordinary()? || !rootfs::is_known(),
            driver => driver == Driver::Overlay,
        };
        if unpacks {
            RootFiles::unpacked(image, store, demand)
        } else {
            integrity::check(image, store, demand).map(RootFiles::Image)
        }
    }

    fn unpacked(image: &Image, store: &Store, demand: Demand) -> Result<RootFiles> {
        let (checked, files) = integrity::check_unpacked(image, store, demand)?;
        Ok(RootFiles::Unpacked(checked, files))
    }

    /// Mounts the files. If no driver was demanded and this kernel cannot mount a tree image, unpacks the
    /// image instead and checks it at the same level.
    pub fn mount_or_unpack(
        self,
        image: Option<&Image>,
        store: &Store,
        demand: Demand,
        driver: Driver,
    ) -> Result<(RootFiles, MountedRoot)> {
        let strong = matches!(demand, Demand::Sealed | Demand::Verity);
        let root_files = match (self.mount(), image) {
            (Err(error), Some(image))
                if error.reason == Reason::Unsupported && driver == Driver::Auto && !strong =>
            {
                RootFiles::unpacked(image, store, demand)?
            }
            (mounted, _) => return Ok((self, mounted?)),
        };
        let mounted = root_files.mount()?;
        Ok((root_files, mounted))
    }

    /// Returns a lock that keeps the app's files from being removed, until the last copy of it is dropped.
    pub fn hold(&self) -> Option<Arc<Flock<File>>> {
        match self {
            RootFiles::Unpacked(_, files) => Some(files.hold()),
            _ => None,
        }
    }

    fn mount(&self) -> Result<MountedRoot> {
        match self {
            RootFiles::Image(checked) => {
                let root = rootfs::mount(&checked.sources)?;
                Ok(MountedRoot {
                    source: RootSource::Whole(root.mount),
                    backing: Some(root.backing),
                })
            }
            RootFiles::Unpacked(_, files) => {
                let dup = |file: &OwnedFd| file.try_clone().context(|| "dup(unpacked)");
                Ok(MountedRoot {
                    source: RootSource::Unpacked {
                        path: files.path.clone(),
                        root: dup(&files.root)?,
                        empty: dup(&files.empty)?,
                        needs_devices: !Owners::own()?.are_all(),
                    },
                    backing: None,
                })
            }
            RootFiles::Directory(directory) => {
                let own = rootfs::own()?;
                let directory = directory.try_clone().context(|| "dup(root.path)")?;
                Ok(MountedRoot {
                    source: RootSource::Directory {
                        directory,
                        own: own.mount,
                    },
                    backing: Some(own.backing),
                })
            }
        }
    }
}

/// Returns the root of an image, with every byte hashed, as a detached mount. `stage` may be mounted on
/// in a private mount namespace.
pub fn standalone_root(
    image: &Image,
    store: &Store,
    driver: Driver,
    stage: &Path,
) -> Result<OwnedFd> {
    let demand = Demand::Hashed;
    let root_files = RootFiles::of(image, store, demand, driver)?;
    let (_held, mounted) = root_files.mount_or_unpack(Some(image), store, demand, driver)?;
    mounted.source.prepare_unmapped(stage)
}

impl MountedRoot {
    /// Returns the source of the container's root.
    pub fn source(&self) -> &RootSource {
        &self.source
    }

    /// Returns the top directory.
    pub fn file(&self) -> BorrowedFd<'_> {
        match &self.source {
            RootSource::Whole(root) => root.as_fd(),
            RootSource::Directory { directory, .. } => directory.as_fd(),
            RootSource::Unpacked { root, .. } => root.as_fd(),
        }
    }

    /// Returns true if the owners of the files can be mapped. Those of an overlay cannot: it has the
    /// host's owners, and the kernel supports no idmapped mount of it.
    pub fn can_be_mapped(&self) -> bool {
        match &self.source {
            RootSource::Whole(_) | RootSource::Unpacked { .. } => true,
            RootSource::Directory { directory, .. } => fstatfs(directory)
                .is_ok_and(|found| found.filesystem_type() != OVERLAYFS_SUPER_MAGIC),
        }
    }

    /// Returns the driver's entry of the launch record.
    pub fn record(&self, ids: &Ids) -> Value {
        let backing = self.backing.map(|backing| match backing {
            Backing::File => "file",
            Backing::Loop => "loop",
        });
        match &self.source {
            RootSource::Whole(_) => json!({ "name": "erofs", "backing": backing }),
            RootSource::Directory { .. } => {
                json!({ "name": "directory", "idmapped": ids.shifted() })
            }
            RootSource::Unpacked { needs_devices, .. } => {
                let owners = if *needs_devices { "own" } else { "image" };
                json!({ "name": "overlay", "idmapped": ids.shifted(), "owners": owners })
            }
        }
    }
}
