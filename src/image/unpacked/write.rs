//! Writes a tree as files.

use super::beneath::{self, open_directory, open_with};
use super::pieces::pieces;
use super::{Model, shown};
use crate::base::error::{Context, Result};
use crate::base::sys::xattr;
use crate::image::tree::{Content, Dirent, Inode};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat};
use nix::sys::stat::{mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, fchownat, linkat, symlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

const BUFFER: usize = 256 << 10;

/// Writes all files of a tree into an empty directory, which gets the root's attributes.
///
/// # Errors
/// The failing call with its path, for example for an attribute that the file system does not support.
pub fn write(model: &Model<'_>, top: BorrowedFd<'_>) -> Result<()> {
    let directories = model.directories();
    let mut writer = Writer {
        model,
        top,
        first: vec![None; model.tree.capacity()],
        buffer: vec![0; BUFFER],
    };
    for (number, (path, inode)) in directories.iter().enumerate() {
        let directory = open(top, path)?;
        for (name, entry) in model.tree.children(*inode).into_iter().flatten() {
            let put = writer.put(directory.as_fd(), number, name, *entry, &directories);
            put.context(|| format!("unpack({:?})", shown(path, name)))?;
        }
    }
    // Nothing is added to the directories any more, so their times stay.
    for (path, inode) in &directories {
        let directory = open(top, path)?;
        describe(model, directory.as_fd(), b".", model.tree.inode(*inode))
            .context(|| format!("unpack({:?})", shown(path, b"")))?;
    }
    Ok(())
}

fn open(top: BorrowedFd<'_>, path: &[u8]) -> Result<std::os::fd::OwnedFd> {
    open_directory(top, path).context(|| format!("openat2({:?})", shown(path, b"")))
}

struct Writer<'a> {
    model: &'a Model<'a>,
    top: BorrowedFd<'a>,
    /// First name of each inode: the directory's index and the name.
    first: Vec<Option<(usize, &'a [u8])>>,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn put(
        &mut self,
        directory: BorrowedFd<'_>,
        number: usize,
        name: &'a [u8],
        entry: Dirent,
        directories: &[(Vec<u8>, crate::image::tree::InodeId)],
    ) -> io::Result<()> {
        let inode = self.model.tree.inode(entry.inode);
        if let Content::Directory(_) = inode.content {
            return Ok(mkdirat(directory, name, Mode::S_IRWXU)?);
        }
        if let Some((number, first)) = self.first[entry.inode.index()] {
            let other = open_directory(self.top, &directories[number].0)?;
            return Ok(linkat(other, first, directory, name, LinkatFlags::empty())?);
        }
        self.first[entry.inode.index()] = Some((number, name));
        match &inode.content {
            Content::Symlink(target) => symlinkat(&**target, directory, name)?,
            Content::Fifo => mknodat(directory, name, SFlag::S_IFIFO, Mode::S_IRUSR, 0)?,
            Content::Device { major, minor } if self.model.owners.are_all() => {
                let device = makedev(u64::from(*major), u64::from(*minor));
                mknodat(directory, name, SFlag::S_IFCHR, Mode::S_IRUSR, device)?;
            }
            content => self.put_file(directory, name, content)?,
        }
        describe(self.model, directory, name, inode)
    }

    /// Creates a file; a device that cannot be created becomes an empty file.
    fn put_file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        content: &Content,
    ) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = File::from(open_with(directory, name, flags, Mode::S_IRUSR)?);
        let Some((size, pieces)) = pieces(content, self.model.tars) else {
            return Ok(());
        };
        for piece in pieces {
            let mut done = 0;
            while done < piece.length {
                let read = piece.read(&mut self.buffer, done)?;
                file.write_all_at(&self.buffer[..read], piece.start + done)?;
                done += read as u64;
            }
        }
        // Extends a file that ends with a hole; an empty file stays empty.
        file.set_len(size)
    }
}

/// Sets an inode's attributes. The order matters: a new owner clears privileges, and everything else
/// changes the time.
fn describe(
    model: &Model<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    inode: &Inode,
) -> io::Result<()> {
    let meta = &inode.meta;
    let (user, group) = (model.owners.user(meta.uid), model.owners.group(meta.gid));
    let symlink = AtFlags::AT_SYMLINK_NOFOLLOW;
    fchownat(
        directory,
        name,
        Some(user.into()),
        Some(group.into()),
        symlink,
    )?;
    for attribute in &meta.xattrs {
        let key = CString::new(&*attribute.name).map_err(|_| Errno::EINVAL)?;
        xattr::set(&beneath::path(directory, name), &key, &attribute.value)?;
    }
    if !matches!(inode.content, Content::Symlink(_)) {
        let mode = Mode::from_bits_truncate(meta.mode.into());
        // The name is not a symlink: this process created it.
        fchmodat(directory, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    let time = TimeSpec::new(meta.mtime, meta.nanoseconds.into());
    let unchanged = UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(directory, name, &time, &time, unchanged)?)
}
