//! Whether files are still what a tree says, with all their bytes.

use super::beneath::{self, open_directory, open_file};
use super::pieces::{Piece, pieces};
use super::{Model, shown};
use crate::error::{Context, Error, Result, reason_of};
use crate::layer::Xattr;
use crate::store::image::in_parallel;
use crate::sys::xattr;
use crate::tree::{Content, Dirent, InodeId};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat, makedev};
use nix::unistd::{Whence, lseek64};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER: usize = 128 << 10;

/// Compares every name, attribute and byte beneath `top` with the tree.
///
/// # Errors
/// The first path that differs, and in what.
pub fn compare(model: &Model<'_>, top: BorrowedFd<'_>) -> Result<()> {
    let comparison = Comparison {
        model,
        top,
        numbers: (0..model.tree.capacity())
            .map(|_| AtomicU64::new(0))
            .collect(),
    };
    let directories = model.directories();
    in_parallel(&directories, |(path, inode)| {
        comparison.directory(path, *inode)
    })
    .map(drop)
}

struct Comparison<'a> {
    model: &'a Model<'a>,
    top: BorrowedFd<'a>,
    /// The inode number that a name of each inode was found with; 0: none yet.
    numbers: Vec<AtomicU64>,
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
    fn directory(&self, path: &[u8], inode: InodeId) -> Result<()> {
        let open = open_directory(self.top, path);
        let directory = open.map_err(|errno| Difference::from(errno).of(path, b""))?;
        let directory = directory.as_fd();
        self.attributes(directory, b".", inode)
            .map_err(|difference| difference.of(path, b""))?;
        let children = self.model.tree.children(inode);
        let children = || children.into_iter().flatten();
        let found =
            beneath::names(directory).context(|| format!("readdir({:?})", shown(path, b"")))?;
        let expected = children().map(|(name, _)| &**name);
        if let Some((name, why)) = unequal(&found, expected) {
            return Err(Difference::Other(why.into()).of(path, &name));
        }
        let mut buffers = [vec![0; BUFFER], vec![0; BUFFER]];
        for (name, entry) in children() {
            self.entry(directory, name, *entry, &mut buffers)
                .map_err(|difference| difference.of(path, name))?;
        }
        Ok(())
    }

    fn entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: Dirent,
        buffers: &mut [Vec<u8>; 2],
    ) -> Compared {
        let inode = self.model.tree.inode(entry.inode);
        // Its own turn comes.
        if let Content::Directory(_) = inode.content {
            return expect_kind(&status(directory, name)?, SFlag::S_IFDIR);
        }
        let found = self.attributes(directory, name, entry.inode)?;
        let number = &self.numbers[entry.inode.index()];
        let relaxed = Ordering::Relaxed;
        match number.compare_exchange(0, found.st_ino, relaxed, relaxed) {
            Ok(_) => {}
            Err(first) if first == found.st_ino => return Ok(()),
            Err(_) => return differs("is no hard link to the file that it is one to in the image"),
        }
        match &inode.content {
            Content::Symlink(target) => match readlinkat(directory, name)? {
                found if found.as_bytes() == &**target => Ok(()),
                _ => differs("is a symlink to somewhere else"),
            },
            content => match pieces(content, self.model.tars) {
                Some((size, pieces)) => {
                    let file = File::from(open_file(directory, name)?);
                    let opened = fstat(&file)?;
                    if (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino) {
                        return differs("was replaced while it was compared");
                    }
                    contents(&file, size, &pieces, buffers)
                }
                None => Ok(()),
            },
        }
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
            && found.st_nlink as u64 != u64::from(tree.links(id))
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
