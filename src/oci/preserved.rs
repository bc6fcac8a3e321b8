//! Descriptors that the app gets from the caller: `--preserve-fds`, and the sockets of a service manager
//! (sd_listen_fds(3)).
//!
//! Only sockets and anonymous pipes are passed on: other descriptors, named pipes among them, would give access to the
//! host's files.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use crate::runtime::env::Environment;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{FsType, fstatfs};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

/// First descriptor after the standard streams.
const FIRST_NUMBER: u32 = 3;
/// File system of anonymous pipes (linux/magic.h).
const PIPEFS_MAGIC: FsType = FsType(0x5049_5045);
/// File system of sockets (linux/magic.h).
const SOCKFS_MAGIC: FsType = FsType(0x534f_434b);
/// Maximum number of descriptors.
const MAX_COUNT: u32 = 1024;

/// Descriptors for the app, numbered from 3 as the caller passed them.
#[derive(Default)]
pub struct Preserved {
    descriptors: Vec<OwnedFd>,
    kinds: Vec<&'static str>,
    /// Number of descriptors from a service manager; they come first.
    from_service_manager: u32,
}

impl Preserved {
    /// Takes over the descriptors of a service manager and `count` more, and closes all others.
    ///
    /// Must run first in `main`, before this program opens a descriptor.
    ///
    /// # Errors
    /// A descriptor is not open, or is neither a socket nor a pipe.
    pub fn take(count: u32) -> Result<Preserved> {
        let from_service_manager = from_service_manager()?;
        let end = count
            .checked_add(from_service_manager)
            .filter(|count| *count <= MAX_COUNT)
            .map(|count| count + FIRST_NUMBER)
            .ok_or_else(|| {
                Error::usage(
                    format_args!("--preserve-fds {count}"),
                    format_args!("expected at most {MAX_COUNT} descriptors"),
                )
            })?;
        process::close_inherited(end, u32::MAX)
            .context(|| format!("close_range({end}, {})", u32::MAX))?;
        let mut preserved = Preserved {
            from_service_manager,
            ..Preserved::default()
        };
        for number in FIRST_NUMBER..end {
            preserved.add(number)?;
        }
        Ok(preserved)
    }

    fn add(&mut self, number: u32) -> Result<()> {
        let what = || format!("--preserve-fds: descriptor {number}");
        let descriptor = match process::take_over(number) {
            Err(Errno::EBADF) => return Err(Error::usage(what(), "is not open")),
            taken => taken.context(what)?,
        };
        let kind = kind(&descriptor).context(what)?;
        self.kinds.push(kind.map_err(|why| {
            Error::policy(what(), why)
                .hint("a container gets no access to files or devices of the host")
        })?);
        self.descriptors.push(descriptor);
        Ok(())
    }

    /// Returns the type of each descriptor: `socket` or `pipe`.
    pub fn kinds(&self) -> &[&'static str] {
        &self.kinds
    }

    /// Sets the variables that announce a service manager's descriptors to the app (sd_listen_fds(3)).
    pub fn announce(&self, environment: &mut Environment) -> Result<()> {
        if self.from_service_manager == 0 {
            return Ok(());
        }
        let mut set =
            |name: &str, value: &OsStr| environment.set("sd_listen_fds", OsStr::new(name), value);
        set(
            "LISTEN_FDS",
            OsStr::new(&self.from_service_manager.to_string()),
        )?;
        set("LISTEN_PID", OsStr::new("1"))?;
        match std::env::var_os("LISTEN_FDNAMES") {
            Some(names) => set("LISTEN_FDNAMES", &names),
            None => Ok(()),
        }
    }

    /// Closes this process's copies.
    pub fn close(&mut self) {
        self.descriptors.clear();
    }
}

/// Returns the type of a descriptor, or the reason why the app must not have it.
///
/// The type in the inode is not enough: named pipes and sockets in a directory have it, too, and through them the app
/// could change a file of the host.
fn kind(descriptor: &OwnedFd) -> nix::Result<std::result::Result<&'static str, &'static str>> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_PATH) {
        return Ok(Err("is a path, opened with O_PATH"));
    }
    let mode = fstat(descriptor)?.st_mode;
    let is_pipe = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == SFlag::S_IFIFO;
    Ok(match fstatfs(descriptor)?.filesystem_type() {
        SOCKFS_MAGIC => Ok("socket"),
        PIPEFS_MAGIC => Ok("pipe"),
        _ if is_pipe => Err("is a named pipe, which is a file of the host"),
        _ => Err("is neither a socket nor a pipe"),
    })
}

/// Returns the number of descriptors that a service manager passed to this process.
fn from_service_manager() -> Result<u32> {
    let own = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    match std::env::var("LISTEN_FDS") {
        Ok(count) if own => count
            .parse()
            .map_err(|_| Error::usage("LISTEN_FDS", "is not a number")),
        _ => Ok(0),
    }
}
