//! Starts an app in a verified root: namespaces, mounts, privileges, execve(2).
//!
//! ```text
//! start ─┬─ cloner thread: clone ────────── waits for its child until execve ─────────── ends
//!        │      child:     its own proc, sysfs, cgroup2 ── root, privileges ── waits ── execve
//!        └─ prepare:       prepares the ContainerSetup ┘                      └ sends GO
//! ```
//! [`start`] clones a child. The child prepares everything that is the same for every container, while
//! `prepare` determines the rest in this thread. [`ClonedChild::prepare`] sends the result to the child
//! and waits until the child is ready for execve; [`Prepared::execute`] lets it continue.
#![forbid(unsafe_code)]

mod child;
mod error_names;
mod host_file;
mod landlock;
mod mask;
mod mount_table;
mod namespace;
mod network;
pub mod reaper;
mod resources;
mod root_source;
mod sysctl;
mod unpacked;

use crate::base::error::{Context, Error, Result};
use crate::base::ids;
use crate::base::sys::guard::Guard;
use crate::base::sys::process::Pointers;
use crate::base::sys::seccomp::Listener;
use crate::base::sys::{clone, process, seccomp, socket as descriptors};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::id_map::Ids;
use crate::runtime::observe::calls;
use crate::runtime::rootless;
use crate::runtime::seccomp::{Policy, Watch};
use child::{ChildArgs, ContainerSetup, Failure, Step};
use error_names::ErrorNames;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{self, AddressFamily, Shutdown, SockFlag, SockType, shutdown};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, fchown};
use resources::Resources;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use mask::is_mask;
pub use namespace::{host_name_of, open_namespace};
pub use network::{Attachment, NameFile, Network};
pub use resources::{Rlimit, Scheduler};
pub use root_source::RootSource;
pub use sysctl::{Setting, close_ipc};
pub use unpacked::try_overlay;

/// Complete description of how the app starts: checked, and in the form that the kernel takes.
pub struct Spec {
    /// Arguments of the program; the first is its name.
    pub args: Pointers,
    /// Environment, as `NAME=VALUE` strings.
    pub env: Pointers,
    /// Arguments of the process 1 in front of the app, if there is one.
    pub init: Option<Pointers>,
    /// Paths of the program, tried in order.
    pub candidates: Vec<CString>,
    /// Working directory in the container.
    pub workdir: CString,
    /// Host name in the container.
    pub hostname: CString,
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Supplementary groups in the container.
    pub groups: Vec<u32>,
    /// Capabilities of the app.
    pub capabilities: Capabilities,
    /// True if the seccomp filter notifies imrun of calls that would change a file system.
    pub observed: bool,
    /// True if the app's exit waits until imrun has passed on its output. Needed if another process reaps
    /// the app.
    pub relayed: bool,
    /// Absolute paths that are masked in addition to those that always are.
    pub masked: Vec<CString>,
    /// Settings that only a bundle changes.
    pub settings: Settings,
    /// True if the settings come from a config.json: errors then name its fields.
    pub from_bundle: bool,
}

/// Settings of the app's process that only a bundle changes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// File mode creation mask (umask(2)).
    pub umask: u32,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// CPU scheduling policy; `None` inherits imrun's.
    pub scheduler: Option<Scheduler>,
    /// I/O scheduling class and priority (ioprio_set(2)); `None` inherits imrun's.
    pub io_priority: Option<(i32, i32)>,
    /// Execution domain (personality(2)).
    pub personality: u64,
    /// OOM score adjustment (proc_pid_oom_score_adj(5)); `None` inherits imrun's.
    pub oom_score_adj: Option<i32>,
    /// NIS domain name in the container.
    pub domainname: Option<CString>,
    /// Sysctls of the container's namespaces, applied after imrun's own.
    pub sysctls: Vec<Setting>,
    /// Seccomp filter of the bundle, in addition to imrun's.
    pub filter: Option<Filter>,
    /// Number of imrun's descriptors, from 3 on, that stay open.
    pub descriptors: i32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            umask: 0o022,
            rlimits: Vec::new(),
            scheduler: None,
            io_priority: None,
            personality: 0,
            oom_score_adj: None,
            domainname: None,
            sysctls: Vec::new(),
            filter: None,
            descriptors: 0,
        }
    }
}

/// Seccomp filter that a bundle brings.
#[derive(Debug, Clone)]
pub struct Filter {
    /// BPF program.
    pub program: Vec<libc::sock_filter>,
    /// True if the filter has a listener. An agent then receives that listener; imrun's own filter has
    /// none.
    pub has_listener: bool,
}

/// Restrictions on the app beyond its mounts and namespaces: Landlock and seccomp.
struct Confinement {
    ruleset: OwnedFd,
    filter: Vec<libc::sock_filter>,
}

impl Confinement {
    fn new(
        root: BorrowedFd<'_>,
        dev: BorrowedFd<'_>,
        observed: bool,
        relayed: bool,
    ) -> Result<Confinement> {
        seccomp::knows(libc::SECCOMP_RET_KILL_PROCESS).map_err(|errno| {
            Error::unsupported(
                "seccomp",
                format_args!("this kernel cannot filter: {}", errno.desc()),
            )
            .hint("imrun needs Linux 4.14 with CONFIG_SECCOMP_FILTER")
        })?;
        let mut policy = Policy::container();
        if !has_memfd_sysctl()? {
            policy = policy.without_executable_memory();
        }
        if observed {
            policy = policy.watch(calls::watched());
        }
        if relayed {
            policy = policy.watch([(calls::EXIT, Watch::Always)]);
        }
        Ok(Confinement {
            ruleset: landlock::ruleset(root, dev)?,
            filter: policy.compile(),
        })
    }
}

/// Options of the clone.
pub struct CloneOptions<'a> {
    /// Network of the container.
    pub network: &'a Attachment,
    /// Pipe that becomes the app's standard input; `None` gives it /dev/null.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Cgroup that the child is cloned into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// True if the app becomes a child of this process's parent, which then reads its exit status.
    pub adopted: bool,
    /// True if the app has a process 1 in front of it.
    pub init: bool,
    /// Host user who owns the app's user namespace. The kernel charges per-user limits (inotify instances
    /// and the like) to this user. `None`: this process's user.
    pub owner: Option<u32>,
}

/// Clones the child in another thread, which waits until the child executes the app or ends. Meanwhile
/// `prepare` prepares the container in this thread.
///
/// The app ends when the calling thread does, through its [`Guard`].
///
/// # Errors
/// The error of `prepare`, or of the system call that failed. In both cases nothing of the image ran, and
/// the child is gone.
pub fn start<T>(
    options: &CloneOptions<'_>,
    prepare: impl FnOnce(ClonedChild<'_>) -> Result<T>,
) -> Result<T> {
    let CloneOptions {
        network,
        stdin,
        adopted,
        ..
    } = *options;
    let ((stdout, child_stdout), (stderr, child_stderr)) = (pipe()?, pipe()?);
    let (channel, child_channel) = socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
    let init = options.init.then(reaper::open).transpose()?;
    let (child_pidfd, setup) = (clone::ChildPidfd::pending(), OnceLock::new());
    let args = ChildArgs {
        own_network: network.owned(),
        own_ipc: !ids::is_ordinary()?,
        sets_memfd: has_memfd_sysctl()?,
        sets_groups: rootless::may_set_groups()?,
        owner: options.owner,
        stdin: stdin.map(|stdin| stdin.as_raw_fd()),
        stdout: child_stdout.as_raw_fd(),
        stderr: child_stderr.as_raw_fd(),
        channel: child_channel.as_raw_fd(),
        parent_channel: channel.as_raw_fd(),
        init: init.as_ref().map(AsRawFd::as_raw_fd),
        setup: &setup,
    };
    // Kept until the child is gone: if the start fails, the guard's end would hide the reason.
    let guard = Arc::new(Guard::new().context(|| "pipe2(), clone3(CLONE_VM|CLONE_NEWPID)")?);
    let namespace = guard
        .pidfd()
        .try_clone_to_owned()
        .context(|| "dup(guard)")?;
    let child_channel = Mutex::new(Some(child_channel));
    let child = ClonedChild {
        child_pidfd: &child_pidfd,
        setup: &setup,
        child_channel: &child_channel,
        network,
        adopted,
        init: options.init,
        stdin,
        ends: [child_stdout.as_fd(), child_stderr.as_fd()],
        stdout,
        stderr,
        channel,
        owner: options.owner,
        guard: guard.clone(),
    };
    let clone = || {
        let cloned = clone_child(options, &namespace, &child_pidfd, &args);
        // Closing it wakes a thread that waits for a child that does not exist or ended at once.
        close(&child_channel);
        cloned
    };
    std::thread::scope(|scope| {
        let cloner = std::thread::Builder::new()
            .name("cloner".into())
            .spawn_scoped(scope, clone)
            .context(|| "clone(thread)")?;
        let prepared = prepare(child);
        let cloned = cloner
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        cloned.and(prepared)
    })
}

/// Clones the child, and returns when it has executed the app or ended. This thread enters namespaces,
/// which affects no other thread; it ends afterwards.
fn clone_child(
    options: &CloneOptions<'_>,
    namespace: &OwnedFd,
    child_pidfd: &clone::ChildPidfd,
    args: &ChildArgs<'_>,
) -> Result<()> {
    let ipc = if args.own_ipc { child::IPC } else { 0 };
    options.network.enter()?;
    setns(namespace, CloneFlags::CLONE_NEWPID).context(|| "setns(CLONE_NEWPID)")?;
    let request = clone::Request {
        namespaces: child::NAMESPACES | ipc | options.network.clone_flag(),
        adopted: options.adopted,
        cgroup: options.cgroup,
        before: child::before,
        child: child::run,
        argument: args,
    };
    clone::clone_and_wait(&request, child_pidfd)
        .map_err(|errno| clone_failed(request.namespaces, errno))
}

/// Returns true if this process can set `vm.memfd_noexec`. If not, the seccomp filter denies executable
/// memory.
fn has_memfd_sysctl() -> Result<bool> {
    Ok(!ids::is_ordinary()? && Path::new("/proc/sys/vm/memfd_noexec").exists())
}

fn close(channel: &Mutex<Option<OwnedFd>>) {
    // Poisoning does not matter: no code panics while it holds the lock.
    let mut channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
    drop(channel.take());
}

/// A cloned child that waits for its [`ContainerSetup`].
///
/// Dropping it closes its channel, which ends the child.
pub struct ClonedChild<'a> {
    child_pidfd: &'a clone::ChildPidfd,
    setup: &'a OnceLock<ContainerSetup>,
    child_channel: &'a Mutex<Option<OwnedFd>>,
    network: &'a Attachment,
    adopted: bool,
    init: bool,
    stdin: Option<BorrowedFd<'a>>,
    ends: [BorrowedFd<'a>; 2],
    stdout: OwnedFd,
    stderr: OwnedFd,
    channel: OwnedFd,
    owner: Option<u32>,
    guard: Arc<Guard>,
}

/// A container that is ready for execve(2).
///
/// Dropping it closes its channel, which ends the child.
pub struct Prepared {
    /// Process id of the app.
    pub pid: Pid,
    /// Pidfd of the app.
    pub pidfd: OwnedFd,
    /// Reading end of the app's standard output.
    pub stdout: OwnedFd,
    /// Reading end of the app's standard error.
    pub stderr: OwnedFd,
    /// Receives the notifications of the seccomp filter (seccomp_unotify(2)), if it sends any.
    pub listener: Option<Listener>,
    /// True if another process reads the app's exit status.
    pub adopted: bool,
    /// True if the process is not the app, but imrun's process 1 in front of it.
    pub init: bool,
    /// Ends the app when it is dropped or when this process dies.
    pub guard: Arc<Guard>,
    channel: OwnedFd,
    names: ErrorNames,
}

/// Returns a descriptor that becomes readable when the guard's process ends; all processes of the
/// container end with it.
pub fn guard_poll_fd(guard: &Guard) -> PollFd<'_> {
    PollFd::new(guard.pidfd(), PollFlags::POLLIN)
}

/// Returns the error for a guard that was killed.
pub fn guard_lost() -> Error {
    Error::system(
        "guard",
        "the process that ends the container along with imrun was killed",
    )
}

/// Returns the wait status of an app, which the process 1 in front of it sent before it ended; `None` if
/// that process was killed.
pub fn ending_of_app(channel: &OwnedFd) -> Result<Option<i32>> {
    // Nobody should have the other end any more; imrun does not wait if somebody has.
    nix::fcntl::fcntl(channel, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .context(|| "fcntl(channel, O_NONBLOCK)")?;
    match receive(channel) {
        Ok((Some(message), _)) if message.step == Step::Ended => Ok(Some(message.status())),
        _ => Ok(None),
    }
}

/// Work to do once the container's mounts are ready, before the child changes its root to them.
pub struct OnMounted<'a> {
    /// Directory, in the child's mount namespace, that the root is mounted on meanwhile.
    pub place: &'a Path,
    /// Function to call; the child waits until it returns.
    pub work: &'a dyn Fn(&Prepared) -> Result<()>,
}

impl ClonedChild<'_> {
    /// Sends the child its root and settings, and waits until the mounts are ready and verified to be
    /// read-only.
    ///
    /// `root_source` is mapped to the container's ids here. `stage` is a directory of the host: the child
    /// mounts the root on it, in its own mount namespace, before it changes its root. If `mounted` is
    /// given, the child waits there until its work is done.
    ///
    /// # Errors
    /// The error of the system call that failed, in either process, or of `mounted`.
    pub fn prepare(
        self,
        spec: Spec,
        root_source: &RootSource,
        stage: &Path,
        ids: &Ids,
        mounted: Option<OnMounted<'_>>,
    ) -> Result<Prepared> {
        refuse_unmapped(ids, &spec)?;
        self.make_pipes_reopenable()?;
        let binds = self.network.binds(stage)?;
        let targets: Vec<_> = binds.iter().map(|bind| bind.target).collect();
        let names = ErrorNames::of(&spec, &targets);
        let place = mounted.as_ref().map_or(stage, |mounted| mounted.place);
        let place = CString::new(place.as_os_str().as_encoded_bytes())
            .map_err(|_| Error::usage(format_args!("{place:?}"), "has a NUL byte"))?;
        let (mut mount_points, setup_cell) = (self.network.mount_points(), self.setup);
        mount_points.extend(root_source.mount_points());
        mount_points.sort_unstable();
        let (masked, resources) = (spec.masked.clone(), Resources::of(&spec, self.owner));
        let mut prepared = self.await_clone(names)?;
        prepared.map_ids(ids)?;
        prepared.set_oom_score(spec.settings.oom_score_adj)?;
        let namespace = ids
            .shifted
            .then(|| user_namespace(prepared.pid))
            .transpose()?;
        let root = root_source.prepare(namespace.as_ref().map(AsFd::as_fd), stage)?;
        let relayed = spec.observed && spec.relayed && prepared.adopted;
        let confinement = Confinement::new(root.mount(), root.devices(), spec.observed, relayed)?;
        let setup = ContainerSetup {
            spec,
            stage: place,
            has_root: ids.have_root(),
            has_devices: root.dev.is_some(),
            waits: mounted.is_some(),
            targets,
            filter: confinement.filter,
        };
        if setup_cell.set(setup).is_err() {
            unreachable!("a child is prepared once");
        }
        let sent: Vec<_> = [root.mount(), confinement.ruleset.as_fd()]
            .into_iter()
            .chain(root.dev.as_ref().map(AsFd::as_fd))
            .chain(binds.iter().map(|bind| bind.mount.as_fd()))
            .collect();
        prepared.signal(child::SETUP_SENT, &sent)?;
        prepared.await_hooks(mounted)?;
        prepared.listener = prepared.await_step(Step::Ready)?.map(Listener::new);
        resources.apply(&prepared)?;
        prepared.assert_read_only(&mount_points, &masked)?;
        Ok(prepared)
    }

    /// Sets the modes of the pipes so that the app can reopen them in the direction that it uses.
    fn make_pipes_reopenable(&self) -> Result<()> {
        for (pipe, mode) in [
            (Some(self.ends[0]), WRITE_ONLY),
            (Some(self.ends[1]), WRITE_ONLY),
            (self.stdin, READ_ONLY),
        ] {
            pipe.map_or(Ok(()), |pipe| make_reopenable(pipe, mode))?;
        }
        Ok(())
    }

    fn await_clone(self, names: ErrorNames) -> Result<Prepared> {
        let (message, _) = receive(&self.channel)?;
        let Some(pidfd) = self.child_pidfd.take() else {
            return Err(match message {
                Some(failure) => Error::system(failure.step.call(), failure.errno.desc()),
                None => died(),
            });
        };
        let pid = process::pid_of(pidfd.as_fd()).context(|| "read(\"/proc/self/fdinfo\")")?;
        // From here on, the channel closes when the child dies.
        close(self.child_channel);
        let prepared = Prepared {
            pid,
            pidfd,
            stdout: self.stdout,
            stderr: self.stderr,
            listener: None,
            adopted: self.adopted,
            init: self.init,
            guard: self.guard,
            channel: self.channel,
            names,
        };
        prepared.expect(message, Step::Cloned)?;
        Ok(prepared)
    }
}

impl Prepared {
    /// Lets the child execute the program, and waits until it has. `give` receives the listener of the
    /// bundle's filter, if that filter has one.
    ///
    /// # Errors
    /// Exit code 127 if the program does not exist, 126 if it cannot be executed; those of `give`.
    pub fn execute(&self, give: impl FnOnce(OwnedFd) -> Result<()>) -> Result<()> {
        self.signal(child::GO, &[])?;
        let message = match receive(&self.channel)? {
            (Some(message), Some(listener)) if message.step == Step::ListenerSent => {
                give(listener)?;
                self.signal(child::GO, &[])?;
                receive(&self.channel)?.0
            }
            (message, _) => message,
        };
        match message {
            None if !self.init => Ok(()), // closed on exec
            None => Err(died()),
            Some(message) if message.step == Step::Started && message.errno as i32 == 0 => Ok(()),
            Some(message) if message.step == Step::Started => Err(self.explain(Failure {
                step: Step::Execute,
                ..message
            })),
            Some(failure) => Err(self.explain(failure)),
        }
    }

    /// Returns the channel of a process 1 in front of the app, for [`ending_of_app`].
    pub fn init_channel(&self) -> Result<Option<OwnedFd>> {
        let copy = || self.channel.try_clone().context(|| "dup(channel)");
        self.init.then(copy).transpose()
    }

    /// Writes the id maps of the child's user namespace.
    fn map_ids(&self, ids: &Ids) -> Result<()> {
        let written = ids.write(self.pid);
        written.map_err(|error| self.first_failure(error))?;
        // Until execve the child shares this memory, which holds the environment. Earlier is too early:
        // the files of /proc/PID would then belong to the host's root, and an ordinary user could not map
        // ids.
        nix::sys::prctl::set_dumpable(false).context(|| "prctl(PR_SET_DUMPABLE, 0)")
    }

    fn set_oom_score(&self, score: Option<i32>) -> Result<()> {
        let Some(score) = score else {
            return Ok(());
        };
        let path = format!("/proc/{}/oom_score_adj", self.pid);
        let written = std::fs::write(&path, score.to_string());
        written.context(|| self.names.process("oomScoreAdj"))
    }

    /// Runs the work that is due once the container's mounts are ready.
    fn await_hooks(&self, mounted: Option<OnMounted<'_>>) -> Result<()> {
        let Some(mounted) = mounted else {
            return Ok(());
        };
        self.await_step(Step::Mounted)?;
        (mounted.work)(self)?;
        self.signal(child::GO, &[])
    }

    fn signal(&self, message: u8, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        match descriptors::send(self.channel.as_raw_fd(), &[message], descriptors) {
            Ok(()) => Ok(()),
            // The child failed before it read this message; its own message is still there.
            Err(Errno::EPIPE | Errno::ECONNRESET) => match receive(&self.channel)?.0 {
                Some(failure) => Err(self.explain(failure)),
                None => Err(died()),
            },
            Err(errno) => Err(errno).context(|| "send(channel)"),
        }
    }

    /// Returns the failure that the child reported before `error`, if any: an ordinary user cannot map
    /// the ids of a dead process.
    fn first_failure(&self, error: Error) -> Error {
        // This ends a child that still waits, so that the next read returns.
        let ended = shutdown(self.channel.as_raw_fd(), Shutdown::Write);
        match ended.map(|()| receive(&self.channel)) {
            Ok(Ok((Some(failure), _))) => self.explain(failure),
            _ => error,
        }
    }

    /// Waits for a message, and returns the descriptor that came with it, if any.
    fn await_step(&self, step: Step) -> Result<Option<OwnedFd>> {
        let (message, descriptor) = receive(&self.channel)?;
        self.expect(message, step)?;
        Ok(descriptor)
    }

    fn expect(&self, message: Option<Failure>, expected: Step) -> Result<()> {
        match message {
            Some(Failure { step, .. }) if step == expected => Ok(()),
            Some(failure) => Err(self.explain(failure)),
            None => Err(died()),
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        self.names.explain(failure)
    }

    /// Checks the container's mount table: it must have exactly the `expected` mounts and masks, all
    /// read-only. `masked` are the paths that must show nothing.
    fn assert_read_only(&self, expected: &[&str], masked: &[CString]) -> Result<()> {
        let path = format!("/proc/{}/mountinfo", self.pid);
        let table = std::fs::read_to_string(&path).context(|| format!("read({path:?})"))?;
        let masks = self.mask_ids(masked)?;
        let found = masks.iter().copied().flatten().collect::<Vec<_>>();
        mount_table::check(&table, expected, &found).map_err(|error| {
            // The child has masked it for itself alone: through a link to its own directory in /proc.
            match masks.iter().position(Option::is_none) {
                Some(index) => Error::system(self.names.masked(index), error),
                None => error,
            }
        })
    }

    /// Returns the id of the mount that masks each of `masked`; `None` if nothing is there.
    fn mask_ids(&self, masked: &[CString]) -> Result<Vec<Option<u64>>> {
        if masked.is_empty() {
            return Ok(Vec::new());
        }
        let path = format!("/proc/{}/root", self.pid);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path.as_str(), flags, Mode::empty());
        let root = root.context(|| format!("open({path:?}, O_PATH)"))?;
        let id = |(index, path): (usize, &CString)| {
            mask::mask_id(root.as_fd(), path, &self.names.masked(index))
        };
        masked.iter().enumerate().map(id).collect()
    }
}

/// Refuses a user or group id that the container does not map.
fn refuse_unmapped(ids: &Ids, spec: &Spec) -> Result<()> {
    let mut groups = [spec.gid].into_iter().chain(spec.groups.iter().copied());
    let refused = ids
        .user(spec.uid)
        .err()
        .or_else(|| groups.find_map(|id| ids.group(id).err()));
    match refused {
        None => Ok(()),
        Some(error) if spec.from_bundle => Err(Error {
            what: format!("config.json `process.user`, {}", error.what),
            ..error
        }),
        Some(error) => Err(error),
    }
}

/// Reads the child's next message and the descriptor that came with it. The message is `None` once the
/// child has closed its end.
fn receive(channel: &OwnedFd) -> Result<(Option<Failure>, Option<OwnedFd>)> {
    let mut message = [0; Failure::SIZE];
    loop {
        match descriptors::receive(channel.as_raw_fd(), &mut message) {
            Ok((0, _)) => return Ok((None, None)),
            Ok((_, [descriptor])) => return Ok((Some(Failure::decode(message)), descriptor)),
            // A child that ended without reading everything resets the channel once; the messages that it
            // sent before follow.
            Err(Errno::ECONNRESET) => continue,
            Err(errno) => return Err(errno).context(|| "recv(channel)"),
        }
    }
}

fn died() -> Error {
    Error::system("child", "ended before the container was ready")
}

fn clone_failed(flags: u64, errno: Errno) -> Error {
    let error = Error::system(
        format_args!("clone3({flags:#x}|CLONE_INTO_CGROUP)"),
        errno.desc(),
    );
    match errno {
        Errno::EPERM => error.hint("run imrun doctor to see what this host allows its users"),
        Errno::ENOSPC | Errno::EUSERS => {
            error.hint("raise /proc/sys/user/max_*_namespaces: a limit is reached")
        }
        _ => error,
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")
}

/// Mode of a pipe that the app writes.
const WRITE_ONLY: u32 = 0o222;
/// Owner of the app's pipes: the last id of Linux, which is no container's unless it has all ids.
const NOBODYS_ID: u32 = u32::MAX - 1;
/// Mode of a pipe that the app reads.
const READ_ONLY: u32 = 0o444;

/// Lets the app reopen its end of a pipe through /dev/stdin or /dev/stdout, only in the direction that it
/// has: it cannot read back what it wrote, so no line is lost. The pipe, its owner and its mode remain
/// imrun's; only in an ordinary user's container it belongs to the app's user as well.
fn make_reopenable(pipe: BorrowedFd<'_>, mode: u32) -> Result<()> {
    if ids::Owners::own()?.are_all() {
        // A container may have the id of the host's root.
        let (user, group) = (Uid::from_raw(NOBODYS_ID), Gid::from_raw(NOBODYS_ID));
        fchown(pipe, Some(user), Some(group)).context(|| format!("fchown(pipe, {NOBODYS_ID})"))?;
    }
    nix::sys::stat::fchmod(pipe, Mode::from_bits_truncate(mode))
        .context(|| format!("fchmod(pipe, {mode:#o})"))
}

fn user_namespace(pid: Pid) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).context(|| format!("open({path:?})"))
}
