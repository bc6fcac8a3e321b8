//! From a verified root to a running app: namespaces, mounts, privileges, execve(2).
//!
//! [`prepare`] clones a child that builds its world and stops in front of execve; the caller then
//! waits for the sink to acknowledge the launch record, and [`Prepared::execute`] lets it go.
#![forbid(unsafe_code)]

mod child;
mod host_file;
mod landlock;
mod mask;
mod network;
mod sysctl;

use crate::capabilities::Capabilities;
use crate::error::{Context, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Error, Result};
use crate::seccomp::Policy;
use crate::sys::mount;
use crate::sys::process::{self, Cloned, Pointers};
use crate::sys::seccomp;
use crate::user::IDS;
use child::{Failure, Step};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub use network::{Attachment, Network};

/// Everything that decides how the app starts, checked and in the kernel's own form.
pub struct Spec {
    /// The program's arguments, its name first.
    pub args: Pointers,
    /// `NAME=VALUE` strings.
    pub env: Pointers,
    /// The paths at which the program is looked for, in order.
    pub candidates: Vec<CString>,
    /// The working directory, in the root.
    pub workdir: CString,
    /// The host's name in the container.
    pub hostname: CString,
    /// The user id, in the container.
    pub uid: u32,
    /// The group id, in the container.
    pub gid: u32,
    /// The supplementary groups, in the container.
    pub groups: Vec<u32>,
    /// What it may do beyond its user's rights.
    pub capabilities: Capabilities,
    /// Which network it sees.
    pub network: Attachment,
    /// What becomes its standard input: a pipe of imrun's own; /dev/null without.
    pub stdin: Option<OwnedFd>,
}

/// What keeps the app from calls and writes that its mounts and namespaces would let it try.
struct Walls {
    ruleset: OwnedFd,
    filter: Vec<libc::sock_filter>,
}

impl Walls {
    fn new(root: BorrowedFd<'_>) -> Result<Walls> {
        seccomp::knows(libc::SECCOMP_RET_KILL_PROCESS).map_err(|errno| {
            Error::unsupported(
                "seccomp",
                format_args!("this kernel cannot filter: {}", errno.desc()),
            )
            .hint("it takes Linux 4.14 with CONFIG_SECCOMP_FILTER")
        })?;
        Ok(Walls {
            ruleset: landlock::ruleset(root)?,
            filter: Policy::container().compile(),
        })
    }
}

/// A container that stands in front of its execve(2).
///
/// Dropping it ends the child: it dies with its channel.
pub struct Prepared {
    /// The app's process id.
    pub pid: Pid,
    /// Refers to the app.
    pub pidfd: OwnedFd,
    /// The reading end of its standard output.
    pub stdout: OwnedFd,
    /// The reading end of its standard error.
    pub stderr: OwnedFd,
    channel: OwnedFd,
    program: String,
}

/// Clones the child and waits until its mounts stand and are proven read-only.
///
/// `root` is a detached mount, which gets the container's ids here; `stage` is a directory of the
/// host that the child, in its own mount namespace, mounts the root on before it changes to it.
///
/// # Errors
/// The failing call of either process; nothing of the image ran, and the child is gone.
pub fn prepare(
    spec: &Spec,
    root: BorrowedFd<'_>,
    stage: &Path,
    first_id: u32,
    cgroup: BorrowedFd<'_>,
) -> Result<Prepared> {
    let (uid, gid) = (first_id + spec.uid, first_id + spec.gid);
    let (stdout, child_stdout) = pipe(uid, gid)?;
    let (stderr, child_stderr) = pipe(uid, gid)?;
    if let Some(stdin) = &spec.stdin {
        give(stdin, uid, gid)?;
    }
    let (channel, child_channel) = socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
    let binds = spec.network.binds(stage)?;
    let walls = Walls::new(root)?;
    let stage = CString::new(stage.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::usage(format_args!("{stage:?}"), "has a NUL byte"))?;
    let world = child::World {
        spec,
        root,
        stage: &stage,
        binds: &binds,
        walls: &walls,
        stdout: child_stdout.as_fd(),
        stderr: child_stderr.as_fd(),
        channel: child_channel.as_fd(),
        parent_channel: channel.as_raw_fd(),
    };
    let flags = child::NAMESPACES | spec.network.clone_flag();
    let home = spec.network.enter()?;
    let cloned = match process::clone3(flags, cgroup) {
        Ok(Cloned::Child) => child::run(&world),
        Ok(Cloned::Parent { pid, pidfd }) => Ok((pid, pidfd)),
        Err(errno) => Err(clone_failed(flags, errno)),
    };
    home.leave()?;
    let (pid, pidfd) = cloned?;
    let program = spec.args.strings()[0].to_string_lossy().into_owned();
    let prepared = Prepared {
        pid,
        pidfd,
        stdout,
        stderr,
        channel,
        program,
    };
    drop(child_channel);
    map_ids(pid, first_id)?;
    idmap(pid, root)?;
    prepared.signal(child::MAPPED)?;
    prepared.await_ready()?;
    assert_read_only(pid, &spec.network.mount_points())?;
    Ok(prepared)
}

impl Prepared {
    /// Lets the child execute the program, and waits until it did.
    ///
    /// # Errors
    /// Exit code 127 when the program is not there, 126 when it cannot be executed.
    pub fn execute(&self) -> Result<()> {
        self.signal(child::GO)?;
        match self.receive()? {
            None => Ok(()), // closed on exec
            Some(failure) => Err(self.explain(failure)),
        }
    }

    fn signal(&self, message: u8) -> Result<()> {
        match socket::send(self.channel.as_raw_fd(), &[message], MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            // The child failed before it read this; what it said is still there.
            Err(Errno::EPIPE | Errno::ECONNRESET) => match self.receive()? {
                Some(failure) => Err(self.explain(failure)),
                None => Err(died()),
            },
            Err(errno) => Err(errno).context(|| "send(channel)"),
        }
    }

    fn await_ready(&self) -> Result<()> {
        match self.receive()? {
            Some(Failure {
                step: Step::Ready, ..
            }) => Ok(()),
            Some(failure) => Err(self.explain(failure)),
            None => Err(died()),
        }
    }

    /// The child's next message; None when it closed its end.
    fn receive(&self) -> Result<Option<Failure>> {
        let mut message = [0; Failure::SIZE];
        loop {
            match socket::recv(self.channel.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(Failure::decode(message))),
                // A child that ended without reading all resets the channel, once: what it said
                // before that comes next.
                Err(Errno::EINTR | Errno::ECONNRESET) => continue,
                Err(errno) => return Err(errno).context(|| "recv(channel)"),
            }
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        let why = failure.errno.desc();
        match (failure.step, failure.errno) {
            (Step::Execute, Errno::ENOENT) => Error::usage(format_args!("entrypoint {:?}", self.program), "is not in the image, or its interpreter is not")
                .hint("imrun inspect DIGEST shows entrypoint, command and PATH; --entrypoint names another program")
                .exit(EXIT_NOT_FOUND),
            (Step::Execute, _) => {
                Error::usage(format_args!("entrypoint {:?}", self.program), format_args!("cannot be executed: {why}"))
                    .exit(EXIT_NOT_EXECUTABLE)
            }
            (Step::WorkingDirectory, _) => Error::usage("working directory", format_args!("{why}: the image has no such directory, or the user may not enter it"))
                .hint("--workdir names another one; imrun makes no directory in a root"),
            (step, _) => Error::system(step.call(), why),
        }
    }
}

fn died() -> Error {
    Error::system("child", "ended before it was ready")
}

fn clone_failed(flags: u64, errno: Errno) -> Error {
    let error = Error::system(
        format_args!("clone3({flags:#x}|CLONE_INTO_CGROUP)"),
        errno.desc(),
    );
    match errno {
        Errno::EPERM => error.hint("launching takes root"),
        Errno::ENOSPC | Errno::EUSERS => {
            error.hint("a limit of /proc/sys/user/max_*_namespaces is reached")
        }
        _ => error,
    }
}

fn pipe(uid: u32, gid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")?;
    give(&write, uid, gid)?;
    Ok((read, write))
}

/// Lets the container's user open a pipe again, through /dev/stdin or /dev/stdout.
fn give(pipe: &OwnedFd, uid: u32, gid: u32) -> Result<()> {
    nix::unistd::fchown(pipe, Some(uid.into()), Some(gid.into()))
        .context(|| format!("fchown(pipe, {uid}, {gid})"))
}

fn map_ids(pid: Pid, first_id: u32) -> Result<()> {
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, format!("0 {first_id} {IDS}"))
            .context(|| format!("write({path:?})"))?;
    }
    Ok(())
}

fn idmap(pid: Pid, root: BorrowedFd<'_>) -> Result<()> {
    let path = format!("/proc/{pid}/ns/user");
    let namespace = open(
        path.as_str(),
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("open({path:?})"))?;
    mount::idmap(root, namespace.as_fd()).context(|| "mount_setattr(root, MOUNT_ATTR_IDMAP)")
}

/// Refuses a container whose mount table is not exactly `expected`, and covers, all of it read-only.
fn assert_read_only(pid: Pid, expected: &[&str]) -> Result<()> {
    let path = format!("/proc/{pid}/mountinfo");
    let table = std::fs::read_to_string(&path).context(|| format!("read({path:?})"))?;
    check_mounts(&table, expected)
}

/// `table` in the form of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
fn check_mounts(table: &str, expected: &[&str]) -> Result<()> {
    let mut found = Vec::new();
    for line in table.lines() {
        let mut fields = line.split(' ').skip(4);
        let (Some(point), Some(options)) = (fields.next(), fields.next()) else {
            return Err(Error::system(
                "mountinfo",
                format_args!("malformed line {line:?}"),
            ));
        };
        if !options.split(',').any(|option| option == "ro") {
            return Err(Error::system(
                format_args!("mount {point:?}"),
                "is not read-only in the container",
            ));
        }
        if !mask::covers(point) {
            found.push(point);
        }
    }
    found.sort_unstable();
    if found != expected {
        return Err(Error::system(
            "mount table",
            format_args!("has {found:?}, not {expected:?}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
30 20 0:30 / / ro,nosuid - erofs none ro
31 30 0:31 / /proc ro,nosuid,nodev,noexec - proc none rw
";

    #[test]
    fn a_mount_table_passes_only_when_it_is_the_expected_one_and_all_read_only() {
        check_mounts(TABLE, &["/", "/proc"]).unwrap();
        let extra = check_mounts(TABLE, &["/"]).unwrap_err();
        assert_eq!(extra.what, "mount table");
        let missing = check_mounts(TABLE, &["/", "/proc", "/sys"]).unwrap_err();
        assert_eq!(missing.what, "mount table");
        let writable = TABLE.replace("/proc ro", "/proc rw");
        assert!(
            check_mounts(&writable, &["/", "/proc"])
                .unwrap_err()
                .what
                .contains("/proc")
        );
        assert!(check_mounts("garbage", &[]).is_err());
    }
}
