//! Whether files are still what a tree says, with all their bytes.

use super::beneath::{self, open_directory, open_file, open_with};
use super::listing::Block;
use super::pieces::{Piece, pieces};
use super::{Model, shown};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Context, Error, Result, reason_of};
use crate::layer::Xattr;
use crate::parallel::in_parallel;
use crate::sys::{lease, xattr};
use crate::tree::{Content, Dirent, InodeId};
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

/// Makes sure that nobody writes to a file without its inode telling, or says why that cannot be.
pub type Still = fn(&File) -> std::result::Result<(), String>;

/// How long an inode must have been left alone: a later change may not get the ctime of an earlier one.
const QUIET: i64 = 2;

/// Compares every name, attribute and byte beneath `top` with the tree. The outcome is the digest that
/// [`list`](super::list) gives as long as nothing is changed, where `still` was given and every file was
/// so while it was compared; else why there is none.
///
/// # Errors
/// The first path that differs, and in what.
pub fn compare(
    model: &Model<'_>,
    top: BorrowedFd<'_>,
    still: Option<Still>,
) -> Result<std::result::Result<Digest, String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let comparison = Comparison {
        model,
        top,
        numbers: (0..model.tree.capacity())
            .map(|_| AtomicU64::new(0))
            .collect(),
        still,
        now: now.map_or(0, |now| now.as_secs() as i64),
        trouble: OnceLock::new(),
    };
    let directories = model.directories();
    let blocks = in_parallel(&directories, |(path, inode)| {
        comparison.directory(path, *inode)
    })?;
    let mut digest = Hasher::new(Algorithm::Sha256);
    blocks.iter().for_each(|block| digest.update(&block.bytes));
    Ok(match (comparison.trouble.into_inner(), still) {
        (Some(why), _) => Err(why),
        (None, None) => Err("nobody asked".into()),
        (None, Some(_)) => Ok(digest.finish()),
    })
}

struct Comparison<'a> {
    model: &'a Model<'a>,
    top: BorrowedFd<'a>,
    /// The inode number that a name of each inode was found with; 0: none yet.
    numbers: Vec<AtomicU64>,
    still: Option<Still>,
    /// Seconds since the epoch.
    now: i64,
    /// Why the inodes do not tell of every write.
    trouble: OnceLock<String>,
}

/// What is wrong with a name.
enum Difference {
    /// The call that failed.
    Failed(io::Error),
    /// In words.
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
            // The app would see what is beneath: a mount is not a part of its root.
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
        // Behind the names: a time tells less than what was added or removed.
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

    /// Notes why there will be no digest; only the first reason counts.
    fn unless(&self, watched: std::result::Result<(), String>) {
        if let Err(why) = watched {
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
        // Its own turn comes.
        if let Content::Directory(_) = inode.content {
            let found = status(directory, name)?;
            return expect_kind(&found, SFlag::S_IFDIR).map(|()| found);
        }
        let found = self.attributes(directory, name, entry.inode)?;
        let number = &self.numbers[entry.inode.index()];
        let relaxed = Ordering::Relaxed;
        let first = number.compare_exchange(0, found.st_ino, relaxed, relaxed);
        if first.is_err_and(|first| first != found.st_ino) {
            return differs("is no hard link to the file that it is one to in the image");
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
            return differs("is a symlink to somewhere else");
        }
        if pieces.is_some() {
            self.unless(self.still.map_or(Ok(()), |still| still(&file)));
        }
        if !is_same(&fstat(&file)?, &found) {
            return differs("was changed while it was compared");
        }
        if let Some((size, pieces)) = pieces {
            contents(&file, size, &pieces, buffers)?;
            if self.still.is_some() && self.trouble.get().is_none() {
                self.unless(unchanged(&file, &found));
            }
        }
        Ok(found)
    }

    /// All that an inode is but its contents.
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
            self.unless(Err("a file was changed in the last 2 seconds".into()));
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
            return differs("has another time of its last change");
        }
        if !matches!(inode.content, Content::Directory(_))
            && found.st_nlink != libc::nlink_t::from(tree.links(id))
        {
            return differs(format!("has {} names", found.st_nlink));
        }
        if let Content::Device { major, minor } = inode.content
            && owners.are_all()
            && found.st_rdev != makedev(major.into(), minor.into())
        {
            return differs("is another device");
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

    /// What the host's security modules put on every file is none of the image's.
    fn xattrs(&self, directory: BorrowedFd<'_>, name: &[u8], expected: &[Xattr]) -> Compared {
        let path = beneath::path(directory, name);
        let hosts =
            |name: &Vec<u8>| name.starts_with(b"security.") && name != b"security.capability";
        let mut found = xattr::list(&path)?;
        found.retain(|name| !hosts(name));
        found.sort_unstable();
        if !found.iter().eq(expected.iter().map(|one| &*one.name)) {
            return differs("has other extended attributes");
        }
        for Xattr { name, value } in expected {
            let key = CString::new(&**name).map_err(|_| Errno::EINVAL)?;
            if xattr::get(&path, &key)? != **value {
                let name = String::from_utf8_lossy(name);
                return differs(format!(
                    "has another value of the extended attribute {name}"
                ));
            }
        }
        Ok(())
    }
}

/// Whether it is the same inode, and nothing happened to it.
fn is_same(one: &FileStat, other: &FileStat) -> bool {
    let key = |status: &FileStat| {
        let changed = (status.st_ctime, status.st_ctime_nsec);
        (status.st_dev, status.st_ino, changed, status.st_size)
    };
    key(one) == key(other)
}

fn unchanged(file: &File, before: &FileStat) -> std::result::Result<(), String> {
    let stands =
        lease::stands(file.as_fd()).map_err(|errno| format!("fcntl(F_GETLEASE): {errno}"))?;
    let now = fstat(file).map_err(|errno| format!("fstat: {errno}"))?;
    match stands && is_same(&now, before) {
        true => Ok(()),
        false => Err("a file was opened for writing while it was compared".into()),
    }
}

fn status(directory: BorrowedFd<'_>, name: &[u8]) -> nix::Result<FileStat> {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn expect_kind(found: &FileStat, expected: SFlag) -> Compared {
    match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == expected {
        true => Ok(()),
        false => differs("is not of the kind that it is in the image"),
    }
}

fn expect_size(found: &FileStat, content: &Content, devices: bool) -> Compared {
    let expected = match content {
        Content::File { size, .. } => *size,
        Content::Sparse { file, .. } => file.size,
        Content::Device { .. } if !devices => 0,
        _ => return Ok(()),
    };
    match found.st_size as u64 == expected {
        true => Ok(()),
        false => differs(format!("has {} bytes, not {expected}", found.st_size)),
    }
}

/// The first name that only one of two sorted lists has.
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
            (_, Some(other)) => return Some((other.to_vec(), "is not there")),
            (Some(_), None) => unreachable!("the arm above takes it"),
        }
    }
}

/// Whether a file has the bytes of its pieces, and zeros everywhere else.
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
                return differs("has other bytes than its layer");
            }
            done += length as u64;
        }
        end = piece.start + piece.length;
    }
    zeros(file, end, size, found)
}

/// A hole may be huge: what the file system has no data for is not read.
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
            return differs("has bytes where its layer has a hole");
        }
        at += length as u64;
    }
    Ok(())
}
