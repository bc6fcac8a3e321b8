//! Images whose files are unpacked, for hosts that mount no tree image.
//!
//! ```text
//! STORE/roots/TREE.OWNERS/root    the merged tree, as the tree image of that identity has it
//! STORE/roots/TREE.OWNERS/empty   nothing: an overlay of lower layers alone takes two of them
//! STORE/roots/.new-…              one that is being made
//! STORE/roots/.old-…              one that is being removed
//! ```
//! `OWNERS` says which ids its files could be given to ([`Owners`]). Who uses one holds a shared lock
//! (flock(2)) on it; nobody but the store's owner gets beneath `roots`, for an image's files keep
//! their set-user-ID bits.

#[cfg(feature = "import")]
mod mend;

use super::Store;
use super::image::Image;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::ids::Owners;
use crate::base::paths;
use crate::image::unpacked::{self, Model, Still, compare, list, write};
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
const REPAIR: &str =
    "pull, import or bake the same image again: what was unpacked is then thrown away";

/// The digest of a listing that nothing can change without, or why there is none.
pub type Listed = std::result::Result<Digest, String>;

/// An image's unpacked files, which nobody removes as long as this is held.
pub struct Unpacked {
    /// The directory that has `root` and `empty` in it.
    pub path: PathBuf,
    lock: Arc<Flock<File>>,
    /// The image's files.
    pub root: OwnedFd,
    /// Nothing.
    pub empty: OwnedFd,
}

impl Unpacked {
    /// What its two directories are from here on, whatever becomes of their names.
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

    /// What its inodes say of themselves ([`list`]); nothing is compared.
    pub fn list(&self) -> Result<Digest> {
        self.refuse_others()?;
        list(self.root.as_fd())
    }

    /// Compares it with the image; see [`compare`].
    fn compare(&self, model: &Model<'_>, still: Option<Still>) -> Result<Listed> {
        self.refuse_others()?;
        let listed = compare(model, self.root.as_fd(), still);
        listed.map_err(|error| named(&self.path, error))
    }

    /// There are two directories, and one of them is empty.
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
    /// Where an image's files are, or would be.
    fn unpacked_path(&self, tree: &Digest, owners: Owners) -> PathBuf {
        let name = format!("{}.{owners}", tree.hex());
        self.path.join(DIRECTORY).join(name)
    }

    /// An image's files, unpacked now unless they are there, and compared with `model`.
    ///
    /// # Errors
    /// Whatever differs, by its path; what the store's file system cannot hold.
    pub fn unpack(
        &self,
        image: &Image,
        model: &Model<'_>,
        still: Still,
    ) -> Result<(Unpacked, Listed)> {
        if let Some(there) = self.unpacked(image, model.owners)? {
            let listed = there.compare(model, Some(still))?;
            return Ok((there, listed));
        }
        let path = self.unpacked_path(&image.tree_identity(), model.owners);
        self.make_unpacked(&path, model)?;
        let gone = || Error::system(format_args!("{path:?}"), "was removed meanwhile");
        let there = self.find_unpacked(&path)?.ok_or_else(gone)?;
        Ok((there, Err("they were written just now".into())))
    }

    /// An image's files, if they are there; nothing is compared.
    pub fn unpacked(&self, image: &Image, owners: Owners) -> Result<Option<Unpacked>> {
        self.find_unpacked(&self.unpacked_path(&image.tree_identity(), owners))
    }

    /// Compares what is unpacked of an image; nothing to do where nothing is.
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
            // Who had it before may have removed it.
            let now = path.symlink_metadata().ok();
            let found = lock.metadata().context(|| format!("fstat({path:?})"))?;
            if now.is_some_and(|now| (now.dev(), now.ino()) == (found.dev(), found.ino())) {
                return Unpacked::new(path, lock).map(Some);
            }
        }
    }

    /// Everything is on disk before it has its name.
    fn make_unpacked(&self, path: &Path, model: &Model<'_>) -> Result<()> {
        let roots = self.path.join(DIRECTORY);
        make_directory(&roots)?;
        refuse_shared(&roots)?;
        // Garbage collection waits.
        let _lock = self.lock_shared()?;
        let new = roots.join(unique(".new"));
        if new.exists() {
            // Of a killed process that had this one's number.
            remove(&new)?;
        }
        make_directory(&new)?;
        let made = fill(&new, model);
        if made.is_err() || !give_name(&new, path)? {
            // The first error is the one to tell.
            return made.and(remove(&new).map(drop));
        }
        let synced = File::open(&roots).and_then(|roots| roots.sync_all());
        synced.context(|| format!("fsync({roots:?})"))
    }

    /// Removes what is unpacked of other trees than these, and what killed writers left; the bytes
    /// freed. What somebody uses stays.
    pub(super) fn collect_unpacked(&self, trees: &BTreeSet<String>, dry_run: bool) -> Result<u64> {
        let roots = self.path.join(DIRECTORY);
        let mut freed = 0;
        for name in files::names_if_there(&roots)? {
            let tree = name.split('.').next().unwrap_or_default();
            let path = roots.join(&name);
            if !path.is_dir() {
                log::warn!("{path:?}: is no directory of the store's: left where it is");
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

fn fill(new: &Path, model: &Model<'_>) -> Result<()> {
    let (root, empty) = (new.join(ROOT), new.join(EMPTY));
    make_directory(&root)?;
    make_directory(&empty)?;
    let root = open_directory(&root)?;
    write(model, root.as_fd())?;
    let kept = compare(model, root.as_fd(), None).map(drop);
    kept.map_err(|error| {
        let why = format!("the store's file system does not keep it: it {}", error.why);
        Error::unsupported(error.what, why)
    })?;
    nix::unistd::syncfs(&root).context(|| format!("syncfs({new:?})"))
}

/// False when another process was faster.
fn give_name(new: &Path, path: &Path) -> Result<bool> {
    match std::fs::rename(new, path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        renamed => renamed
            .map(|()| true)
            .context(|| format!("rename({new:?}, {path:?})")),
    }
}

/// Nobody else may get at set-user-ID programs of an image by the store.
fn refuse_shared(roots: &Path) -> Result<()> {
    if !roots.exists() || paths::is_own(roots, 0o077)? {
        return Ok(());
    }
    let why = "is not a directory that its owner alone can enter";
    Err(Error::policy(format_args!("{roots:?}"), why).hint("chmod 0700, or another --store"))
}

fn make_directory(path: &Path) -> Result<()> {
    files::make_directory(path).map_err(|error| {
        error.hint("the driver overlay unpacks an image in its store at the first launch")
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

/// A name that no other process or thread has.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{number}", std::process::id())
}

/// Removes a directory unless somebody uses it; the bytes freed.
fn remove_unused(path: &Path) -> Result<u64> {
    let directory = open_directory(path)?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(_lock) => {
            let old = path.with_file_name(unique(".old"));
            std::fs::rename(path, &old).context(|| format!("rename({path:?}, {old:?})"))?;
            remove(&old)
        }
        Err((_, Errno::EWOULDBLOCK)) => Ok(0),
        Err((_, errno)) => Err(errno).context(|| format!("flock({path:?})")),
    }
}

/// The bytes that its files took.
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
