//! The process that makes a call, and what its arguments mean to it.
//!
//! All of it is diagnosis: the process can change its memory and its directories between this look
//! and the kernel's own. What is promised does not rest on it.

use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlink};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The longest path that the kernel takes, its NUL included.
const PATH_MAX: usize = libc::PATH_MAX as usize;
/// No page is smaller.
const PAGE: u64 = 4096;

/// A thread in a container.
pub struct Scene {
    pid: i32,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Without links, dots or double slashes, as far as it exists; from the container's root.
    pub path: PathBuf,
    /// How much of it exists.
    pub nearest: PathBuf,
    /// What is there.
    pub found: Found,
    /// Its owner, group and mode; none of what is not there, and of what is [`Found::Outside`].
    pub rights: Option<Rights>,
}

/// Who may do what with an inode (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    owner: u32,
    group: u32,
    mode: u32,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Directory,
    /// A device or a fifo: to write to it changes no file system.
    Stream,
    /// By a descriptor, what is in no file system: a pipe, a socket, memory.
    Outside,
    /// A file or a link.
    File,
    /// Nothing, in a directory that is there.
    Nothing,
    /// Nothing, nor a directory where it could be: this errno.
    NoWay(Errno),
}

impl Scene {
    /// Of the thread `pid`.
    pub fn new(pid: i32) -> Scene {
        Scene { pid }
    }

    /// A C string of the thread's memory, of at most 4,096 bytes.
    pub fn string(&self, address: u64) -> Result<Vec<u8>> {
        let mut bytes = self.bytes(address, PATH_MAX)?;
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => bytes.truncate(end),
            None => return Err(Error::system("path", "has no end within 4096 bytes")),
        }
        Ok(bytes)
    }

    /// At most `length` bytes of the thread's memory, up to where that ends.
    pub fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        // A second page that is not there does not spoil the first.
        let first = (PAGE - address % PAGE).min(length as u64) as usize;
        let remote = [
            RemoteIoVec {
                base: address as usize,
                len: first,
            },
            RemoteIoVec {
                base: address.wrapping_add(first as u64) as usize,
                len: length - first,
            },
        ];
        let local = &mut [IoSliceMut::new(&mut bytes)];
        let read = process_vm_readv(Pid::from_raw(self.pid), local, &remote)
            .context(|| format!("process_vm_readv({}, {address:#x})", self.pid))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// What `/proc/PID/NAME` leads to, as the container sees it.
    fn link(&self, name: &str) -> Result<PathBuf> {
        let path = format!("/proc/{}/{name}", self.pid);
        let target = readlink(path.as_str()).context(|| format!("readlink({path:?})"))?;
        Ok(target.into())
    }

    /// The directory that a path starts from.
    pub fn directory(&self, descriptor: i32) -> Result<PathBuf> {
        match descriptor {
            libc::AT_FDCWD => self.link("cwd"),
            _ => self.link(&format!("fd/{descriptor}")),
        }
    }

    /// What a descriptor is of.
    pub fn descriptor(&self, number: i32) -> Result<Place> {
        let path = self.link(&format!("fd/{number}"))?;
        // pipe:[1], socket:[1], anon_inode:…, and memory that memfd_create(2) made.
        if !path.is_absolute() || is_memory(&path) {
            return Ok(Place {
                nearest: path.clone(),
                path,
                found: Found::Outside,
                rights: None,
            });
        }
        self.resolve(&path, false)
    }

    /// Follows a path from the container's root, links in its last place too where `follow` says so.
    pub fn resolve(&self, path: &Path, follow: bool) -> Result<Place> {
        if let Some(number) = own_descriptor(path) {
            return self.descriptor(number);
        }
        let root = format!("/proc/{}/root", self.pid);
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let root =
            open(root.as_str(), flags, Mode::empty()).context(|| format!("open({root:?})"))?;
        let mut errno = Errno::ENOENT;
        let mut existing = self.of_itself(path);
        let mut missing = Vec::new();
        loop {
            match lookup(&root, &existing, follow && missing.is_empty()) {
                Ok((nearest, status)) => {
                    let mut place = place(nearest, kind(&status), &missing, errno);
                    place.rights = missing.is_empty().then_some(Rights {
                        owner: status.st_uid,
                        group: status.st_gid,
                        mode: status.st_mode,
                    });
                    return Ok(place);
                }
                Err(other) => {
                    if missing.is_empty() && other != Errno::ENOENT {
                        errno = other;
                    }
                    let Some(name) = existing.file_name().map(OsStr::to_owned) else {
                        return Err(other)
                            .context(|| format!("openat2({path:?}, RESOLVE_IN_ROOT)"));
                    };
                    missing.push(name);
                    existing.pop();
                }
            }
        }
    }

    /// `/proc/self` is another for who looks from outside.
    fn of_itself(&self, path: &Path) -> PathBuf {
        let own = ["/proc/self", "/proc/thread-self"];
        match own.iter().find_map(|own| path.strip_prefix(own).ok()) {
            Some(rest) => Path::new("/proc").join(self.own_id()).join(rest),
            None => path.to_owned(),
        }
    }

    /// The process's id in its own pid namespace (proc_pid_status(5), NSpid).
    fn own_id(&self) -> String {
        self.status("NSpid:")
            .and_then(|line| line.split_whitespace().last().map(str::to_owned))
            .unwrap_or_default()
    }

    fn status(&self, field: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim().to_owned())
    }

    /// Whether the thread's user may write, by the bits of the mode alone, whatever the mount says.
    pub fn may_write(&self, rights: Rights) -> bool {
        let numbers = |field| {
            let text = self.status(field).unwrap_or_default();
            let numbers = text.split_whitespace().map(|number| number.parse().ok());
            numbers.collect::<Option<Vec<u32>>>().unwrap_or_default()
        };
        if numbers("Uid:").get(1) == Some(&rights.owner) {
            return rights.mode & 0o200 != 0;
        }
        let of_group = numbers("Gid:").get(1) == Some(&rights.group)
            || numbers("Groups:").contains(&rights.group);
        rights.mode & if of_group { 0o020 } else { 0o002 } != 0
    }

    /// The thread's name; None when it is gone.
    pub fn thread(&self) -> Option<String> {
        let name = std::fs::read(format!("/proc/{}/comm", self.pid)).ok()?;
        Some(String::from_utf8_lossy(&name).trim_end().to_owned())
    }

    /// The program that it executes; None when it is gone.
    pub fn executable(&self) -> Option<PathBuf> {
        self.link("exe").ok()
    }

    /// The effective user, by the host's number; None when it is gone.
    pub fn user(&self) -> Option<u32> {
        self.status("Uid:")?.split_whitespace().nth(1)?.parse().ok()
    }
}

/// A file of memfd_create(2) has no name in any directory.
fn is_memory(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b" (deleted)")
}

/// The number of a descriptor of the caller's own that a path leads to, by a link that is there for
/// it: /dev/stdout, /dev/fd/1, /proc/self/fd/1.
fn own_descriptor(path: &Path) -> Option<i32> {
    let text = path.to_str()?;
    match text {
        "/dev/stdin" => return Some(0),
        "/dev/stdout" => return Some(1),
        "/dev/stderr" => return Some(2),
        _ => {}
    }
    let lists = ["/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"];
    lists
        .iter()
        .find_map(|list| text.strip_prefix(list))?
        .parse()
        .ok()
}

fn lookup(root: &OwnedFd, path: &Path, follow: bool) -> nix::Result<(PathBuf, FileStat)> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(if follow {
            flags
        } else {
            flags | OFlag::O_NOFOLLOW
        })
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(root, path, how)?;
    let status = fstat(&file)?;
    let path = readlink(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str())?;
    Ok((path.into(), status))
}

fn kind(status: &FileStat) -> Found {
    match SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Found::Directory,
        SFlag::S_IFREG | SFlag::S_IFLNK => Found::File,
        _ => Found::Stream,
    }
}

/// `missing` are the names that were taken off the end, the last one first.
fn place(nearest: PathBuf, found: Found, missing: &[OsString], errno: Errno) -> Place {
    let path = missing
        .iter()
        .rev()
        .fold(nearest.clone(), |path, name| path.join(name));
    let found = match (missing.len(), found, errno) {
        (0, found, _) => found,
        (1, Found::Directory, Errno::ENOENT) => Found::Nothing,
        (_, Found::Directory, errno) => Found::NoWay(errno),
        _ => Found::NoWay(Errno::ENOTDIR),
    };
    Place {
        path,
        nearest,
        found,
        rights: None,
    }
}

/// `path` from `directory`, without dots; `..` goes up by name, as it does where there are no links.
pub fn join(directory: &Path, path: &[u8]) -> PathBuf {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    let mut whole = PathBuf::from("/");
    for component in directory.join(path).components() {
        match component {
            Component::Normal(name) => whole.push(name),
            // openat2(2) would go up from where a link leads; the difference shows in a report alone.
            Component::ParentDir => drop(whole.pop()),
            _ => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Scene {
        Scene::new(std::process::id() as i32)
    }

    #[test]
    fn strings_are_read_up_to_their_end() {
        let text = c"/some/path";
        assert_eq!(me().string(text.as_ptr() as u64).unwrap(), b"/some/path");
        let error = me().string(8).unwrap_err();
        assert!(error.what.contains("process_vm_readv"), "{error}");
    }

    #[test]
    fn paths_are_joined_without_dots() {
        for (directory, path, whole) in [
            ("/srv", &b"a"[..], "/srv/a"),
            ("/srv", b"/a//b/./c/", "/a/b/c"),
            ("/srv/x", b"../../../a", "/a"),
            ("/", b"", "/"),
        ] {
            assert_eq!(join(Path::new(directory), path), Path::new(whole));
        }
    }

    #[test]
    fn the_links_of_ones_own_descriptors_are_known() {
        for (path, number) in [
            ("/dev/stderr", Some(2)),
            ("/dev/fd/7", Some(7)),
            ("/proc/self/fd/1", Some(1)),
            ("/dev/fd/x", None),
            ("/proc/self/fdinfo/1", None),
            ("/dev/null", None),
        ] {
            assert_eq!(own_descriptor(Path::new(path)), number, "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        std::fs::write(top.join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", top.join("link")).unwrap();
        let found = |name: &str, follow| {
            let place = me().resolve(&top.join(name), follow).unwrap();
            let path = place
                .path
                .strip_prefix(&top)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            (path, place.found)
        };
        assert_eq!(found("", true), (String::new(), Found::Directory));
        assert_eq!(found("file", true), ("file".into(), Found::File));
        assert_eq!(found("link", true), ("file".into(), Found::File));
        assert_eq!(found("link", false), ("link".into(), Found::File));
        assert_eq!(found("new", true), ("new".into(), Found::Nothing));
        let way = |name| found(name, true).1;
        assert_eq!(way("none/new"), Found::NoWay(Errno::ENOENT));
        assert_eq!(way("file/new"), Found::NoWay(Errno::ENOTDIR));
        let null = me().resolve(Path::new("/dev/null"), true).unwrap();
        assert_eq!(null.found, Found::Stream);
    }
}
