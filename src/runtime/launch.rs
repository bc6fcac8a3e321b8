//! From a verified root to a running app: namespaces, mounts, privileges, execve(2).
//!
//! ```text
//! start ─┬─ another thread: clone ───────── waits with its child until execve ─────────── ends
//!        │      child:     its own proc, sysfs, cgroup2 ── root, privileges ── waits ── execve
//!        └─ direct:        what the child is told later ┘                     └ lets it go
//! ```
//! [`start`] clones a child that builds what of its world is always the same, while `direct` finds
//! out the rest in this thread; [`Newborn::prepare`] hands that over and waits until the child
//! stands in front of execve, and [`Prepared::execute`] lets it go.
#![forbid(unsafe_code)]

mod child;
mod ground;
mod host_file;
mod landlock;
mod mask;
mod mount_table;
mod names;
mod namespace;
mod network;
mod shares;
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
use child::{Cradle, Failure, Step, World};
use names::Names;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{self, AddressFamily, Shutdown, SockFlag, SockType, shutdown};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use shares::Shares;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use ground::Ground;
pub use mask::covers as is_covered;
pub use namespace::{host_name_of, open_namespace};
pub use network::{Attachment, NameFile, Network};
pub use shares::{Rlimit, Scheduler};
pub use sysctl::{Setting, seal_ipc};
pub use unpacked::try_overlay;

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
    /// Whether its filter asks about calls that would change a file system.
    pub observed: bool,
    /// Whether its exit waits until its output was passed on, where another process reaps it.
    pub relayed: bool,
    /// The bits that new files would not have.
    pub umask: u32,
    /// Its resource limits.
    pub rlimits: Vec<Rlimit>,
    /// How the kernel shares processors with it; as with imrun without.
    pub scheduler: Option<Scheduler>,
    /// How the kernel shares disks with it: class and priority (ioprio_set(2)); as with imrun without.
    pub io_priority: Option<(i32, i32)>,
    /// The execution domain that system calls tell of (personality(2)).
    pub personality: u64,
    /// How readily the kernel kills it when memory runs out; as imrun's own without.
    pub oom_score_adj: Option<i32>,
    /// The NIS domain's name in the container.
    pub domainname: Option<CString>,
    /// Settings of its own namespaces, which hold beyond imrun's own.
    pub sysctls: Vec<Setting>,
    /// Paths in the root that are covered, beyond those that always are; they start with a slash.
    pub masked: Vec<CString>,
    /// Another filter that its calls go through.
    pub filter: Option<Filter>,
    /// How many descriptors of imrun's own, from 3 on, stay open.
    pub descriptors: i32,
    /// Whether a config.json says all this: errors name its fields then.
    pub from_bundle: bool,
}

/// A filter that is not imrun's.
#[derive(Debug, Clone)]
pub struct Filter {
    /// What the kernel runs at each call.
    pub program: Vec<libc::sock_filter>,
    /// Whether it asks about calls: then somebody else gets its listener, and imrun's own has none.
    pub asks: bool,
}

/// What keeps the app from calls and writes that its mounts and namespaces would let it try.
struct Walls {
    ruleset: OwnedFd,
    filter: Vec<libc::sock_filter>,
}

impl Walls {
    fn new(
        root: BorrowedFd<'_>,
        dev: BorrowedFd<'_>,
        observed: bool,
        relayed: bool,
    ) -> Result<Walls> {
        seccomp::knows(libc::SECCOMP_RET_KILL_PROCESS).map_err(|errno| {
            Error::unsupported(
                "seccomp",
                format_args!("this kernel cannot filter: {}", errno.desc()),
            )
            .hint("it takes Linux 4.14 with CONFIG_SECCOMP_FILTER")
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
        Ok(Walls {
            ruleset: landlock::ruleset(root, dev)?,
            filter: policy.compile(),
        })
    }
}

/// Surroundings of a child.
pub struct Birthplace<'a> {
    /// Network that the app sees.
    pub network: &'a Attachment,
    /// Pipe of imrun's own that becomes the app's standard input; /dev/null without.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Cgroup that the child is born into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether the app's parent is that of this process, who learns how the app ended.
    pub adopted: bool,
    /// User of the host who owns the app's user namespace: what the kernel counts for each user
    /// (inotify instances and the like) is charged to this one. `None`: that of this process.
    pub owner: Option<u32>,
}

/// Clones the child in another thread, which waits with it until it executes the app or is gone;
/// `direct` decides beside it, in this thread, what becomes of it.
///
/// The app ends with the thread that calls this, by its [`Guard`].
///
/// # Errors
/// `direct`'s, or the failing call; nothing of the image ran, and the child is gone.
pub fn start<T>(
    place: &Birthplace<'_>,
    direct: impl FnOnce(Newborn<'_>) -> Result<T>,
) -> Result<T> {
    let Birthplace {
        network,
        stdin,
        adopted,
        ..
    } = *place;
    let ((stdout, child_stdout), (stderr, child_stderr)) = (pipe()?, pipe()?);
    let (channel, child_channel) = socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
    let (birth, world) = (clone::Birth::awaited(), OnceLock::new());
    let cradle = Cradle {
        own_network: network.owned(),
        own_ipc: !ids::is_ordinary()?,
        sets_memfd: has_memfd_sysctl()?,
        sets_groups: rootless::may_set_groups()?,
        owner: place.owner,
        stdin: stdin.map(|stdin| stdin.as_raw_fd()),
        stdout: child_stdout.as_raw_fd(),
        stderr: child_stderr.as_raw_fd(),
        channel: child_channel.as_raw_fd(),
        parent_channel: channel.as_raw_fd(),
        world: &world,
    };
    // Kept until the child is gone where the start fails: its end would hide the reason.
    let guard = Arc::new(Guard::new().context(|| "pipe2(), clone3(CLONE_VM|CLONE_NEWPID)")?);
    let namespace = guard
        .pidfd()
        .try_clone_to_owned()
        .context(|| "dup(guard)")?;
    let child_channel = Mutex::new(Some(child_channel));
    let newborn = Newborn {
        birth: &birth,
        world: &world,
        child_channel: &child_channel,
        network,
        adopted,
        stdin,
        ends: [child_stdout.as_fd(), child_stderr.as_fd()],
        stdout,
        stderr,
        channel,
        owner: place.owner,
        guard: guard.clone(),
    };
    let clone = || {
        let cloned = clone_child(place, &namespace, &birth, &cradle);
        // Who still waits for a child that was never born, or died at once, sees it by this.
        close(&child_channel);
        cloned
    };
    std::thread::scope(|scope| {
        let cloner = std::thread::Builder::new()
            .name("cloner".into())
            .spawn_scoped(scope, clone)
            .context(|| "clone(thread)")?;
        let directed = direct(newborn);
        let cloned = cloner
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        cloned.and(directed)
    })
}

/// Returns when the child has executed the app, or is gone. What this thread enters is its own alone,
/// and ends with it.
fn clone_child(
    place: &Birthplace<'_>,
    namespace: &OwnedFd,
    birth: &clone::Birth,
    cradle: &Cradle<'_>,
) -> Result<()> {
    let ipc = if cradle.own_ipc { child::IPC } else { 0 };
    place.network.enter()?;
    setns(namespace, CloneFlags::CLONE_NEWPID).context(|| "setns(CLONE_NEWPID)")?;
    let request = clone::Request {
        namespaces: child::NAMESPACES | ipc | place.network.clone_flag(),
        adopted: place.adopted,
        cgroup: place.cgroup,
        before: child::before,
        child: child::run,
        argument: cradle,
    };
    clone::clone_and_wait(&request, birth).map_err(|errno| clone_failed(request.namespaces, errno))
}

/// Whether this process can set `vm.memfd_noexec`; the filter takes its place where it cannot.
fn has_memfd_sysctl() -> Result<bool> {
    Ok(!ids::is_ordinary()? && Path::new("/proc/sys/vm/memfd_noexec").exists())
}

fn close(channel: &Mutex<Option<OwnedFd>>) {
    // Nothing can go wrong while it is held.
    let mut channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
    drop(channel.take());
}

/// A child that is being born, and will wait until it is told what it becomes.
///
/// Dropping it ends the child: it dies with its channel.
pub struct Newborn<'a> {
    birth: &'a clone::Birth,
    world: &'a OnceLock<World>,
    child_channel: &'a Mutex<Option<OwnedFd>>,
    network: &'a Attachment,
    adopted: bool,
    stdin: Option<BorrowedFd<'a>>,
    ends: [BorrowedFd<'a>; 2],
    stdout: OwnedFd,
    stderr: OwnedFd,
    channel: OwnedFd,
    owner: Option<u32>,
    guard: Arc<Guard>,
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
    /// Tells of the calls that its filter has to ask about (seccomp_unotify(2)), where it has to.
    pub listener: Option<Listener>,
    /// Whether another process learns how it ended.
    pub adopted: bool,
    /// Ends the app when it is dropped, or this process dies.
    pub guard: Arc<Guard>,
    channel: OwnedFd,
    names: Names,
}

/// What poll(2) says of it when the guard is gone: all processes of the container are, too.
pub fn loss_of(guard: &Guard) -> PollFd<'_> {
    PollFd::new(guard.pidfd(), PollFlags::POLLIN)
}

/// The error of that.
pub fn unguarded() -> Error {
    Error::system(
        "guard",
        "the process that ends the container with imrun was killed",
    )
}

/// What is done when a container's mounts stand, before the child changes to them.
pub struct OnMounted<'a> {
    /// The directory that the root is mounted on meanwhile, in the child's own mount namespace.
    pub place: &'a Path,
    /// The child waits for the end of it.
    pub work: &'a dyn Fn(&Prepared) -> Result<()>,
}

impl Newborn<'_> {
    /// Gives the child its root and all else, and waits until its mounts stand and are proven
    /// read-only.
    ///
    /// `ground` gets the container's ids here; `stage` is a directory of the host that the child, in
    /// its own mount namespace, mounts the root on before it changes to it. The child waits there for
    /// the end of `mounted`, if that is given.
    ///
    /// # Errors
    /// The failing call of either process; `mounted`'s.
    pub fn prepare(
        self,
        spec: Spec,
        ground: &Ground,
        stage: &Path,
        ids: &Ids,
        mounted: Option<OnMounted<'_>>,
    ) -> Result<Prepared> {
        refuse_unmapped(ids, &spec)?;
        self.share_pipes()?;
        let binds = self.network.binds(stage)?;
        let targets: Vec<_> = binds.iter().map(|bind| bind.target).collect();
        let names = Names::of(&spec, &targets);
        let place = mounted.as_ref().map_or(stage, |mounted| mounted.place);
        let place = CString::new(place.as_os_str().as_encoded_bytes())
            .map_err(|_| Error::usage(format_args!("{place:?}"), "has a NUL byte"))?;
        let (mut mount_points, told) = (self.network.mount_points(), self.world);
        mount_points.extend(ground.mount_points());
        mount_points.sort_unstable();
        let (masked, shares) = (spec.masked.clone(), Shares::of(&spec, self.owner));
        let mut prepared = self.await_birth(names)?;
        prepared.map_ids(ids)?;
        prepared.set_oom_score(spec.oom_score_adj)?;
        let namespace = ids
            .shifted
            .then(|| user_namespace(prepared.pid))
            .transpose()?;
        let floor = ground.lay(namespace.as_ref().map(AsFd::as_fd), stage)?;
        let relayed = spec.observed && spec.relayed && prepared.adopted;
        let walls = Walls::new(floor.root(), floor.devices(), spec.observed, relayed)?;
        let world = World {
            spec,
            stage: place,
            has_root: ids.have_root(),
            has_devices: floor.dev.is_some(),
            waits: mounted.is_some(),
            targets,
            filter: walls.filter,
        };
        if told.set(world).is_err() {
            unreachable!("a newborn is prepared once");
        }
        let handed: Vec<_> = [floor.root(), walls.ruleset.as_fd()]
            .into_iter()
            .chain(floor.dev.as_ref().map(AsFd::as_fd))
            .chain(binds.iter().map(|bind| bind.mount.as_fd()))
            .collect();
        prepared.signal(child::TOLD, &handed)?;
        prepared.await_hooks(mounted)?;
        prepared.listener = prepared.await_step(Step::Ready)?.map(Listener::new);
        shares.give(&prepared)?;
        prepared.assert_read_only(&mount_points, &masked)?;
        Ok(prepared)
    }

    /// Gives the pipes modes that let the app open them again, for what it has them for.
    fn share_pipes(&self) -> Result<()> {
        for (pipe, mode) in [
            (Some(self.ends[0]), WRITTEN),
            (Some(self.ends[1]), WRITTEN),
            (self.stdin, READ),
        ] {
            pipe.map_or(Ok(()), |pipe| share(pipe, mode))?;
        }
        Ok(())
    }

    fn await_birth(self, names: Names) -> Result<Prepared> {
        let (message, _) = receive(&self.channel)?;
        let Some(pidfd) = self.birth.take() else {
            return Err(match message {
                Some(failure) => Error::system(failure.step.call(), failure.errno.desc()),
                None => died(),
            });
        };
        let pid = process::pid_of(pidfd.as_fd()).context(|| "read(\"/proc/self/fdinfo\")")?;
        // From here on the child's death shows by the end of its channel.
        close(self.child_channel);
        let prepared = Prepared {
            pid,
            pidfd,
            stdout: self.stdout,
            stderr: self.stderr,
            listener: None,
            adopted: self.adopted,
            guard: self.guard,
            channel: self.channel,
            names,
        };
        prepared.expect(message, Step::Born)?;
        Ok(prepared)
    }
}

impl Prepared {
    /// Lets the child execute the program, and waits until it did. `give` gets the listener of a
    /// filter that is not imrun's, if that one asks.
    ///
    /// # Errors
    /// Exit code 127 when the program is not there, 126 when it cannot be executed; those of `give`.
    pub fn execute(&self, give: impl FnOnce(OwnedFd) -> Result<()>) -> Result<()> {
        self.signal(child::GO, &[])?;
        let told = match receive(&self.channel)? {
            (Some(told), Some(listener)) if told.step == Step::Asking => {
                give(listener)?;
                self.signal(child::GO, &[])?;
                receive(&self.channel)?.0
            }
            (told, _) => told,
        };
        match told {
            None => Ok(()), // closed on exec
            Some(failure) => Err(self.explain(failure)),
        }
    }

    /// Gives the child's user namespace its ids.
    fn map_ids(&self, ids: &Ids) -> Result<()> {
        let written = ids.write(self.pid);
        written.map_err(|error| self.first_failure(error))?;
        // The child shares this memory, which holds the environment, until it executes. Not before: the
        // files of /proc/PID then belong to the host's root, and no other user could map ids.
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

    /// Does what there is to be done when the container's mounts stand.
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
            // The child failed before it read this; what it said is still there.
            Err(Errno::EPIPE | Errno::ECONNRESET) => match receive(&self.channel)?.0 {
                Some(failure) => Err(self.explain(failure)),
                None => Err(died()),
            },
            Err(errno) => Err(errno).context(|| "send(channel)"),
        }
    }

    /// What the child failed with before this error, if it did: an ordinary user maps no ids of the dead.
    fn first_failure(&self, error: Error) -> Error {
        // A child that lives and waits ends by it, and so this does not wait for ever.
        let ended = shutdown(self.channel.as_raw_fd(), Shutdown::Write);
        match ended.map(|()| receive(&self.channel)) {
            Ok(Ok((Some(failure), _))) => self.explain(failure),
            _ => error,
        }
    }

    /// The descriptor that comes with it, if one does.
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

    /// Refuses a container whose mount table is not exactly `expected`, and covers, all of it
    /// read-only; `masked` are the paths that must show nothing.
    fn assert_read_only(&self, expected: &[&str], masked: &[CString]) -> Result<()> {
        let path = format!("/proc/{}/mountinfo", self.pid);
        let table = std::fs::read_to_string(&path).context(|| format!("read({path:?})"))?;
        let covers = self.covers(masked)?;
        let found = covers.iter().copied().flatten().collect::<Vec<_>>();
        mount_table::check(&table, expected, &found).map_err(|error| {
            // The child has covered it, for itself alone: by a link to its own directory in /proc.
            match covers.iter().position(Option::is_none) {
                Some(index) => Error::system(self.names.masked(index), error),
                None => error,
            }
        })
    }

    /// The mount that covers each of `masked`; `None` where nothing is there.
    fn covers(&self, masked: &[CString]) -> Result<Vec<Option<u64>>> {
        if masked.is_empty() {
            return Ok(Vec::new());
        }
        let path = format!("/proc/{}/root", self.pid);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path.as_str(), flags, Mode::empty());
        let root = root.context(|| format!("open({path:?}, O_PATH)"))?;
        let cover = |(index, path): (usize, &CString)| {
            mask::cover_of(root.as_fd(), path, &self.names.masked(index))
        };
        masked.iter().enumerate().map(cover).collect()
    }
}

/// Refuses a user or a group that the container does not have.
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

/// The child's next message, and a descriptor that came with it; no message when it closed its end.
fn receive(channel: &OwnedFd) -> Result<(Option<Failure>, Option<OwnedFd>)> {
    let mut message = [0; Failure::SIZE];
    loop {
        match descriptors::receive(channel.as_raw_fd(), &mut message) {
            Ok((0, _)) => return Ok((None, None)),
            Ok((_, [descriptor])) => return Ok((Some(Failure::decode(message)), descriptor)),
            // A child that ended without reading all resets the channel, once: what it said
            // before that comes next.
            Err(Errno::ECONNRESET) => continue,
            Err(errno) => return Err(errno).context(|| "recv(channel)"),
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
        Errno::EPERM => error.hint("imrun doctor says what this host gives its users"),
        Errno::ENOSPC | Errno::EUSERS => {
            error.hint("a limit of /proc/sys/user/max_*_namespaces is reached")
        }
        _ => error,
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")
}

/// Mode of a pipe that the app writes to.
const WRITTEN: u32 = 0o222;
/// Mode of a pipe that the app reads.
const READ: u32 = 0o444;

/// Lets the app open its end of a pipe again, through /dev/stdin or /dev/stdout, in the direction that
/// it has: what it wrote it cannot read back, so that no line is lost. The pipe stays imrun's, and so do
/// its owner and mode; only to an ordinary user's container it belongs as well.
fn share(pipe: BorrowedFd<'_>, mode: u32) -> Result<()> {
    nix::sys::stat::fchmod(pipe, Mode::from_bits_truncate(mode))
        .context(|| format!("fchmod(pipe, {mode:#o})"))
}

fn user_namespace(pid: Pid) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty()).context(|| format!("open({path:?})"))
}
