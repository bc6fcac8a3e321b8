//! Unpacked images, for hosts that cannot mount tree images.
//!
//! ```text
//! STORE/roots/TREE.OWNERS/root    merged tree, as in the tree image with that identity
//! STORE/roots/TREE.OWNERS/empty   empty directory: an overlay without an upper layer needs two lower ones
//! STORE/roots/.new-…              being created
//! STORE/roots/.old-…              being removed
//! ```
//! `OWNERS` encodes the IDs that the files may have as owners ([`Owners`]). A user of a directory holds
//! a shared lock (flock(2)) on it. Only the store's owner can enter `roots`, because the files keep
//! their set-user-ID bits.

#[cfg(feature = "import")]
mod mend;

use super::Store;
use super::collect::split_hex;
use super::image::Image;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::ids::Owners;
use crate::base::paths;
use crate::image::unpacked::{self, Model, TakeLease, compare, list, write};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(super) const DIRECTORY: &str = "roots";
const ROOT: &str = "root";
const EMPTY: &str = "empty";
/// Beginning of the names of directories that are being created.
const NEW: &str = ".new-";
/// Beginning of the names of directories that are being removed.
const OLD: &str = ".old-";
const REPAIR: &str = "to remove the unpacked files, pull, import or bake the same image again";

/// Digest of a listing that changes with every change of the files, or the reason why there is none.
pub type Listed = std::result::Result<Digest, String>;

/// Unpacked files of an image, which cannot be removed while this exists.
pub struct Unpacked {
    /// Directory that contains `root` and `empty`.
    pub path: PathBuf,
    lock: Arc<Flock<File>>,
    /// Directory with the image's files.
    pub root: OwnedFd,
    /// Empty directory.
    pub empty: OwnedFd,
}

impl Unpacked {
    /// Opens the two directories; later changes of their names have no effect.
    fn new(path: &Path, lock: Flock<File>) -> Result<Unpacked> {
        let open = |name: &str| {
            let opened = unpacked::open_directory(lock.as_fd(), name.as_bytes());
            opened.map_err(|errno| match errno {
                Errno::EXDEV => differs(path, name, "has something mounted over it"),
                errno => differs(path, name, errno.desc()),
            })
        };
        let (root, empty) = (open(ROOT)?, open(EMPTY)?);
        Ok(Unpacked {
            path: path.to_owned(),
            lock: Arc::new(lock),
            root,
            empty,
        })
    }

    /// Returns the lock that keeps the files from being removed, until the last copy of it is dropped.
    pub fn hold(&self) -> Arc<Flock<File>> {
        // A duplicate of the descriptor would not do: dropping the lock unlocks the open file description.
        self.lock.clone()
    }

    /// Returns the digest of the inodes' status ([`list`]), without comparing anything.
    pub fn list(&self) -> Result<Digest> {
        self.refuse_others()?;
        list(self.root.as_fd())
    }

    /// Compares the files with the image; see [`compare`].
    fn compare(&self, model: &Model<'_>, take_lease: Option<TakeLease>) -> Result<Listed> {
        self.refuse_others()?;
        let listed = compare(model, self.root.as_fd(), take_lease);
        listed.map_err(|error| named(&self.path, error))
    }

    /// Checks that there is nothing but `root` and `empty`, and that `empty` is empty.
    fn refuse_others(&self) -> Result<()> {
        let names =
            |directory| unpacked::names(directory).context(|| format!("readdir({:?})", self.path));
        let mut others = names(self.lock.as_fd())?;
        others.retain(|name| ![ROOT, EMPTY].map(str::as_bytes).contains(&&**name));
        others.extend(names(self.empty.as_fd())?);
        match others.first() {
            None => Ok(()),
            Some(name) => {
                let name = String::from_utf8_lossy(name);
                Err(differs(&self.path, &name, "is not in the image"))
            }
        }
    }
}

fn differs(path: &Path, name: &str, why: &str) -> Error {
    named(path, Error::digest(format_args!("unpacked {name}"), why))
}

fn named(path: &Path, error: Error) -> Error {
    Error {
        what: format!("{}: {}", path.display(), error.what),
        ..error.hint(REPAIR)
    }
}

impl Store {
    /// Returns the path of an image's files, which need not exist.
    fn unpacked_path(&self, tree: &Digest, owners: Owners) -> PathBuf {
        let name = format!("{}.{owners}", tree.hex());
        self.path.join(DIRECTORY).join(name)
    }

    /// Returns an image's files after comparing them with `model`. Unpacks them first if they are missing.
    ///
    /// # Errors
    /// The first difference with its path, or an attribute that the store's file system cannot store.
    pub fn unpack(
        &self,
        image: &Image,
        model: &Model<'_>,
        take_lease: TakeLease,
    ) -> Result<(Unpacked, Listed)> {
        if let Some(there) = self.unpacked(image, model.owners)? {
            let listed = there.compare(model, Some(take_lease))?;
            return Ok((there, listed));
        }
        let path = self.unpacked_path(&image.tree_identity(), model.owners);
        self.make_unpacked(&path, model)?;
        let gone = || Error::system(format_args!("{path:?}"), "was removed meanwhile");
        let there = self.find_unpacked(&path)?.ok_or_else(gone)?;
        Ok((there, Err("they were written just now".into())))
    }

    /// Returns an image's files if they exist, without comparing anything.
    pub fn unpacked(&self, image: &Image, owners: Owners) -> Result<Option<Unpacked>> {
        self.find_unpacked(&self.unpacked_path(&image.tree_identity(), owners))
    }

    /// Compares an image's unpacked files, if there are any.
    pub fn compare_unpacked(&self, tree: &Digest, model: &Model<'_>) -> Result<()> {
        match self.find_unpacked(&self.unpacked_path(tree, model.owners))? {
            Some(there) => there.compare(model, None).map(drop),
            None => Ok(()),
        }
    }

    fn find_unpacked(&self, path: &Path) -> Result<Option<Unpacked>> {
        loop {
            refuse_shared(&self.path.join(DIRECTORY))?;
            let directory = match path.symlink_metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                _ => open_directory(path)?,
            };
            let lock = lock(directory, FlockArg::LockShared, path)?;
            // The previous holder of the lock may have removed the directory.
            let now = path.symlink_metadata().ok();
            let found = lock.metadata().context(|| format!("fstat({path:?})"))?;
            if now.is_some_and(|now| (now.dev(), now.ino()) == (found.dev(), found.ino())) {
                return Unpacked::new(path, lock).map(Some);
            }
        }
    }

    /// Unpacks an image. Everything is on disk before the directory gets its name.
    fn make_unpacked(&self, path: &Path, model: &Model<'_>) -> Result<()> {
        let roots = self.path.join(DIRECTORY);
        make_directory(&roots)?;
        refuse_shared(&roots)?;
        // Blocks garbage collection.
        let _lock = self.lock_shared()?;
        let new = roots.join(unique(NEW));
        if new.exists() {
            // Left by a killed process with the same PID.
            remove(&new)?;
        }
        make_directory(&new)?;
        let made = fill(&new, model);
        if made.is_err() || !give_name(&new, path)? {
            // Reports the first error.
            return made.and(remove(&new).map(drop));
        }
        let synced = File::open(&roots).and_then(|roots| roots.sync_all());
        synced.context(|| format!("fsync({roots:?})"))
    }

    /// Removes the unpacked files of all other trees, and remnants of killed writers, unless a process uses
    /// them. Returns the number of bytes freed.
    pub(super) fn collect_unpacked(&self, trees: &BTreeSet<String>, dry_run: bool) -> Result<u64> {
        let roots = self.path.join(DIRECTORY);
        let mut freed = 0;
        for name in files::names_if_there(&roots)? {
            let tree = name.split('.').next().unwrap_or_default();
            let path = roots.join(&name);
            // Links are not followed.
            let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
            if !(is_directory && is_own(&name)) {
                log::warn!("{path:?}: is not a directory that belongs to the store: not removed");
            } else if !trees.contains(tree) {
                freed += if dry_run {
                    size(&path).context(|| format!("readdir({path:?})"))?
                } else {
                    remove_unused(&path)?
                };
            }
        }
        Ok(freed)
    }
}

/// Returns true for the names in `roots` that the store gives: `TREE.OWNERS`, `.new-…` and `.old-…`.
fn is_own(name: &str) -> bool {
    let is_owners = |rest: &str| {
        let owners = rest.strip_prefix('.').unwrap_or_default();
        let ids = owners.split_once('-');
        let is_number = |text: &str| text.parse::<u32>().is_ok();
        owners == "all" || ids.is_some_and(|(users, groups)| is_number(users) && is_number(groups))
    };
    let is_remnant = [NEW, OLD].iter().any(|prefix| name.starts_with(prefix));
    is_remnant || split_hex(name).is_some_and(is_owners)
}

fn fill(new: &Path, model: &Model<'_>) -> Result<()> {
    let (root, empty) = (new.join(ROOT), new.join(EMPTY));
    make_directory(&root)?;
    make_directory(&empty)?;
    let root = open_directory(&root)?;
    write(model, root.as_fd())?;
    let kept = compare(model, root.as_fd(), None).map(drop);
    kept.map_err(|error| {
        let why = format!(
            "the store's file system does not support it: it {}",
            error.why
        );
        Error::unsupported(error.what, why)
    })?;
    nix::unistd::syncfs(&root).context(|| format!("syncfs({new:?})"))
}

/// Renames a complete directory; returns false if another process was faster.
fn give_name(new: &Path, path: &Path) -> Result<bool> {
    match std::fs::rename(new, path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        renamed => renamed
            .map(|()| true)
            .context(|| format!("rename({new:?}, {path:?})")),
    }
}

/// Refuses a directory that other users can enter: it gives access to an image's set-user-ID programs.
fn refuse_shared(roots: &Path) -> Result<()> {
    if !roots.exists() || paths::is_own(roots, 0o077)? {
        return Ok(());
    }
    let why = "must be a directory that only its owner can enter";
    Err(Error::policy(format_args!("{roots:?}"), why)
        .hint("set its mode to 0700, or use another --store"))
}

fn make_directory(path: &Path) -> Result<()> {
    files::make_directory(path).map_err(|error| {
        error.hint("the overlay driver unpacks an image in the store at its first launch")
    })
}

fn open_directory(path: &Path) -> Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .map(File::from)
        .context(|| format!("open({path:?}, O_DIRECTORY|O_NOFOLLOW)"))
}

fn lock(directory: File, how: FlockArg, path: &Path) -> Result<Flock<File>> {
    Flock::lock(directory, how)
        .map_err(|(_, errno)| errno)
        .context(|| format!("flock({path:?})"))
}

/// Returns a name that no other process or thread uses.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{}-{number}", std::process::id())
}

/// Removes a directory unless a process uses it; returns the number of bytes freed.
fn remove_unused(path: &Path) -> Result<u64> {
    let directory = open_directory(path)?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(_lock) => {
            let old = path.with_file_name(unique(OLD));
            std::fs::rename(path, &old).context(|| format!("rename({path:?}, {old:?})"))?;
            remove(&old)
        }
        Err((_, Errno::EWOULDBLOCK)) => Ok(0),
        Err((_, errno)) => Err(errno).context(|| format!("flock({path:?})")),
    }
}

/// Removes a directory; returns the number of bytes its files occupied.
fn remove(path: &Path) -> Result<u64> {
    let size = size(path).context(|| format!("readdir({path:?})"))?;
    files::remove_tree(path)?;
    Ok(size)
}

fn size(path: &Path) -> std::io::Result<u64> {
    let (mut size, mut pending) = (0, vec![path.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                pending.push(entry.path())
            } else {
                size += metadata.blocks() * 512 / metadata.nlink().max(1)
            }
        }
    }
    Ok(size)
}
