//! The image store: every blob under its own digest, tree images, and what names meant when.
//!
//! ```text
//! STORE/blobs/sha256/HEX   manifests, configs, uncompressed layer tars
//! STORE/trees/HEX.erofs    tree images, named by the digest of (diff_ids, writer version)
//! STORE/roots/HEX.OWNERS    unpacked images, where no tree image can be mounted
//! STORE/refs.log           append-only: time, name, digest
//! STORE/lock               shared by imports, exclusive for garbage collection
//! ```
//! Every file gets its name only when it is complete and on disk, so a store whose writer was
//! killed still verifies. A launch only reads it: it may be a read-only medium.
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

use crate::digest::{Algorithm, Digest};
use crate::error::{Context, Error, Reason, Result};
use crate::files;
use crate::layer::Tee;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::linkat;
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file that imports and garbage collection lock.
const LOCK: &str = "lock";
/// The file that containerd's shims lock while they bring an image in.
pub(crate) const SHIM_LOCK: &str = "containerd.lock";

/// A store's directory.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// A store that may not be there yet: one without images.
    pub fn new(path: impl Into<PathBuf>) -> Store {
        Store { path: path.into() }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what is missing of the directories, for their owner alone.
    pub fn create(&self) -> Result<()> {
        for directory in ["blobs/sha256", "blobs/sha512", "trees"] {
            files::make_directory(&self.path.join(directory))?;
        }
        self.close_to_others();
        Ok(())
    }

    /// Closes a store that others can look into. One that cannot be closed is used all the same: its bytes are
    /// verified, and its medium may be read-only.
    pub fn close_to_others(&self) {
        let depth = |name: &str| match name {
            "blobs" => Some(2),
            "trees" => Some(1),
            // An image says which modes its files have; a disk has its own directory.
            unpacked::DIRECTORY | "lost+found" => Some(0),
            refs::FILE | LOCK | SHIM_LOCK => Some(0),
            _ => None,
        };
        if let Err(error) = files::close_to_others(&self.path, depth) {
            log::warn!("{error}: other users can read the images of this store");
        }
    }

    /// Holds garbage collection off until the lock is dropped.
    pub fn lock_shared(&self) -> Result<Flock<File>> {
        self.lock(FlockArg::LockShared)
    }

    /// Waits for imports to end, and holds new ones off until the lock is dropped.
    pub fn lock_exclusive(&self) -> Result<Flock<File>> {
        self.lock(FlockArg::LockExclusive)
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>> {
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

    /// Where the blob of that digest is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path
            .join("blobs")
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    /// Where the tree image of that identity is, or would be.
    pub fn tree_path(&self, identity: &Digest) -> PathBuf {
        self.path
            .join("trees")
            .join(format!("{}.erofs", identity.hex()))
    }

    /// Whether a blob is there, whatever its bytes are.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Opens a blob; its bytes are not verified yet. `what` names it in errors.
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
                .hint("imrun pull NAME or imrun import SOURCE puts an image into the store; imrun images lists those that are there")
        })
    }

    /// The bytes of a document, hashed. `what` names it in errors.
    pub fn read_document(&self, what: &str, digest: &Digest) -> Result<Vec<u8>> {
        let file = self.open_blob(what, digest)?;
        let bytes = read_document(what, file)?;
        digest
            .verify(what, &bytes)
            .map_err(|e| e.hint("pull, import or bake the same image again: that repairs it"))?;
        Ok(bytes)
    }

    /// A file without a name in the directory of blobs.
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

    /// Makes the names that were linked survive a power cut.
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

/// A file that nobody can see until it is complete; dropping it frees its space.
pub struct NewFile {
    /// Open for reading and writing.
    pub file: File,
}

impl NewFile {
    /// A file without a name, on the file system of `directory`.
    pub(crate) fn beneath(directory: &Path) -> Result<NewFile> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let file = nix::fcntl::open(directory, flags, Mode::empty())
            .context(|| format!("open({directory:?}, O_TMPFILE)"))?;
        let file = File::from(file);
        file.set_permissions(Permissions::from_mode(files::PRIVATE))
            .context(|| format!("fchmod({directory:?}, O_TMPFILE)"))?;
        Ok(NewFile { file })
    }

    /// Writes it to disk and gives it its name, in place of whatever had it.
    pub fn link(self, path: &Path) -> Result<()> {
        self.file
            .sync_all()
            .context(|| format!("fsync(for {path:?})"))?;
        self.name(path)
    }

    /// Gives it its name, in place of whatever had it; a power cut may take it away.
    pub(crate) fn name(self, path: &Path) -> Result<()> {
        match link(&self.file, path) {
            Err(Errno::EEXIST) => self.replace(path),
            other => other.context(|| format!("linkat({path:?})")),
        }
    }

    /// There is no call that links over a name: link beside it and rename.
    fn replace(&self, path: &Path) -> Result<()> {
        let beside = path.with_extension(format!(
            "new-{}-{}",
            std::process::id(),
            self.file.as_raw_fd()
        ));
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

/// Opens a regular file for reading; None when there is none. Links, fifos and devices are refused.
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

/// The digest of a whole file, wherever its own position is.
fn digest_of(file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut tee = Tee::new(At(file, 0), algorithm, None);
    io::copy(&mut tee, &mut io::sink())?;
    Ok(tee.finish().0)
}

/// Reads a file from an offset, without moving its own position.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// The names of what is in a directory; none when it is not there.
fn file_names(directory: &Path) -> Result<Vec<String>> {
    let list = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.context(|| format!("readdir({directory:?})"))?,
    };
    let mut names = Vec::new();
    for entry in list {
        let entry = entry.context(|| format!("readdir({directory:?})"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// All bytes of a document, or an error when there are more than a document has.
fn read_document(what: &str, reader: impl Read) -> Result<Vec<u8>> {
    let limit = crate::manifest::MAX_DOCUMENT as u64;
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
