//! Second line of defence: even if a mount were writable, Landlock denies writes.
//!
//! It also denies execution of files outside the root. Otherwise an entrypoint or interpreter
//! `/proc/self/exe` would run imrun's own file inside the container (CVE-2019-5736).
//!
//! imrun makes the three system calls directly: the crate for them would bring three other crates.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::landlock::{self, Access, Handled};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

// linux/landlock.h: LANDLOCK_ACCESS_FS_* and LANDLOCK_SCOPE_*.
const EXECUTE: Access = 1;
const WRITE_FILE: Access = 1 << 1;
/// Removal and creation of directory entries of every kind.
const DIRECTORIES: Access = 0x1ff << 4;
const REFER: Access = 1 << 13;
const TRUNCATE: Access = 1 << 14;
const ABSTRACT_SOCKETS: u64 = 1;
const SIGNALS: u64 = 1 << 1;

/// Device nodes that the app may write.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Makes a ruleset that denies every kind of write, and of reaching out of the container, that this
/// kernel's Landlock can handle.
///
/// `root` and `dev`, the directory with the device nodes, need not be attached: a rule covers everything
/// beneath a directory, wherever it is mounted.
///
/// # Errors
/// The kernel has no Landlock, or it is disabled.
pub(super) fn ruleset(root: BorrowedFd<'_>, dev: BorrowedFd<'_>) -> Result<OwnedFd> {
    let version = landlock::version().map_err(missing)?;
    let since = |first, rights| if version >= first { rights } else { 0 };
    let handled = Handled {
        files: EXECUTE | WRITE_FILE | DIRECTORIES | since(2, REFER) | since(3, TRUNCATE),
        network: 0,
        scopes: since(6, ABSTRACT_SOCKETS | SIGNALS),
    };
    let ruleset = landlock::create(&handled).context(|| "landlock_create_ruleset()")?;
    landlock::allow(ruleset.as_fd(), root, EXECUTE)
        .context(|| "landlock_add_rule(root, LANDLOCK_ACCESS_FS_EXECUTE)")?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    for name in DEVICES {
        let device =
            openat2(dev, name, how).context(|| format!("openat2(/dev, {name:?}, O_PATH)"))?;
        landlock::allow(ruleset.as_fd(), device.as_fd(), WRITE_FILE)
            .context(|| format!("landlock_add_rule({name:?}, LANDLOCK_ACCESS_FS_WRITE_FILE)"))?;
    }
    Ok(ruleset)
}

fn missing(errno: Errno) -> Error {
    let error = Error::unsupported(
        "Landlock",
        format_args!("this kernel has none: {}", errno.desc()),
    );
    match errno {
        Errno::EOPNOTSUPP => error.hint("add landlock to the kernel's lsm= list"),
        _ => error.hint(
            "imrun needs a kernel with CONFIG_SECURITY_LANDLOCK and landlock in its lsm= list",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::fs::{self, OpenOptions};
    use std::io::ErrorKind::PermissionDenied;
    use std::process::{Command, Stdio};

    /// Runs `attempt` under the ruleset, in a thread of its own. The host's root has the device nodes,
    /// too.
    fn restricted<T: Send>(root: &'static str, attempt: impl FnOnce() -> T + Send) -> T {
        let attempt = || {
            let root = nix::fcntl::open(root, OFlag::O_PATH, Mode::empty()).unwrap();
            let dev = nix::fcntl::open("/dev", OFlag::O_PATH, Mode::empty()).unwrap();
            let ruleset = ruleset(root.as_fd(), dev.as_fd()).unwrap();
            nix::sys::prctl::set_no_new_privs().unwrap();
            landlock::restrict(ruleset.as_fd()).unwrap();
            attempt()
        };
        std::thread::scope(|scope| scope.spawn(attempt).join().unwrap())
    }

    #[test]
    fn writes_are_denied_even_on_a_writable_mount() {
        if landlock::version().is_err() {
            return eprintln!("skipped: there is no Landlock here");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "x").unwrap();
        restricted("/", || {
            let refused = [
                fs::write(path("new"), ""),
                OpenOptions::new().append(true).open(path("file")).map(drop),
                fs::create_dir(path("directory")),
                fs::remove_file(path("file")),
                fs::rename(path("file"), path("other")),
                std::os::unix::fs::symlink("x", path("link")),
                std::os::unix::net::UnixListener::bind(path("socket")).map(drop),
            ];
            for (number, outcome) in refused.into_iter().enumerate() {
                assert_eq!(outcome.unwrap_err().kind(), PermissionDenied, "{number}");
            }
            assert_eq!(fs::read(path("file")).unwrap(), b"x");
        });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    /// truncate(2) needs no descriptor that is open for writing.
    #[test]
    fn a_file_is_not_truncated_by_its_path() {
        if landlock::version().map_or(0, |version| version) < 3 {
            return eprintln!("skipped: Landlock knows no truncation here");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "x").unwrap();
        let outcome = restricted("/", || nix::unistd::truncate(file.path(), 0));
        assert_eq!(outcome, Err(Errno::EACCES));
        assert_eq!(fs::read(file.path()).unwrap(), b"x");
    }

    #[test]
    fn no_signal_and_no_abstract_socket_reaches_out_of_the_container() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
        if landlock::version().map_or(0, |version| version) < 6 {
            return eprintln!("skipped: Landlock knows no scopes here");
        }
        let mut sleep = Command::new("/bin/sleep");
        // A reader of the tests' output does not wait for this process if a test fails.
        sleep.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = sleep.arg("1000").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let name = format!("imrun-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let (killed, connected) = restricted("/", || {
            let killed = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
            (killed, UnixStream::connect_addr(&address).map(drop))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(killed, Err(Errno::EPERM));
        assert_eq!(connected.unwrap_err().kind(), PermissionDenied);
    }

    #[test]
    fn devices_and_pipes_can_be_written_and_programs_of_the_root_run() {
        if landlock::version().is_err() {
            return eprintln!("skipped: there is no Landlock here");
        }
        restricted("/", || {
            fs::write("/dev/null", "x").unwrap();
            let (_read, write) = std::io::pipe().unwrap();
            fs::write(
                format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&write)),
                "x",
            )
            .unwrap();
            assert!(Command::new("/bin/true").status().unwrap().success());
        });
    }
}
