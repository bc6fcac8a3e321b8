//! Compares files with a tree, including all their bytes.

use super::beneath::{self, open_directory, open_file, open_with};
use super::listing::Block;
use super::pieces::{Piece, pieces};
use super::{Model, shown};
use crate::base::digest::{Algorithm, Digest, Hasher};
use crate::base::error::{Context, Error, Result, reason_of};
use crate::base::parallel::in_parallel;
use crate::base::sys::{lease, xattr};
use crate::image::layer::Xattr;
use crate::image::tree::{Content, Dirent, InodeId};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, makedev};
use nix::unistd::{Whence, lseek64};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const BUFFER: usize = 128 << 10;

/// Ensures that every write to a file changes its inode; the error says why this is not possible.
pub type TakeLease = fn(&File) -> std::result::Result<(), String>;

/// Minimum age of an inode's last change in seconds: a later change could get the same ctime.
const QUIET: i64 = 2;

/// Compares every name, attribute and byte beneath `top` with the tree. Returns the digest that
/// [`list`](super::list) gives until something is changed. For the digest, `take_lease` must succeed and the
/// lease must hold for every file during the comparison; otherwise the inner error says why there is none.
///
/// # Errors
/// The first path that differs, and the difference.
pub fn compare(
    model: &Model<'_>,
    top: BorrowedFd<'_>,
    take_lease: Option<TakeLease>,
) -> Result<std::result::Result<Digest, String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let comparison = Comparison {
        model,
        top,
        numbers: (0..model.tree.capacity())
            .map(|_| AtomicU64::new(0))
            .collect(),
        take_lease,
        now: now.map_or(0, |now| now.as_secs() as i64),
        trouble: OnceLock::new(),
    };
    let directories = model.directories();
    let blocks = in_parallel(&directories, |(path, inode)| {
        comparison.directory(path, *inode)
    })?;
    let mut digest = Hasher::new(Algorithm::Sha256);
    blocks.iter().for_each(|block| digest.update(&block.bytes));
    Ok(match (comparison.trouble.into_inner(), take_lease) {
        (Some(why), _) => Err(why),
        (None, None) => Err("it was not requested".into()),
        (None, Some(_)) => Ok(digest.finish()),
    })
}

struct Comparison<'a> {
    model: &'a Model<'a>,
    top: BorrowedFd<'a>,
    /// Inode number found for the first name of each inode; 0 before that.
    numbers: Vec<AtomicU64>,
    take_lease: Option<TakeLease>,
    /// Current time in seconds since the epoch.
    now: i64,
    /// Reason why the inodes do not show every write.
    trouble: OnceLock<String>,
}

/// Difference between a file and the tree.
enum Difference {
    /// A failed call.
    Failed(io::Error),
    /// A description.
    Other(String),
}

impl<E: Into<io::Error>> From<E> for Difference {
    fn from(error: E) -> Difference {
        Difference::Failed(error.into())
    }
}

impl Difference {
    fn of(self, directory: &[u8], name: &[u8]) -> Error {
        let why = match self {
            // A container would see the mount's contents, which are not part of the image.
            Difference::Failed(error) if error.raw_os_error() == Some(libc::EXDEV) => {
                "has something mounted over it".into()
            }
            Difference::Failed(error) => reason_of(&error),
            Difference::Other(why) => why,
        };
        Error::digest(format_args!("unpacked {}", shown(directory, name)), why)
    }
}

fn differs<T>(why: impl Into<String>) -> std::result::Result<T, Difference> {
    Err(Difference::Other(why.into()))
}

type Compared<T = ()> = std::result::Result<T, Difference>;

impl Comparison<'_> {
    fn directory(&self, path: &[u8], inode: InodeId) -> Result<Block> {
        let open = open_directory(self.top, path);
        let directory = open.map_err(|errno| Difference::from(errno).of(path, b""))?;
        let directory = directory.as_fd();
        let children = self.model.tree.children(inode);
        let children = || children.into_iter().flatten();
        let found =
            beneath::names(directory).context(|| format!("readdir({:?})", shown(path, b"")))?;
        let expected = children().map(|(name, _)| &**name);
        if let Some((name, why)) = unequal(&found, expected) {
            return Err(Difference::Other(why.into()).of(path, &name));
        }
        // Compared after the names: an added or removed name is a better error than a changed time.
        let found = self.attributes(directory, b".", inode);
        let found = found.map_err(|difference| difference.of(path, b""))?;
        let mut block = Block::new(path, &found);
        let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
        for (name, entry) in children() {
            let found = self.entry(directory, name, *entry, &mut buffers);
            block.add(
                name,
                &found.map_err(|difference| difference.of(path, name))?,
            );
        }
        Ok(block)
    }

    /// Records why there will be no digest; only the first reason counts.
    fn record_trouble(&self, result: std::result::Result<(), String>) {
        if let Err(why) = result {
            let _later = self.trouble.set(why);
        }
    }

    fn entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: Dirent,
        buffers: &mut [Vec<u8>; 2],
    ) -> Compared<FileStat> {
        let inode = self.model.tree.inode(entry.inode);
        // Compared separately.
        if let Content::Directory(_) = inode.content {
            let found = status(directory, name)?;
            return expect_kind(&found, SFlag::S_IFDIR).map(|()| found);
        }
        let found = self.attributes(directory, name, entry.inode)?;
        let number = &self.numbers[entry.inode.index()];
        let relaxed = Ordering::Relaxed;
        let first = number.compare_exchange(0, found.st_ino, relaxed, relaxed);
        if first.is_err_and(|first| first != found.st_ino) {
            return differs("is not a hard link to the same file as in the image");
        }
        let pieces = pieces(&inode.content, self.model.tars).filter(|_| first.is_ok());
        let file = match pieces {
            Some(_) => open_file(directory, name)?,
            None => open_with(directory, name, OFlag::O_PATH, Mode::empty())?,
        };
        let file = File::from(file);
        if let Content::Symlink(target) = &inode.content
            && readlinkat(directory, name)?.as_bytes() != &**target
        {
            return differs("is a symlink to another target");
        }
        if pieces.is_some() {
            let leased = self.take_lease.map_or(Ok(()), |take| take(&file));
            self.record_trouble(leased);
        }
        if !is_same(&fstat(&file)?, &found) {
            return differs("was changed while it was compared");
        }
        if let Some((size, pieces)) = pieces {
            contents(&file, size, &pieces, buffers)?;
            if self.take_lease.is_some() && self.trouble.get().is_none() {
                self.record_trouble(unchanged(&file, &found));
            }
        }
        Ok(found)
    }

    /// Compares all attributes of an inode; its contents are compared elsewhere.
    fn attributes(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        id: InodeId,
    ) -> Compared<FileStat> {
        let (tree, owners) = (self.model.tree, self.model.owners);
        let inode = tree.inode(id);
        let (meta, found) = (&inode.meta, status(directory, name)?);
        if found.st_ctime > self.now - QUIET {
            self.record_trouble(Err("a file was changed in the last 2 seconds".into()));
        }
        expect_kind(&found, self.kind(&inode.content))?;
        let is_symlink = matches!(inode.content, Content::Symlink(_));
        let (mode, expected) = (found.st_mode & 0o7777, libc::mode_t::from(meta.mode));
        if mode != expected && !is_symlink {
            return differs(format!("has the mode {mode:04o}, not {expected:04o}"));
        }
        let owner = (owners.user(meta.uid), owners.group(meta.gid));
        if (found.st_uid, found.st_gid) != owner {
            let (user, group) = (found.st_uid, found.st_gid);
            return differs(format!(
                "belongs to {user}:{group}, not {}:{}",
                owner.0, owner.1
            ));
        }
        if (found.st_mtime, found.st_mtime_nsec) != (meta.mtime, meta.nanoseconds.into()) {
            return differs("has another modification time");
        }
        if !matches!(inode.content, Content::Directory(_))
            && found.st_nlink != libc::nlink_t::from(tree.links(id))
        {
            return differs(format!("has {} hard links", found.st_nlink));
        }
        if let Content::Device { major, minor } = inode.content
            && owners.are_all()
            && found.st_rdev != makedev(major.into(), minor.into())
        {
            return differs("is a different device");
        }
        expect_size(&found, &inode.content, owners.are_all())?;
        self.xattrs(directory, name, &meta.xattrs)?;
        Ok(found)
    }

    fn kind(&self, content: &Content) -> SFlag {
        match content {
            Content::Directory(_) => SFlag::S_IFDIR,
            Content::Symlink(_) => SFlag::S_IFLNK,
            Content::Fifo => SFlag::S_IFIFO,
            Content::Device { .. } if self.model.owners.are_all() => SFlag::S_IFCHR,
            _ => SFlag::S_IFREG,
        }
    }

    /// Compares extended attributes; ignores those that the host's security modules set on every file.
    fn xattrs(&self, directory: BorrowedFd<'_>, name: &[u8], expected: &[Xattr]) -> Compared {
        let path = beneath::path(directory, name);
        let hosts =
            |name: &Vec<u8>| name.starts_with(b"security.") && name != b"security.capability";
        let mut found = xattr::list(&path)?;
        found.retain(|name| !hosts(name));
        found.sort_unstable();
        if !found.iter().eq(expected.iter().map(|one| &*one.name)) {
            return differs("has different extended attributes");
        }
        for Xattr { name, value } in expected {
            let key = CString::new(&**name).map_err(|_| Errno::EINVAL)?;
            if xattr::get(&path, &key)? != **value {
                let name = String::from_utf8_lossy(name);
                return differs(format!(
                    "has a different value of the extended attribute {name}"
                ));
            }
        }
        Ok(())
    }
}

/// Returns true if both are the same inode, unchanged.
fn is_same(one: &FileStat, other: &FileStat) -> bool {
    let key = |status: &FileStat| {
        let changed = (status.st_ctime, status.st_ctime_nsec);
        (status.st_dev, status.st_ino, changed, status.st_size)
    };
    key(one) == key(other)
}

fn unchanged(file: &File, before: &FileStat) -> std::result::Result<(), String> {
    let stands =
        lease::is_held(file.as_fd()).map_err(|errno| format!("fcntl(F_GETLEASE): {errno}"))?;
    let now = fstat(file).map_err(|errno| format!("fstat: {errno}"))?;
    if stands && is_same(&now, before) {
        Ok(())
    } else {
        Err("a file was opened for writing while it was compared".into())
    }
}

fn status(directory: BorrowedFd<'_>, name: &[u8]) -> nix::Result<FileStat> {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn expect_kind(found: &FileStat, expected: SFlag) -> Compared {
    if SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == expected {
        Ok(())
    } else {
        differs("is not of the same type as in the image")
    }
}

fn expect_size(found: &FileStat, content: &Content, devices: bool) -> Compared {
    let expected = match content {
        Content::File { size, .. } => *size,
        Content::Sparse { file, .. } => file.size,
        Content::Device { .. } if !devices => 0,
        _ => return Ok(()),
    };
    if found.st_size as u64 == expected {
        Ok(())
    } else {
        differs(format!("has {} bytes, not {expected}", found.st_size))
    }
}

/// Returns the first name that only one of two sorted lists contains.
fn unequal<'a>(
    found: &[Vec<u8>],
    expected: impl Iterator<Item = &'a [u8]>,
) -> Option<(Vec<u8>, &'static str)> {
    let mut found = found.iter().map(Vec::as_slice).peekable();
    let mut expected = expected.peekable();
    loop {
        match (found.peek(), expected.peek()) {
            (None, None) => return None,
            (Some(one), Some(other)) if one == other => {
                found.next();
                expected.next();
            }
            (Some(one), other) if other.is_none_or(|other| one < other) => {
                return Some((one.to_vec(), "is not in the image"));
            }
            (_, Some(other)) => return Some((other.to_vec(), "is missing")),
            (Some(_), None) => unreachable!("the arm above takes it"),
        }
    }
}

/// Compares a file's bytes with its pieces, and the rest with zeros.
fn contents(
    file: &File,
    size: u64,
    pieces: &[Piece<'_>],
    [found, expected]: &mut [Vec<u8>; 2],
) -> Compared {
    let mut end = 0;
    for piece in pieces {
        zeros(file, end, piece.start, found)?;
        let mut done = 0;
        while done < piece.length {
            let length = piece.read(expected, done)?;
            file.read_exact_at(&mut found[..length], piece.start + done)?;
            if found[..length] != expected[..length] {
                return differs("has different contents from its layer");
            }
            done += length as u64;
        }
        end = piece.start + piece.length;
    }
    zeros(file, end, size, found)
}

/// Checks for zeros without reading what the file system stores as a hole: it may be huge.
fn zeros(file: &File, mut at: u64, end: u64, buffer: &mut [u8]) -> Compared {
    while at < end {
        at = match lseek64(file, at as i64, Whence::SeekData) {
            Ok(data) => data as u64,
            Err(Errno::ENXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let length = end.saturating_sub(at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..length], at)?;
        if buffer[..length].iter().any(|byte| *byte != 0) {
            return differs("has data where its layer has a hole");
        }
        at += length as u64;
    }
    Ok(())
}
