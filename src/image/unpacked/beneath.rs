//! Opens names in open directories: this room's only access to files.

use crate::base::files;
use crate::image::layer::PATH_LIMIT;
use nix::Result;
use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC);

/// Opens a path beneath a directory with `flags`; fails on any symlink or mount in it.
pub(super) fn open_with(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
    openat2(directory, path, how)
}

/// Opens a directory beneath `top` for reading; the empty path is `top` itself.
pub fn open_directory(top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let flags = READ | OFlag::O_DIRECTORY;
    let mut directory = open_with(top, b".", flags, Mode::empty())?;
    // A tree can be deeper than the longest path.
    let mut rest = path;
    while !rest.is_empty() {
        let (piece, next) = split_off(rest);
        directory = open_with(directory.as_fd(), piece, flags, Mode::empty())?;
        rest = next;
    }
    Ok(directory)
}

/// Splits a path into as many components as one call takes, and the rest.
fn split_off(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PATH_LIMIT {
        return (path, b"");
    }
    let end = path[..PATH_LIMIT].iter().rposition(|byte| *byte == b'/');
    let end = end.expect("a component is shorter than a path");
    (&path[..end], &path[end + 1..])
}

/// Opens a regular file for reading; does not block if a fifo has taken its place.
pub(super) fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = READ | OFlag::O_NONBLOCK;
    files::quietly(|quietly| open_with(directory, name, flags | quietly, Mode::empty()))
}

/// Returns all names in a directory, sorted by their bytes.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut list = Dir::from_fd(open_directory(directory, b"")?)?;
    let mut names = Vec::new();
    for entry in list.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns the path of a name in an open directory, for calls that take no descriptor; `.` is the
/// directory.
pub(super) fn path(directory: BorrowedFd<'_>, name: &[u8]) -> CString {
    let prefix = format!("/proc/self/fd/{}/", directory.as_raw_fd());
    CString::new([prefix.as_bytes(), name].concat()).expect("no layer's name has a NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_longer_than_path_max_is_opened() {
        let path = vec![b"d".repeat(200); 50].join(&b'/');
        let (mut rest, mut pieces) = (&path[..], Vec::new());
        while !rest.is_empty() {
            let (piece, next) = split_off(rest);
            assert!(piece.len() <= PATH_LIMIT);
            pieces.push(piece);
            rest = next;
        }
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces.join(&b'/'), path);
    }

    #[test]
    fn nothing_is_opened_through_a_symlink_or_above_the_top() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        std::os::unix::fs::symlink("a", path("link")).unwrap();
        std::os::unix::fs::symlink("/", path("a/out")).unwrap();
        let handle = std::fs::File::open(top.path()).unwrap();
        open_directory(handle.as_fd(), b"").unwrap();
        open_directory(handle.as_fd(), b"a/b").unwrap();
        for wrong in ["link", "link/b", "a/out", "a/out/etc", "..", "a/../..", "/"] {
            assert!(
                open_directory(handle.as_fd(), wrong.as_bytes()).is_err(),
                "{wrong}"
            );
        }
    }
}
