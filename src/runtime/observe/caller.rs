//! The thread that makes a call: its memory, descriptors and ids.
//!
//! Another thread can change all of it before the kernel looks.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlink};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::cell::OnceCell;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Maximum length of a path that the kernel accepts, including its NUL.
const PATH_MAX: usize = libc::PATH_MAX as usize;
/// Minimum size of a page.
const PAGE: u64 = 4096;
/// The thread in a container that makes a call.
pub struct Caller {
    pid: i32,
    root: OnceCell<OwnedFd>,
    /// Content of `/proc/PID/status`. Only the thread itself changes the fields that are read, and it
    /// waits.
    status: OnceCell<String>,
}

/// A name or a descriptor that cannot be read, with the errno that the kernel returns if it cannot read
/// it either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread(pub Errno);

/// Result of reading from a thread.
pub type ReadResult<T> = Result<T, Unread>;

/// Location that a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path from the container's root, without links, dots or double slashes as far as it exists.
    pub path: PathBuf,
    /// Longest part of the path that exists.
    pub nearest: PathBuf,
    /// Kind of object at the path.
    pub found: Found,
    /// Owner, group and mode; `None` if nothing exists, and for [`Found::Outside`].
    pub rights: Option<Rights>,
}

/// The object that a name or a descriptor leads to.
#[derive(Debug)]
pub struct Target {
    /// Location.
    pub place: Place,
    /// Descriptor of it (O_PATH); `None` if nothing exists.
    pub handle: Option<OwnedFd>,
    /// True if the name leads elsewhere for another process, as /proc/self does.
    pub is_per_process: bool,
    /// True if the path goes through another process's link in /proc, which not every user may follow.
    pub is_foreign: bool,
}

/// Owner, group and mode of an inode (inode(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    owner: u32,
    group: u32,
    mode: u32,
}

/// The kind of object that a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Directory,
    /// A symbolic link that the call does not follow.
    Link,
    /// A device, fifo or socket: writing to it changes no file system.
    Stream,
    /// An object outside every mounted file system: a pipe, a socket, memory.
    Outside,
    /// A regular file.
    File,
    /// Nothing, in a directory that exists.
    Nothing,
    /// Nothing, and no directory that could contain it; the lookup fails with this errno.
    Unreachable(Errno),
}

impl Caller {
    /// Makes the caller for the thread `pid`, numbered by the host.
    pub fn new(pid: i32) -> Caller {
        Caller {
            pid,
            root: OnceCell::new(),
            status: OnceCell::new(),
        }
    }

    /// Returns the thread's id on the host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Reads a C string of at most 4,096 bytes from the thread's memory.
    pub fn string(&self, address: u64) -> ReadResult<Vec<u8>> {
        let mut bytes = self.bytes(address, PATH_MAX)?;
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => bytes.truncate(end),
            None if bytes.len() == PATH_MAX => return Err(Unread(Errno::ENAMETOOLONG)),
            None => return Err(Unread(Errno::EFAULT)),
        }
        Ok(bytes)
    }

    /// Reads at most `length` bytes from the thread's memory; fewer if it ends earlier.
    pub fn bytes(&self, address: u64, length: usize) -> ReadResult<Vec<u8>> {
        let mut bytes = vec![0; length];
        // Two parts, so that a missing second page does not affect the first.
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
        let read = process_vm_readv(Pid::from_raw(self.pid), local, &remote);
        bytes.truncate(read.map_err(|_| Unread(Errno::EFAULT))?);
        Ok(bytes)
    }

    /// Reads `N` bytes from the thread's memory.
    pub fn array<const N: usize>(&self, address: u64) -> ReadResult<[u8; N]> {
        let bytes = self.bytes(address, N)?;
        bytes.try_into().map_err(|_| Unread(Errno::EFAULT))
    }

    /// Returns the target of `/proc/PID/NAME`, as the container sees it.
    fn link(&self, name: &str) -> nix::Result<PathBuf> {
        readlink(format!("/proc/{}/{name}", self.pid).as_str()).map(Into::into)
    }

    /// Returns the container's root directory.
    pub fn root(&self) -> ReadResult<BorrowedFd<'_>> {
        if let Some(root) = self.root.get() {
            return Ok(root.as_fd());
        }
        let root = format!("/proc/{}/root", self.pid);
        let root = open(
            root.as_str(),
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let root = root.map_err(Unread)?;
        Ok(self.root.get_or_init(|| root).as_fd())
    }

    /// Returns the directory that a relative path starts from.
    pub fn directory(&self, descriptor: RawFd) -> ReadResult<PathBuf> {
        match descriptor {
            libc::AT_FDCWD => self.link("cwd").map_err(Unread),
            _ => {
                let link = self.link(&format!("fd/{descriptor}"));
                link.map_err(|_| Unread(Errno::EBADF))
            }
        }
    }

    /// Returns the object of a descriptor.
    pub fn descriptor(&self, number: RawFd) -> ReadResult<Target> {
        let path = format!("/proc/{}/fd/{number}", self.pid);
        let handle = open(
            path.as_str(),
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let handle = handle.map_err(|_| Unread(Errno::EBADF))?;
        Target::of(handle).map_err(Unread)
    }

    /// Returns the process's id in its own pid namespace (proc_pid_status(5)).
    pub fn own_process(&self) -> Option<String> {
        self.last_word("NStgid:")
    }

    /// Returns the thread's id in its own pid namespace.
    pub fn own_thread(&self) -> Option<String> {
        self.last_word("NSpid:")
    }

    fn last_word(&self, field: &str) -> Option<String> {
        let line = self.status(field)?;
        line.split_whitespace().last().map(str::to_owned)
    }

    /// Returns the process's id on the host.
    pub fn process(&self) -> Option<i32> {
        self.status("Tgid:")?.parse().ok()
    }

    /// Returns the process's id in its own pid namespace, the innermost one.
    pub fn process_inside(&self) -> Option<u32> {
        self.numbers("NStgid:").last().copied()
    }

    fn status(&self, field: &str) -> Option<&str> {
        let path = format!("/proc/{}/status", self.pid);
        // Empty if the thread is gone.
        let read = || std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = self.status.get_or_init(read).lines();
        lines
            .find_map(|line| line.strip_prefix(field))
            .map(str::trim)
    }

    fn numbers(&self, field: &str) -> Vec<u32> {
        let text = self.status(field).unwrap_or_default();
        let numbers = text.split_whitespace().map(|number| number.parse().ok());
        numbers.collect::<Option<Vec<u32>>>().unwrap_or_default()
    }

    /// Returns the thread's real, effective, saved and file system user ids on the host.
    pub fn users(&self) -> Vec<u32> {
        self.numbers("Uid:")
    }

    /// Returns the same four group ids.
    pub fn groups(&self) -> Vec<u32> {
        self.numbers("Gid:")
    }

    /// Returns true if the thread has a capability in its user namespace.
    pub fn is_capable(&self, capability: u32) -> bool {
        let held = self.status("CapEff:");
        let held = held.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        held.is_some_and(|held| held & 1 << capability != 0)
    }

    /// Returns the host's id for an id of the container, from `uid_map` or `gid_map`; `None` if it is not
    /// mapped.
    pub fn host_id(&self, map: &str, id: u32) -> Option<u32> {
        let text = std::fs::read_to_string(format!("/proc/{}/{map}", self.pid)).ok()?;
        text.lines().find_map(|line| {
            let words: Option<Vec<u32>> = line
                .split_whitespace()
                .map(|word| word.parse().ok())
                .collect();
            let [inside, outside, length] = words?[..] else {
                return None;
            };
            let offset = id.checked_sub(inside)?;
            (offset < length).then(|| outside + offset)
        })
    }

    /// Returns true if the thread's user may read (4), write (2) or search (1) according to the mode bits
    /// alone: mount options and capabilities are ignored.
    pub fn has_access(&self, bits: u32, rights: Rights) -> bool {
        let everybody = bits << 6 | bits << 3 | bits;
        if rights.mode & everybody == everybody {
            return true;
        }
        let user = self.users().get(3).copied();
        let groups = || {
            let own = self.groups().get(3).copied();
            own == Some(rights.group) || self.numbers("Groups:").contains(&rights.group)
        };
        let shift = match () {
            () if user == Some(rights.owner) => 6,
            () if groups() => 3,
            () => 0,
        };
        rights.mode >> shift & bits == bits
    }

    /// Returns the thread's name; `None` if it is gone.
    pub fn thread(&self) -> Option<String> {
        let name = std::fs::read(format!("/proc/{}/comm", self.pid)).ok()?;
        Some(String::from_utf8_lossy(&name).trim_end().to_owned())
    }

    /// Returns the program that it executes; `None` if it is gone.
    pub fn executable(&self) -> Option<PathBuf> {
        self.link("exe").ok()
    }
}

impl Target {
    /// Returns the object of one of imrun's own descriptors (O_PATH).
    pub fn of(handle: OwnedFd) -> nix::Result<Target> {
        let path = path_of(handle.as_fd())?;
        let status = fstat(&handle)?;
        let found = if path.is_absolute() && !is_memory(&status) {
            kind(&status)
        } else {
            Found::Outside
        };
        let place = Place {
            nearest: path.clone(),
            path,
            found,
            rights: (found != Found::Outside).then(|| Rights::of(&status)),
        };
        Ok(Target {
            place,
            handle: Some(handle),
            is_per_process: false,
            is_foreign: false,
        })
    }
}

impl Rights {
    /// Returns the rights of an inode.
    pub fn of(status: &FileStat) -> Rights {
        Rights {
            owner: status.st_uid,
            group: status.st_gid,
            mode: status.st_mode,
        }
    }
}

/// Returns the path of one of imrun's own descriptors, as the container sees it.
pub fn path_of(handle: BorrowedFd<'_>) -> nix::Result<PathBuf> {
    readlink(format!("/proc/self/fd/{}", handle.as_raw_fd()).as_str()).map(Into::into)
}

/// Returns true for a file without a name, which memfd_create(2) made: no file of a container can be
/// unlinked.
pub fn is_memory(status: &FileStat) -> bool {
    status.st_nlink == 0 && kind(status) == Found::File
}

/// Returns the kind of an inode that was found by name.
pub fn kind(status: &FileStat) -> Found {
    match SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Found::Directory,
        SFlag::S_IFREG => Found::File,
        SFlag::S_IFLNK => Found::Link,
        _ => Found::Stream,
    }
}

/// Returns true for the files of /proc that set a process's name, OOM score or timer slack. Writing them
/// changes no file system.
pub fn is_process_attribute(path: &Path) -> bool {
    let Ok(rest) = path.strip_prefix("/proc") else {
        return false;
    };
    let words: Vec<_> = rest.iter().filter_map(|word| word.to_str()).collect();
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    match words[..] {
        [pid, name] | [pid, "task", _, name] => {
            let attributes = ["comm", "oom_score_adj", "oom_adj", "timerslack_ns"];
            is_number(pid) && attributes.contains(&name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Caller {
        Caller::new(std::process::id() as i32)
    }

    #[test]
    fn strings_are_read_up_to_their_nul() {
        let text = c"/some/path";
        assert_eq!(me().string(text.as_ptr() as u64).unwrap(), b"/some/path");
        assert_eq!(me().string(8), Err(Unread(Errno::EFAULT)));
        let long = vec![b'x'; 2 * PATH_MAX];
        let read = me().string(long.as_ptr() as u64);
        assert_eq!(read, Err(Unread(Errno::ENAMETOOLONG)));
    }

    #[test]
    fn a_descriptor_is_judged_by_its_object_and_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let named = |name: &str| dir.path().canonicalize().unwrap().join(name);
        std::fs::write(named("x (deleted)"), "").unwrap();
        let file = std::fs::File::open(named("x (deleted)")).unwrap();
        let found = |fd: RawFd| me().descriptor(fd).map(|target| target.place.found);
        assert_eq!(found(file.as_raw_fd()), Ok(Found::File));
        let (end, _other) = std::io::pipe().unwrap();
        assert_eq!(found(end.as_raw_fd()), Ok(Found::Outside));
        let flags = nix::sys::memfd::MFdFlags::empty();
        let memory = nix::sys::memfd::memfd_create(c"memory", flags).unwrap();
        assert_eq!(found(memory.as_raw_fd()), Ok(Found::Outside));
        assert_eq!(found(-1), Err(Unread(Errno::EBADF)));
    }

    #[test]
    fn the_mode_bits_of_owner_group_or_others_apply() {
        let (user, group) = (me().users()[3], me().groups()[3]);
        let rights = |owner, group, mode| Rights { owner, group, mode };
        let other = u32::MAX - 7;
        assert!(me().has_access(6, rights(user, group, 0o600)));
        assert!(!me().has_access(2, rights(user, group, 0o466)));
        assert!(!me().has_access(4, rights(other, group, 0o404)));
        assert!(me().has_access(1, rights(other, other, 0o001)));
    }

    #[test]
    fn names_of_threads_and_the_like_are_process_attributes() {
        for path in [
            "/proc/1/comm",
            "/proc/12/task/13/comm",
            "/proc/1/oom_score_adj",
            "/proc/7/timerslack_ns",
        ] {
            assert!(is_process_attribute(Path::new(path)), "{path}");
        }
        for path in [
            "/proc/sys/comm",
            "/proc/1/coredump_filter",
            "/proc/comm",
            "/srv/proc/1/comm",
        ] {
            assert!(!is_process_attribute(Path::new(path)), "{path}");
        }
    }
}
