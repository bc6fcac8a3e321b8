//! Descriptors of the caller's that the app gets: `--preserve-fds`, and those of a service manager
//! (sd_listen_fds(3)).
//!
//! Only what is no way to a file: a connection or a pipe that the host has opened for the app.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use crate::runtime::env::Environment;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

/// The first number that is not a standard stream's.
const FIRST_NUMBER: u32 = 3;
/// More are a mistake.
const MAX_COUNT: u32 = 1024;

/// They keep their numbers, from 3 on.
#[derive(Default)]
pub struct Preserved {
    descriptors: Vec<OwnedFd>,
    kinds: Vec<&'static str>,
    /// How many of them are a service manager's; those come first.
    from_service_manager: u32,
}

impl Preserved {
    /// Takes over `count` descriptors, after those that a service manager passed, and closes all others.
    ///
    /// Called first thing in `main`, when no descriptor above standard error is this program's own.
    ///
    /// # Errors
    /// One is not open, or is a way to a file.
    pub fn take(count: u32) -> Result<Preserved> {
        let from_service_manager = from_service_manager()?;
        let end = count
            .checked_add(from_service_manager)
            .filter(|count| *count <= MAX_COUNT)
            .map(|count| count + FIRST_NUMBER)
            .ok_or_else(|| {
                Error::usage(
                    format_args!("--preserve-fds {count}"),
                    format_args!("is more than {MAX_COUNT}"),
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
        let mode = fstat(&descriptor).context(what)?.st_mode;
        self.kinds.push(
            match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFSOCK => "socket",
                SFlag::S_IFIFO => "pipe",
                _ => {
                    return Err(Error::policy(what(), "is neither a socket nor a pipe")
                        .hint("a container holds no way to a file or a device of the host's"));
                }
            },
        );
        self.descriptors.push(descriptor);
        Ok(())
    }

    /// What they are.
    pub fn kinds(&self) -> &[&'static str] {
        &self.kinds
    }

    /// Tells the app of those that a service manager passed, as that told this process.
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

    /// Closes them here: the app has its own by now.
    pub fn close(&mut self) {
        self.descriptors.clear();
    }
}

/// How many a service manager passed to this very process.
fn from_service_manager() -> Result<u32> {
    let own = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    match std::env::var("LISTEN_FDS") {
        Ok(count) if own => count
            .parse()
            .map_err(|_| Error::usage("LISTEN_FDS", "is not a number")),
        _ => Ok(0),
    }
}
