//! The child of the clone: from fresh namespaces to execve(2).
//!
//! It allocates nothing and takes no lock, for it is a copy of one thread of a process that has
//! more. The order of the steps is the kernel's: proc and sysfs can be mounted only while the old
//! root is still visible; the pid namespace's sysctl belongs to the host's root, and so may the
//! stage, while those of the ipc namespace belong to the container's.

use super::host_file::Bind;
use super::mask::{self, Covers};
use super::sysctl::{self, Sysctl};
use super::{Spec, Walls};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::sys::{landlock, network, process, seccomp};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, pivot_root, setsid};
use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The namespaces that every container has; the cgroup namespace is entered from inside, because
/// only there does it begin at the container's own cgroup.
pub(super) const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS) as u64;

/// Parent to child: the user namespace has its ids, and the root is mapped to them.
pub(super) const MAPPED: u8 = b'm';
/// Parent to child: the sink has acknowledged the launch record.
pub(super) const GO: u8 = b'g';

/// All that the child uses; everything was made before the clone.
pub(super) struct World<'a> {
    pub spec: &'a Spec,
    pub root: BorrowedFd<'a>,
    pub stage: &'a CStr,
    pub binds: &'a [Bind],
    pub walls: &'a Walls,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    pub channel: BorrowedFd<'a>,
    pub parent_channel: RawFd,
}

macro_rules! steps {
    ($($step:ident = $call:literal,)*) => {
        /// The steps that can fail, for the parent to tell.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Step { $($step,)* }

        impl Step {
            const ALL: &[Step] = &[$(Step::$step,)*];

            /// The system call, with its arguments.
            pub fn call(self) -> &'static str {
                match self { $(Step::$step => $call,)* }
            }
        }
    };
}

steps! {
    Ready = "ready",
    Channel = "recv(channel)",
    Signals = "rt_sigaction(SIG_DFL)",
    Session = "setsid()",
    CgroupNamespace = "unshare(CLONE_NEWCGROUP)",
    Propagation = "mount(\"/\", MS_REC|MS_PRIVATE)",
    Proc = "fsopen, fsconfig, fsmount(\"proc\")",
    SysctlShmmni = "write(\"/proc/sys/kernel/shmmni\")",
    SysctlShmall = "write(\"/proc/sys/kernel/shmall\")",
    SysctlMsgmni = "write(\"/proc/sys/kernel/msgmni\")",
    SysctlSem = "write(\"/proc/sys/kernel/sem\")",
    SysctlQueues = "write(\"/proc/sys/fs/mqueue/queues_max\")",
    SysctlUserNamespaces = "write(\"/proc/sys/user/max_user_namespaces\")",
    SysctlMemfd = "write(\"/proc/sys/vm/memfd_noexec\")",
    SysctlPorts = "write(\"/proc/sys/net/ipv4/ip_unprivileged_port_start\")",
    ProcReadOnly = "mount_setattr(proc, MOUNT_ATTR_RDONLY)",
    Sysfs = "fsopen, fsconfig, fsmount(\"sysfs\")",
    Cgroupfs = "fsopen, fsconfig, fsmount(\"cgroup2\")",
    Attach = "move_mount(root)",
    RootIds = "setgroups, setresgid, setresuid(0)",
    AttachProc = "move_mount(\"/proc\")",
    AttachSysfs = "move_mount(\"/sys\")",
    AttachCgroupfs = "move_mount(\"/sys/fs/cgroup\")",
    BindTarget = "openat2(\"/etc\", RESOLVE_IN_ROOT)",
    Covers = "openat2(\"/dev/null\", O_PATH)",
    CoverProc = "move_mount(/dev/null, /proc)",
    CoverSysfs = "move_mount(/dev/null, /sys)",
    Bind = "move_mount(\"/etc\")",
    EnterRoot = "fchdir(root)",
    Pivot = "pivot_root(\".\", \".\")",
    Detach = "umount2(\".\", MNT_DETACH)",
    LeaveOldRoot = "chdir(\"/\")",
    Hostname = "sethostname()",
    LoopbackSocket = "socket(AF_INET)",
    Loopback = "ioctl(\"lo\", SIOCSIFFLAGS)",
    Stdin = "open(\"/dev/null\")",
    Stdio = "dup2()",
    NotDumpable = "prctl(PR_SET_DUMPABLE, 0)",
    CoreLimit = "setrlimit(RLIMIT_CORE, 0)",
    Bounding = "prctl(PR_CAPBSET_DROP)",
    Ids = "setgroups, setresgid, setresuid()",
    KeepCapabilities = "prctl(PR_SET_KEEPCAPS)",
    Capabilities = "capset()",
    NoNewPrivileges = "prctl(PR_SET_NO_NEW_PRIVS)",
    ParentDeath = "prctl(PR_SET_PDEATHSIG, SIGKILL)",
    WorkingDirectory = "chdir()",
    CloseRange = "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)",
    Landlock = "landlock_restrict_self()",
    Seccomp = "seccomp(SECCOMP_SET_MODE_FILTER)",
    Execute = "execve()",
}

/// Which step failed, and how; also the message that none did so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub step: Step,
    pub errno: Errno,
}

impl Failure {
    /// Bytes of a message.
    pub const SIZE: usize = 5;

    fn encode(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = (self.errno as i32).to_ne_bytes();
        [self.step as u8, a, b, c, d]
    }

    /// The inverse of `encode`; a child of this very program wrote it.
    pub fn decode([step, a, b, c, d]: [u8; Self::SIZE]) -> Failure {
        let step = Step::ALL
            .get(usize::from(step))
            .copied()
            .unwrap_or(Step::Channel);
        Failure {
            step,
            errno: Errno::from_raw(i32::from_ne_bytes([a, b, c, d])),
        }
    }
}

trait At<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.map_err(|errno| Failure { step, errno })
    }
}

/// Never returns: the program is executed, or the failing step told and the process ended.
pub(super) fn run(world: &World<'_>) -> ! {
    let Err(failure) = start(world);
    // Nobody is left to tell when this fails: the parent is gone, and sees nothing.
    let _ = send(world, failure);
    process::exit(i32::from(crate::error::EXIT_REFUSED))
}

fn start(world: &World<'_>) -> Result<Infallible, Failure> {
    // Else the parent's death would go unseen, as this copy kept its end open.
    nix::unistd::close(world.parent_channel).at(Step::Channel)?;
    nix::sys::prctl::set_dumpable(false).at(Step::NotDumpable)?;
    process::reset_signals().at(Step::Signals)?;
    setsid().at(Step::Session)?;
    await_message(world, MAPPED)?;
    unshare(CloneFlags::CLONE_NEWCGROUP).at(Step::CgroupNamespace)?;
    enter_root(world)?;
    name_host(world.spec)?;
    connect_stdio(world)?;
    drop_privileges(world)?;
    enclose(world)?;
    // All but this is done while the sink makes up its mind.
    send(
        world,
        Failure {
            step: Step::Ready,
            errno: Errno::from_raw(0),
        },
    )?;
    await_message(world, GO)?;
    Err(execute(world.spec))
}

fn send(world: &World<'_>, message: Failure) -> Result<(), Failure> {
    let channel = world.channel.as_raw_fd();
    socket::send(channel, &message.encode(), MsgFlags::MSG_NOSIGNAL).at(Step::Channel)?;
    Ok(())
}

/// Ends the process in silence when the parent is gone.
fn await_message(world: &World<'_>, expected: u8) -> Result<(), Failure> {
    let mut message = [0];
    let received = loop {
        match socket::recv(world.channel.as_raw_fd(), &mut message, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => break other.at(Step::Channel)?,
        }
    };
    if received != 1 || message[0] != expected {
        process::exit(i32::from(crate::error::EXIT_REFUSED));
    }
    Ok(())
}

fn enter_root(world: &World<'_>) -> Result<(), Failure> {
    let none: Option<&CStr> = None;
    nix::mount::mount(
        none,
        c"/",
        none,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        none,
    )
    .at(Step::Propagation)?;
    let root = world.root;
    let proc = mount_new(c"proc", 0, Step::Proc)?;
    set_sysctls(&proc, &sysctl::HOST_USER)?;
    mount::move_mount(root, libc::AT_FDCWD, world.stage).at(Step::Attach)?;
    let covers = Covers::open(root).at(Step::Covers)?;
    process::set_ids(0, 0, &[]).at(Step::RootIds)?;
    configure(&proc, world.spec.network.owned())?;
    mount::move_mount(proc.as_fd(), root.as_raw_fd(), c"proc").at(Step::AttachProc)?;
    covers.put(proc.as_fd(), &mask::PROC).at(Step::CoverProc)?;
    if world.spec.network.owned() {
        let sysfs = mount_new(c"sysfs", RDONLY, Step::Sysfs)?;
        mount::move_mount(sysfs.as_fd(), root.as_raw_fd(), c"sys").at(Step::AttachSysfs)?;
        covers.put(sysfs.as_fd(), &mask::SYS).at(Step::CoverSysfs)?;
    }
    let cgroupfs = mount_new(c"cgroup2", RDONLY, Step::Cgroupfs)?;
    mount::move_mount(cgroupfs.as_fd(), root.as_raw_fd(), c"sys/fs/cgroup")
        .at(Step::AttachCgroupfs)?;
    for bind in world.binds {
        attach_bind(root, bind)?;
    }
    fchdir(root).at(Step::EnterRoot)?;
    pivot_root(c".", c".").at(Step::Pivot)?;
    umount2(c".", MntFlags::MNT_DETACH).at(Step::Detach)?;
    chdir(c"/").at(Step::LeaveOldRoot)
}

fn mount_new(fstype: &CStr, attributes: mount::Attributes, step: Step) -> Result<OwnedFd, Failure> {
    let context = mount::fsopen(fstype).at(step)?;
    mount::fsconfig_create(context.as_fd()).at(step)?;
    mount::fsmount(context.as_fd(), attributes | NOSUID | NODEV | NOEXEC).at(step)
}

/// Through this one procfs alone are sysctls written, so that no mount in an image can redirect
/// them; then it becomes read-only.
fn configure(proc: &OwnedFd, own_network: bool) -> Result<(), Failure> {
    set_sysctls(proc, &sysctl::ISOLATION)?;
    if own_network {
        set_sysctls(proc, &sysctl::NETWORK)?;
    }
    mount::set_attributes(proc.as_fd(), RDONLY).at(Step::ProcReadOnly)
}

fn set_sysctls(proc: &OwnedFd, sysctls: &[Sysctl]) -> Result<(), Failure> {
    let set = |sysctl: &Sysctl| sysctl.set(proc.as_fd()).at(sysctl.step);
    sysctls.iter().try_for_each(set)
}

/// The placeholder may be reached through the image's own links, but never outside its root.
fn attach_bind(root: BorrowedFd<'_>, bind: &Bind) -> Result<(), Failure> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let target = openat2(root, bind.target, how).at(Step::BindTarget)?;
    mount::move_mount_onto(bind.mount.as_fd(), target.as_fd()).at(Step::Bind)
}

fn name_host(spec: &Spec) -> Result<(), Failure> {
    let name = std::os::unix::ffi::OsStrExt::from_bytes(spec.hostname.as_bytes());
    nix::unistd::sethostname::<&std::ffi::OsStr>(name).at(Step::Hostname)?;
    if !spec.network.owned() {
        return Ok(());
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Inet, SockType::Datagram, flags, None)
        .at(Step::LoopbackSocket)?;
    network::loopback_up(socket.as_fd()).at(Step::Loopback)
}

fn connect_stdio(world: &World<'_>) -> Result<(), Failure> {
    match &world.spec.stdin {
        Some(stdin) => dup2_stdin(stdin).at(Step::Stdio)?,
        None => {
            let null = open(
                c"/dev/null",
                OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                Mode::empty(),
            );
            dup2_stdin(null.at(Step::Stdin)?).at(Step::Stdio)?;
        }
    }
    dup2_stdout(world.stdout).at(Step::Stdio)?;
    dup2_stderr(world.stderr).at(Step::Stdio)
}

fn drop_privileges(world: &World<'_>) -> Result<(), Failure> {
    let spec = world.spec;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).at(Step::CoreLimit)?;
    umask(Mode::from_bits_truncate(0o022));
    let capabilities = spec.capabilities.bits();
    bound_capabilities(capabilities)?;
    // Else a user other than 0 would have none left to be given.
    nix::sys::prctl::set_keepcaps(capabilities != 0).at(Step::KeepCapabilities)?;
    process::set_ids(spec.uid, spec.gid, &spec.groups).at(Step::Ids)?;
    process::set_capabilities(capabilities).at(Step::Capabilities)?;
    nix::sys::prctl::set_no_new_privs().at(Step::NoNewPrivileges)?;
    // A change of credentials clears it, so it comes after the last one.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).at(Step::ParentDeath)?;
    exit_if_orphaned(world)?;
    enter_working_directory(&spec.workdir).at(Step::WorkingDirectory)?;
    process::close_on_exec_from(3).at(Step::CloseRange)
}

/// Last of all: from here on only the channel to the parent and execve(2) are left.
fn enclose(world: &World<'_>) -> Result<(), Failure> {
    landlock::restrict(world.walls.ruleset.as_fd()).at(Step::Landlock)?;
    seccomp::install(&world.walls.filter).at(Step::Seccomp)
}

/// Takes all capabilities but those of `keep` out of the bounding set.
fn bound_capabilities(keep: u64) -> Result<(), Failure> {
    for capability in (0..).filter(|number| *number >= 64 || keep & (1 << number) == 0) {
        match process::drop_bounding(capability) {
            Err(Errno::EINVAL) if capability > 0 => break,
            other => other.at(Step::Bounding)?,
        }
    }
    Ok(())
}

/// The parent may have died before its death was asked to be told.
fn exit_if_orphaned(world: &World<'_>) -> Result<(), Failure> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match socket::recv(world.channel.as_raw_fd(), &mut [0], flags) {
        Ok(0) => process::exit(i32::from(crate::error::EXIT_REFUSED)),
        Err(Errno::EAGAIN) => Ok(()),
        other => other.at(Step::Channel).map(drop),
    }
}

/// No descriptor of this process's is a way to it (/proc/self/fd), and the kernel gives a path that
/// starts with "(unreachable)" to a directory outside the root.
fn enter_working_directory(path: &CStr) -> nix::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let root = open(c"/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    fchdir(openat2(root, path, how)?)?;
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    match process::current_directory(&mut buffer)?.first() {
        Some(b'/') => Ok(()),
        _ => Err(Errno::ENOENT),
    }
}

/// Tries the candidates as execvp(3) does: the first one that is there decides.
fn execute(spec: &Spec) -> Failure {
    let mut worst = Errno::ENOENT;
    for path in &spec.candidates {
        match process::execve(path, &spec.args, &spec.env) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = Errno::EACCES,
            errno => {
                return Failure {
                    step: Step::Execute,
                    errno,
                };
            }
        }
    }
    Failure {
        step: Step::Execute,
        errno: worst,
    }
}
