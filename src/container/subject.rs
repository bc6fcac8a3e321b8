//! What is launched: an image of the store, or a directory.

use crate::digest::Digest;
use crate::error::{Context, Error, Reason, Result};
use crate::id_map::Ids;
use crate::ids;
use crate::ids::Owners;
use crate::integrity::{self, Checked, Demand, Memo};
use crate::launch::Ground;
use crate::rootfs::{self, Backing, Driver};
use crate::store::Store;
use crate::store::image::Image;
use crate::store::unpacked::Unpacked;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What a root is to be.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A manifest or an index of the store.
    Image(Digest),
    /// A directory of the host, which nobody has verified.
    Directory(PathBuf),
}

/// What is known of it.
pub(super) enum Loaded {
    Image(Box<Image>),
    Directory(PathBuf),
}

/// What its root is made of.
pub(super) enum Material {
    Image(Checked),
    Unpacked(Checked, Unpacked),
    Directory(OwnedFd),
}

/// Its root, as far as it is the same for every container.
pub(super) struct Mounted {
    ground: Ground,
    /// None where nothing is read by a tree image.
    backing: Option<Backing>,
}

impl Subject {
    /// Loads and verifies an image, opens a directory.
    pub(super) fn load(
        &self,
        store: &Store,
        demand: Demand,
        driver: Driver,
    ) -> Result<(Loaded, Material)> {
        match self {
            Subject::Image(digest) => {
                let image = Image::load(store, digest)?;
                image.expect_host()?;
                let material = Material::of(&image, store, demand, driver)?;
                Ok((Loaded::Image(Box::new(image)), material))
            }
            Subject::Directory(path) if demand == Demand::Auto => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let directory = open(path, flags, Mode::empty())
                    .context(|| format!("open({path:?}, O_PATH|O_DIRECTORY)"))?;
                Ok((
                    Loaded::Directory(path.clone()),
                    Material::Directory(directory),
                ))
            }
            Subject::Directory(path) => Err(Error::policy(
                format_args!("root {path:?}"),
                "is a directory, which has no digest that it could be verified by",
            )),
        }
    }
}

impl Loaded {
    /// The image, if it is one.
    pub fn image(&self) -> Option<&Image> {
        match self {
            Loaded::Image(image) => Some(image),
            Loaded::Directory(_) => None,
        }
    }

    /// The digest, or the path.
    pub fn name(&self) -> String {
        match self {
            Loaded::Image(image) => image.digest.to_string(),
            Loaded::Directory(path) => path.display().to_string(),
        }
    }

    /// For the launch record.
    pub fn record(&self, material: &Material) -> Value {
        match (self, material) {
            (Loaded::Image(image), Material::Image(checked) | Material::Unpacked(checked, _)) => {
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

impl Material {
    /// The integrity level that holds; a directory has none.
    pub fn level(&self) -> &'static str {
        match self {
            Material::Image(checked) | Material::Unpacked(checked, _) => checked.level.as_str(),
            Material::Directory(_) => "unverified",
        }
    }

    /// What became of the memo.
    pub fn memo(&self) -> Option<&Memo> {
        match self {
            Material::Image(checked) | Material::Unpacked(checked, _) => Some(&checked.memo),
            Material::Directory(_) => None,
        }
    }

    /// An image's, verified.
    fn of(image: &Image, store: &Store, demand: Demand, driver: Driver) -> Result<Material> {
        let unpacks = match driver {
            Driver::Auto => ids::is_ordinary()? || !rootfs::is_known(),
            driver => driver == Driver::Overlay,
        };
        match unpacks {
            true => Material::unpacked(image, store, demand),
            false => integrity::check(image, store, demand).map(Material::Image),
        }
    }

    fn unpacked(image: &Image, store: &Store, demand: Demand) -> Result<Material> {
        let (checked, files) = integrity::check_unpacked(image, store, demand)?;
        Ok(Material::Unpacked(checked, files))
    }

    /// Mounts it. Where nobody demanded a driver, and this kernel turns out not to mount a tree image,
    /// the image is unpacked, and as checked as that was.
    pub fn mount_or_unpack(
        self,
        image: Option<&Image>,
        store: &Store,
        demand: Demand,
        driver: Driver,
    ) -> Result<(Material, Mounted)> {
        let strong = matches!(demand, Demand::Sealed | Demand::Verity);
        let material = match (self.mount(), image) {
            (Err(error), Some(image))
                if error.reason == Reason::Unsupported && driver == Driver::Auto && !strong =>
            {
                Material::unpacked(image, store, demand)?
            }
            (mounted, _) => return Ok((self, mounted?)),
        };
        let mounted = material.mount()?;
        Ok((material, mounted))
    }

    /// As long as this is open nobody removes the files that the app sees.
    pub fn hold(&self) -> Result<Option<File>> {
        match self {
            Material::Unpacked(_, files) => files.hold().map(Some),
            _ => Ok(None),
        }
    }

    fn mount(&self) -> Result<Mounted> {
        match self {
            Material::Image(checked) => {
                let root = rootfs::mount(&checked.sources)?;
                Ok(Mounted {
                    ground: Ground::Whole(root.mount),
                    backing: Some(root.backing),
                })
            }
            Material::Unpacked(_, files) => {
                let dup = |file: &OwnedFd| file.try_clone().context(|| "dup(unpacked)");
                Ok(Mounted {
                    ground: Ground::Unpacked {
                        path: files.path.clone(),
                        root: dup(&files.root)?,
                        empty: dup(&files.empty)?,
                        needs_devices: !Owners::own()?.are_all(),
                    },
                    backing: None,
                })
            }
            Material::Directory(directory) => {
                let own = rootfs::own()?;
                let directory = directory.try_clone().context(|| "dup(root.path)")?;
                Ok(Mounted {
                    ground: Ground::Directory {
                        directory,
                        own: own.mount,
                    },
                    backing: Some(own.backing),
                })
            }
        }
    }
}

/// The root that an app of this image would see, every byte of it hashed, as a detached mount; `stage`
/// may be mounted on, where nobody sees it.
pub fn root_alone(image: &Image, store: &Store, driver: Driver, stage: &Path) -> Result<OwnedFd> {
    let demand = Demand::Hashed;
    let material = Material::of(image, store, demand, driver)?;
    let (_held, mounted) = material.mount_or_unpack(Some(image), store, demand, driver)?;
    mounted.ground.lay_alone(stage)
}

impl Mounted {
    /// What the child gets.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Its top directory.
    pub fn file(&self) -> BorrowedFd<'_> {
        match &self.ground {
            Ground::Whole(root) => root.as_fd(),
            Ground::Directory { directory, .. } => directory.as_fd(),
            Ground::Unpacked { root, .. } => root.as_fd(),
        }
    }

    /// Whether its owners can be mapped. What is an overlay already has the host's, and no mount of it
    /// can have others.
    pub fn can_be_mapped(&self) -> bool {
        match &self.ground {
            Ground::Whole(_) | Ground::Unpacked { .. } => true,
            Ground::Directory { directory, .. } => fstatfs(directory)
                .is_ok_and(|found| found.filesystem_type() != OVERLAYFS_SUPER_MAGIC),
        }
    }

    /// For the launch record: the driver.
    pub fn record(&self, ids: &Ids) -> Value {
        let backing = self.backing.map(|backing| match backing {
            Backing::File => "file",
            Backing::Loop => "loop",
        });
        match &self.ground {
            Ground::Whole(_) => json!({ "name": "erofs", "backing": backing }),
            Ground::Directory { .. } => json!({ "name": "directory", "idmapped": ids.shifted() }),
            Ground::Unpacked { needs_devices, .. } => {
                let owners = if *needs_devices { "own" } else { "image" };
                json!({ "name": "overlay", "idmapped": ids.shifted(), "owners": owners })
            }
        }
    }
}
