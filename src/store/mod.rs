//! Image store: blobs under their own digests, tree images, and the history of names.
//!
//! ```text
//! STORE/blobs/sha256/HEX   manifests, configs, uncompressed layer tars
//! STORE/trees/HEX.erofs    tree images, named by the digest of (diff_ids, writer version)
//! STORE/roots/HEX.OWNERS    unpacked images, where no tree image can be mounted
//! STORE/refs.log           append-only: time, name, digest
//! STORE/lock               shared by imports, exclusive for garbage collection
//! ```
//! A file gets its name only once it is complete and on disk, so a store is intact even if its writer was
//! killed. A launch only reads the store, which may be on a read-only medium.
#![forbid(unsafe_code)]

pub mod collect;
#[cfg(feature = "import")]
pub mod commit;
pub mod image;
#[cfg(feature = "import")]
pub mod import;
pub mod refs;
#[cfg(feature = "import")]
pub mod rootfs;
#[cfg(feature = "import")]
pub mod source;
pub mod unpacked;
pub mod verify;

use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::files;
use crate::image::layer::Tee;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, linkat};
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Lock file of imports and garbage collection.
const LOCK: &str = "lock";
/// Lock file of containerd's shims while they import an image.
pub(crate) const SHIM_LOCK: &str = "containerd.lock";

/// An image store in a directory.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Creates a store for a path; if nothing exists there, it is a store without images.
    pub fn new(path: impl Into<PathBuf>) -> Store {
        Store { path: path.into() }
    }

    /// Returns the store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates missing directories with access for their owner only.
    ///
    /// # Errors
    /// The store belongs to another user.
    pub fn create(&self) -> Result<()> {
        self.refuse_other_owner()?;
        for directory in ["blobs/sha256", "blobs/sha512", "trees"] {
            files::make_directory(&self.path.join(directory))?;
        }
        self.make_private();
        Ok(())
    }

    /// Removes other users' access to the store. If that fails, imrun uses the store anyway: it verifies the
    /// bytes, and the medium may be read-only.
    pub fn make_private(&self) {
        let depth = |name: &str| match name {
            "blobs" => Some(2),
            "trees" => Some(1),
            // The image determines the modes of its files; a disk's `lost+found` belongs to the file system.
            unpacked::DIRECTORY | "lost+found" => Some(0),
            refs::FILE | LOCK | SHIM_LOCK => Some(0),
            _ => None,
        };
        if let Err(error) = files::close_to_others(&self.path, depth) {
            log::warn!("{error}: other users can read the images of this store");
        }
    }

    /// Blocks garbage collection until the lock is dropped.
    pub fn lock_shared(&self) -> Result<Flock<File>> {
        self.lock(FlockArg::LockShared)
    }

    /// Waits for imports to end, and blocks new ones until the lock is dropped.
    pub fn lock_exclusive(&self) -> Result<Flock<File>> {
        self.lock(FlockArg::LockExclusive)
    }

    /// Refuses a store of another user, who could replace directories during an import and hold its lock.
    fn refuse_other_owner(&self) -> Result<()> {
        match self.path.metadata() {
            Ok(found) if found.uid() != geteuid().as_raw() => Err(Error::policy(
                format_args!("store {}", self.path.display()),
                format_args!("belongs to user {}", found.uid()),
            )
            .hint("select another store with --store, or use this user's own by default")),
            // Other errors appear when the store is used.
            _ => Ok(()),
        }
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>> {
        self.refuse_other_owner()?;
        let path = self.lock_path();
        Flock::lock(self.open_lock()?, how)
            .map_err(|(_, errno)| errno)
            .context(|| format!("flock({path:?})"))
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    fn open_lock(&self) -> Result<File> {
        files::open_private(&self.lock_path())
    }

    /// Returns the path of the blob with this digest, which need not exist.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path
            .join("blobs")
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    /// Returns the path of the tree image with this identity, which need not exist.
    pub fn tree_path(&self, identity: &Digest) -> PathBuf {
        self.path
            .join("trees")
            .join(format!("{}.erofs", identity.hex()))
    }

    /// Returns true if the store has the blob, whatever its bytes.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Opens a blob without verifying its bytes. `what` names it in errors.
    pub fn open_blob(&self, what: &str, digest: &Digest) -> Result<File> {
        let named = |error: Error| match error.reason {
            Reason::Digest => Error {
                what: format!("{what} {digest}"),
                ..error
            },
            _ => error,
        };
        let file = open_regular(&self.blob_path(digest)).map_err(named)?;
        file.ok_or_else(|| {
            Error::digest(format_args!("{what} {digest}"), format_args!("is not in the store {}", self.path.display()))
                .hint("imrun pull NAME or imrun import SOURCE adds an image; imrun images lists the images in the store")
        })
    }

    /// Reads a document and checks its digest. `what` names it in errors.
    pub fn read_document(&self, what: &str, digest: &Digest) -> Result<Vec<u8>> {
        let file = self.open_blob(what, digest)?;
        let bytes = read_document(what, file)?;
        digest
            .verify(what, &bytes)
            .map_err(|e| e.hint("pull, import or bake the same image again: that repairs it"))?;
        Ok(bytes)
    }

    /// Creates a file without a name in the directory of blobs.
    pub fn new_file(&self) -> Result<NewFile> {
        NewFile::beneath(&self.path.join("blobs"))
    }

    /// Stores a document under its digest.
    pub fn add_document(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let new = self.new_file()?;
        new.file
            .write_all_at(bytes, 0)
            .context(|| format!("write({digest})"))?;
        new.link(&self.blob_path(digest))
    }

    /// Syncs the directories, so that linked names survive a power loss.
    pub fn sync_names(&self) -> Result<()> {
        for directory in ["blobs/sha256", "blobs/sha512", "trees", "."] {
            let path = self.path.join(directory);
            File::open(&path)
                .and_then(|d| d.sync_all())
                .context(|| format!("fsync({path:?})"))?;
        }
        Ok(())
    }
}

/// What follows the hex digits of a digest in the name of a file that is about to replace another.
const REPLACING: &str = ".new-";

/// A file without a name until it is complete. Dropping it frees its space.
pub struct NewFile {
    /// The file, open for reading and writing.
    pub file: File,
}

impl NewFile {
    /// Creates a file without a name on the file system of `directory`.
    pub(crate) fn beneath(directory: &Path) -> Result<NewFile> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let file = nix::fcntl::open(directory, flags, Mode::empty())
            .context(|| format!("open({directory:?}, O_TMPFILE)"))?;
        let file = File::from(file);
        file.set_permissions(Permissions::from_mode(files::PRIVATE))
            .context(|| format!("fchmod({directory:?}, O_TMPFILE)"))?;
        Ok(NewFile { file })
    }

    /// Writes the file to disk and gives it its name, replacing any file there.
    pub fn link(self, path: &Path) -> Result<()> {
        self.file
            .sync_all()
            .context(|| format!("fsync(for {path:?})"))?;
        self.name(path)
    }

    /// Gives the file its name, replacing any file there; the name may not survive a power loss.
    pub(crate) fn name(self, path: &Path) -> Result<()> {
        match link(&self.file, path) {
            Err(Errno::EEXIST) => self.replace(path),
            other => other.context(|| format!("linkat({path:?})")),
        }
    }

    /// Replaces a file. No system call links over a name, so this links to another name and renames.
    fn replace(&self, path: &Path) -> Result<()> {
        let (pid, fd) = (std::process::id(), self.file.as_raw_fd());
        let mut beside = path.with_extension("").into_os_string();
        beside.push(format!("{REPLACING}{pid}-{fd}"));
        let beside = PathBuf::from(beside);
        link(&self.file, &beside).context(|| format!("linkat({beside:?})"))?;
        std::fs::rename(&beside, path).context(|| format!("rename({beside:?}, {path:?})"))
    }
}

fn link(file: &File, path: &Path) -> nix::Result<()> {
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(
        AT_FDCWD,
        name.as_str(),
        AT_FDCWD,
        path,
        AtFlags::AT_SYMLINK_FOLLOW,
    )
}

/// Opens a regular file for reading; `None` if there is none. Links, fifos and devices are refused.
fn open_regular(path: &Path) -> Result<Option<File>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open = |quietly| nix::fcntl::open(path, flags | quietly, Mode::empty());
    let file: OwnedFd = match files::quietly(open) {
        Ok(file) => file,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(Errno::ELOOP) => {
            return Err(Error::digest(
                format_args!("{path:?}"),
                "is a symbolic link, not a file",
            ));
        }
        Err(errno) => return Err(errno).context(|| format!("open({path:?})")),
    };
    let file = File::from(file);
    let metadata = file.metadata().context(|| format!("fstat({path:?})"))?;
    if !metadata.is_file() {
        return Err(Error::digest(
            format_args!("{path:?}"),
            "is not a regular file",
        ));
    }
    Ok(Some(file))
}

/// Returns the digest of a whole file, regardless of its position.
fn digest_of(file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut tee = Tee::new(At(file, 0), algorithm, None);
    io::copy(&mut tee, &mut io::sink())?;
    Ok(tee.finish().0)
}

/// Reader of a file from an offset that does not move the file's position.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// Reads a whole document; fails if it is longer than a document may be.
fn read_document(what: &str, reader: impl Read) -> Result<Vec<u8>> {
    let limit = crate::image::manifest::MAX_DOCUMENT as u64;
    let mut bytes = Vec::with_capacity(8 << 10);
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("read({what})"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::digest(
            what,
            format_args!("is larger than {limit} bytes"),
        ));
    }
    Ok(bytes)
}
