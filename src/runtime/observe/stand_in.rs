//! Calls that imrun makes instead of the kernel, so that no name is read twice.
//!
//! The kernel reads a call that continues again, and another thread of the app may have changed the name
//! or the descriptor meanwhile. So under `--on-write kill` and `imrun check`, no call that is exempt for
//! what it names continues. imrun judges the object that it has open, and gives the app that object or an
//! errno. It never gives the app anything that the app could not have opened itself: imrun checks the
//! user's rights and Landlock's rule, which allows only the devices and objects outside file systems.

use super::attempt::{Attempt, StandIn, access};
use super::caller::{Caller, Found, ReadResult, Rights, Target, Unread, is_memory, kind};
use super::ioctls::EROFS_SUPER_MAGIC;
use crate::base::sys::process::{descriptor_of, unprivileged};
use crate::base::sys::seccomp::Listener;
use crate::base::sys::socket;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;
use std::borrow::Cow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

const PIPEFS_MAGIC: FsType = FsType(0x5049_5045); // linux/magic.h
const HUGETLBFS_MAGIC: FsType = FsType(0x9584_58f6);

/// Flags of an open that the app may choose.
const PASSED: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_DIRECT
    | libc::O_DSYNC
    | libc::O_LARGEFILE
    | libc::O_SYNC
    | libc::O_TRUNC;

/// Answers a call instead of the kernel.
///
/// # Errors
/// The object of the call is no longer the one that was judged.
pub fn answer(
    listener: &Listener,
    id: u64,
    attempt: &Attempt<'_>,
    stand_in: StandIn,
) -> ReadResult<nix::Result<()>> {
    let caller = attempt.caller;
    let done = match stand_in {
        StandIn::Fail(errno) => Err(errno),
        StandIn::Succeed => Ok(()),
        StandIn::Truncate => truncate(caller, attempt.descriptor(), attempt.length())?,
        StandIn::Bind(address) => bind(caller, attempt.descriptor(), &address),
        StandIn::Open(target) => {
            let flags = attempt.flags().unwrap_or_default();
            let given = reopen(caller, &target, flags)
                .and_then(|file| listener.give(id, file.as_fd(), flags & libc::O_CLOEXEC != 0));
            return Ok(match given {
                Ok(()) => Ok(()),
                Err(Errno::ENOENT) => Err(Errno::ENOENT),
                Err(errno) => listener.refuse(id, errno),
            });
        }
    };
    Ok(match done {
        Ok(()) => listener.succeed(id),
        Err(errno) => listener.refuse(id, errno),
    })
}

/// Objects that an open for writing may open in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A device that programs may write to.
    Device,
    /// A pipe or memory, through a link of a descriptor.
    Own,
    /// A file of the image, which an open with O_CREAT opens for reading.
    File,
}

/// Opens `target` as the app would have.
fn reopen(caller: &Caller, target: &Target, flags: i32) -> nix::Result<OwnedFd> {
    let handle = target.handle.as_ref().ok_or(Errno::ENOENT)?;
    let status = fstat(handle)?;
    let kind = openable(handle, flags)?;
    if target.is_foreign {
        return Err(Errno::EACCES);
    }
    if !caller.has_access(access(flags), Rights::of(&status)) {
        return Err(Errno::EACCES);
    }
    let passed = match kind {
        Kind::Device | Kind::Own => flags & PASSED,
        Kind::File => flags & PASSED & !libc::O_ACCMODE & !libc::O_TRUNC,
    };
    // imrun never waits for the other end of a pipe, and never acquires a controlling terminal.
    let own = OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let file = open(
        path.as_str(),
        OFlag::from_bits_retain(passed) | own,
        Mode::empty(),
    )?;
    if flags & libc::O_NONBLOCK == 0 {
        let now = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(now - OFlag::O_NONBLOCK))?;
    }
    Ok(file)
}

/// Returns the kind of an object, or the errno of the kernel or Landlock if an app cannot open it. Does
/// not check the user's rights.
fn openable(handle: &OwnedFd, flags: i32) -> nix::Result<Kind> {
    let status = fstat(handle)?;
    let file_system = fstatfs(handle)?.filesystem_type();
    let format = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits());
    let is_read = access(flags) == 4 && flags & libc::O_TRUNC == 0;
    match format {
        SFlag::S_IFCHR => match (major(status.st_rdev), minor(status.st_rdev)) {
            (1, 3 | 5 | 7 | 8 | 9) => Ok(Kind::Device),
            // A container has no terminal.
            (5, 0) => Err(Errno::ENXIO),
            _ => Err(Errno::EACCES),
        },
        SFlag::S_IFIFO if file_system == PIPEFS_MAGIC => Ok(Kind::Own),
        SFlag::S_IFREG if is_memory(&status) => match file_system {
            TMPFS_MAGIC | HUGETLBFS_MAGIC => Ok(Kind::Own),
            _ => Err(Errno::EACCES),
        },
        // The content of other files may depend on who opens them, or access may depend on more than the
        // mode bits.
        SFlag::S_IFREG if is_read => match file_system {
            EROFS_SUPER_MAGIC | OVERLAYFS_SUPER_MAGIC => Ok(Kind::File),
            _ => Err(Errno::EACCES),
        },
        SFlag::S_IFSOCK => Err(Errno::ENXIO),
        // Event descriptors and the like.
        _ if format.is_empty() => Err(Errno::ENXIO),
        _ => Err(Errno::EACCES),
    }
}

/// Sets the length of the app's memory file. Refuses a descriptor of a file that has a name.
fn truncate(caller: &Caller, number: i32, length: i64) -> ReadResult<nix::Result<()>> {
    let file = descriptor_of(caller.pid(), || caller.process(), number).map_err(Unread)?;
    let status = fstat(&file).map_err(Unread)?;
    if kind(&status) == Found::File && !is_memory(&status) {
        return Err(Unread(Errno::EINVAL));
    }
    Ok(ftruncate(&file, length))
}

/// Binds one of the app's sockets without imrun's own rights. With them the app could get a privileged
/// port in the host's network, or privileged netlink messages.
fn bind(caller: &Caller, number: i32, address: &[u8]) -> nix::Result<()> {
    let socket = descriptor_of(caller.pid(), || caller.process(), number)?;
    let address = with_port_id(address, || caller.process_inside());
    unprivileged(|| socket::bind(socket.as_fd(), &address))?
}

/// Completes a netlink address without a port id: the kernel would take the id of the process that binds,
/// which is imrun's (netlink(7), struct sockaddr_nl).
fn with_port_id(address: &[u8], process: impl FnOnce() -> Option<u32>) -> Cow<'_, [u8]> {
    const FAMILY: [u8; 2] = (libc::AF_NETLINK as u16).to_ne_bytes();
    let mut address = Cow::Borrowed(address);
    if address.starts_with(&FAMILY)
        && address.get(4..8) == Some(&[0; 4])
        && let Some(id) = process()
    {
        address.to_mut()[4..8].copy_from_slice(&id.to_ne_bytes());
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netlink_socket_gets_the_port_id_of_the_app() {
        let netlink = [16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        let mut bound = netlink;
        bound[4..8].copy_from_slice(&7u32.to_ne_bytes());
        assert_eq!(*with_port_id(&netlink, || Some(7)), bound);
        assert_eq!(*with_port_id(&bound, || Some(9)), bound);
        let other = [2, 0, 0, 80, 0, 0, 0, 0];
        assert_eq!(*with_port_id(&other, || Some(7)), other);
        assert_eq!(*with_port_id(&netlink[..6], || Some(7)), netlink[..6]);
    }
    use crate::runtime::observe::walk::walk;
    use std::path::Path;

    fn open_as(path: &str, flags: i32) -> nix::Result<OwnedFd> {
        let caller = Caller::new(std::process::id() as i32);
        let target = walk(&caller, Path::new("/"), path.as_bytes(), true).unwrap();
        reopen(&caller, &target, flags)
    }

    #[test]
    fn a_device_is_opened_with_the_requested_flags() {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
        let file = open_as("/dev/null", flags).unwrap();
        let got = fcntl(&file, FcntlArg::F_GETFL).unwrap();
        assert_eq!(got & libc::O_ACCMODE, libc::O_WRONLY);
        assert_eq!(got & libc::O_APPEND, libc::O_APPEND);
        assert_eq!(got & libc::O_NONBLOCK, 0);
        nix::unistd::write(&file, b"x").unwrap();
        let file = open_as("/dev/zero", libc::O_RDWR | libc::O_NONBLOCK).unwrap();
        let got = fcntl(&file, FcntlArg::F_GETFL).unwrap();
        assert_eq!(got & libc::O_NONBLOCK, libc::O_NONBLOCK);
        assert_eq!(open_as("/dev/tty", libc::O_RDWR).unwrap_err(), Errno::ENXIO);
    }

    #[test]
    fn pipes_and_memory_can_be_reopened_but_no_file_with_a_name() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let again = |fd: i32, flags| open_as(&format!("/proc/self/fd/{fd}"), flags);
        again(writer.as_raw_fd(), libc::O_WRONLY).unwrap();
        let flags = nix::sys::memfd::MFdFlags::empty();
        let memory = nix::sys::memfd::memfd_create(c"memory", flags).unwrap();
        let file = again(memory.as_raw_fd(), libc::O_RDWR).unwrap();
        nix::unistd::write(&file, b"xyz").unwrap();
        assert_eq!(fstat(&memory).unwrap().st_size, 3);
        again(memory.as_raw_fd(), libc::O_WRONLY | libc::O_TRUNC).unwrap();
        assert_eq!(fstat(&memory).unwrap().st_size, 0);

        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(open_as(path, libc::O_WRONLY).unwrap_err(), Errno::EACCES);
        assert_eq!(
            open_as(path, libc::O_RDONLY | libc::O_TRUNC).unwrap_err(),
            Errno::EACCES
        );
        for path in [path, "/proc/self/status"] {
            let file = open_as(path, libc::O_RDONLY | libc::O_CREAT);
            assert_eq!(file.unwrap_err(), Errno::EACCES, "it is of no image");
        }
    }

    #[test]
    fn a_file_with_a_name_is_not_truncated() {
        let caller = Caller::new(std::process::id() as i32);
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        std::io::Write::write_all(&mut file, b"text").unwrap();
        let named = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let outcome = truncate(&caller, named.as_raw_fd(), 0);
        assert_eq!(outcome, Err(Unread(Errno::EINVAL)));
        assert_eq!(truncate(&caller, file.as_raw_fd(), 1), Ok(Ok(())));
    }
}
