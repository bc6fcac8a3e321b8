//! The child of the clone: from fresh namespaces to execve(2).
//!
//! It allocates nothing and takes no lock, for it shares its memory with imrun and may be killed at
//! any moment. The order of the steps is the kernel's: proc and sysfs can be mounted only while the
//! old root is still visible; the stage belongs to the host's root, whose rights to files the child has
//! until then, while the sysctls of the ipc namespace belong to the container's.

use super::mask::{self, Covers};
use super::sysctl::{self, Setting, Sysctl};
use super::{Filter, Spec};
use crate::base::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::base::sys::open::openat2;
use crate::base::sys::{landlock, network, process, seccomp, socket as descriptors};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, dup2_stdin, fchdir, pivot_root, setsid};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// The namespaces that every container has but for [`IPC`]; the cgroup namespace is entered from inside, because
/// only there does it begin at the container's own cgroup.
pub(super) const NAMESPACES: u64 =
    (libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS) as u64;

/// Its ipc namespace; without root it is imrun's own, which has it for nothing else
/// ([`crate::runtime::rootless`]).
pub(super) const IPC: u64 = libc::CLONE_NEWIPC as u64;

/// The limit of a core dump's size by which there is none: a file would have to be larger, and for a program that
/// reads dumps from a pipe the kernel takes 1 for "no dump", where 0 means nothing to it (core(5)).
const NO_CORE: libc::rlim_t = 1;

/// Parent to child: its world is known, the user namespace has its ids, and the root is mapped to
/// them.
pub(super) const TOLD: u8 = b't';
/// Parent to child: the sink has acknowledged the launch record.
pub(super) const GO: u8 = b'g';

/// What the child is born with. Descriptors are numbers, for the parent may close its own.
pub(super) struct Cradle<'a> {
    pub own_network: bool,
    /// Whether its ipc namespace is its own.
    pub own_ipc: bool,
    /// Whether a sysctl of the host's root keeps memory from being executed by a descriptor.
    pub sets_memfd: bool,
    /// Whether supplementary groups can be set.
    pub sets_groups: bool,
    /// User of the host who owns its user namespace, if that is not this process's.
    pub owner: Option<u32>,
    pub stdin: Option<RawFd>,
    pub stdout: RawFd,
    pub stderr: RawFd,
    pub channel: RawFd,
    pub parent_channel: RawFd,
    /// Set before [`TOLD`] is sent.
    pub world: &'a OnceLock<World>,
}

/// What it is told later.
pub(super) struct World {
    pub spec: Spec,
    pub stage: CString,
    /// Whether it has a user 0, which sysctls belong to.
    pub has_root: bool,
    /// Whether a mount for /dev comes with [`TOLD`].
    pub has_devices: bool,
    /// Whether it waits once its mounts stand, before it changes to them.
    pub waits: bool,
    /// Where the mounts go that come with [`TOLD`], relative to the root.
    pub targets: Vec<&'static CStr>,
    pub filter: Vec<libc::sock_filter>,
}

/// The descriptors that come with [`TOLD`], in this order.
struct Handed {
    root: OwnedFd,
    ruleset: OwnedFd,
    dev: Option<OwnedFd>,
    binds: [Option<OwnedFd>; 4],
}

/// The file systems that show the container itself, of its namespaces and not attached yet.
struct Views {
    proc: OwnedFd,
    sysfs: Option<OwnedFd>,
    cgroupfs: OwnedFd,
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
    Born = "born",
    Ready = "ready",
    Asking = "asking",
    Channel = "send, recv(channel)",
    Signals = "rt_sigaction(SIG_DFL)",
    Session = "setsid()",
    Owner = "setresuid, setfsuid(owner)",
    CgroupNamespace = "unshare(CLONE_NEWCGROUP)",
    Propagation = "mount(\"/\", MS_REC|MS_PRIVATE)",
    Proc = "fsopen, fsconfig, fsmount(\"proc\")",
    SysctlShmmni = "write(\"/proc/sys/kernel/shmmni\")",
    SysctlShmall = "write(\"/proc/sys/kernel/shmall\")",
    SysctlMsgmni = "write(\"/proc/sys/kernel/msgmni\")",
    SysctlSem = "write(\"/proc/sys/kernel/sem\")",
    SysctlQueues = "write(\"/proc/sys/fs/mqueue/queues_max\")",
    SysctlUserNamespaces = "write(\"/proc/sys/user/max_user_namespaces\")",
    SysctlInotifyInstances = "write(\"/proc/sys/user/max_inotify_instances\")",
    SysctlInotifyWatches = "write(\"/proc/sys/user/max_inotify_watches\")",
    SysctlMemfd = "write(\"/proc/sys/vm/memfd_noexec\")",
    Sysctl = "write",
    SysctlRead = "read",
    SysctlKept = "read, compare",
    SysctlPorts = "write(\"/proc/sys/net/ipv4/ip_unprivileged_port_start\")",
    ProcReadOnly = "mount_setattr(proc, MOUNT_ATTR_RDONLY)",
    Sysfs = "fsopen, fsconfig, fsmount(\"sysfs\")",
    Cgroupfs = "fsopen, fsconfig, fsmount(\"cgroup2\")",
    Attach = "move_mount(root)",
    RootIds = "setgroups, setresgid, setresuid(0)",
    AttachDev = "move_mount(\"/dev\")",
    AttachProc = "move_mount(\"/proc\")",
    AttachSysfs = "move_mount(\"/sys\")",
    AttachCgroupfs = "move_mount(\"/sys/fs/cgroup\")",
    BindTarget = "openat2(\"/etc\", RESOLVE_IN_ROOT)",
    Covers = "openat2(\"/dev/null\", O_PATH)",
    CoverProc = "move_mount(/dev/null, /proc)",
    CoverSysfs = "move_mount(/dev/null, /sys)",
    Masked = "openat2, move_mount",
    Mounted = "mounted",
    Bind = "move_mount(\"/etc\")",
    EnterRoot = "fchdir(root)",
    Pivot = "pivot_root(\".\", \".\")",
    Detach = "umount2(\".\", MNT_DETACH)",
    LeaveOldRoot = "chdir(\"/\")",
    Hostname = "sethostname()",
    Domainname = "setdomainname()",
    LoopbackSocket = "socket(AF_INET)",
    Loopback = "ioctl(\"lo\", SIOCSIFFLAGS)",
    Personality = "personality()",
    Stdin = "open(\"/dev/null\")",
    Stdio = "dup2()",
    CoreLimit = "setrlimit(RLIMIT_CORE, 1)",
    Bounding = "prctl(PR_CAPBSET_DROP)",
    Ids = "setgroups, setresgid, setresuid()",
    KeepCapabilities = "prctl(PR_SET_KEEPCAPS)",
    Capabilities = "capset()",
    NoNewPrivileges = "prctl(PR_SET_NO_NEW_PRIVS)",
    WorkingDirectory = "chdir()",
    CloseRange = "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)",
    KeepOpen = "fcntl(F_SETFD, 0)",
    Landlock = "landlock_restrict_self()",
    Seccomp = "seccomp(SECCOMP_SET_MODE_FILTER)",
    Execute = "execve()",
}

/// Which step failed, and how; also the message that none did so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub step: Step,
    pub errno: Errno,
    /// Which element of a list the step was about, from 0.
    pub index: u32,
}

impl Failure {
    /// Bytes of a message.
    pub const SIZE: usize = 9;

    fn encode(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = (self.errno as i32).to_ne_bytes();
        let [e, f, g, h] = self.index.to_ne_bytes();
        [self.step as u8, a, b, c, d, e, f, g, h]
    }

    /// The inverse of `encode`; a child of this very program wrote it.
    pub fn decode([step, a, b, c, d, e, f, g, h]: [u8; Self::SIZE]) -> Failure {
        let step = Step::ALL
            .get(usize::from(step))
            .copied()
            .unwrap_or(Step::Channel);
        Failure {
            step,
            errno: Errno::from_raw(i32::from_ne_bytes([a, b, c, d])),
            index: u32::from_ne_bytes([e, f, g, h]),
        }
    }
}

trait At<T>: Sized {
    /// The step that fails.
    fn at(self, step: Step) -> Result<T, Failure> {
        self.at_element(step, 0)
    }

    /// The same, and the element of a list that it is about.
    fn at_element(self, step: Step, index: usize) -> Result<T, Failure>;
}

impl<T> At<T> for nix::Result<T> {
    fn at_element(self, step: Step, index: usize) -> Result<T, Failure> {
        self.map_err(|errno| Failure {
            step,
            errno,
            index: index as u32,
        })
    }
}

/// Runs in the process that clones the child; says whether it is to be cloned. That process has all
/// rights of imrun's, and ends with the clone.
pub(super) fn before(cradle: &Cradle<'_>) -> bool {
    let Err(failure) = prepare_clone(cradle) else {
        return true;
    };
    // Nobody is left to tell when this fails: the parent is gone, and sees nothing.
    let _ = send(cradle, failure);
    false
}

fn prepare_clone(cradle: &Cradle<'_>) -> Result<(), Failure> {
    if cradle.sets_memfd {
        // Of the guard's pid namespace: what is nested in it cannot be laxer.
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let proc = open(c"/proc", flags, Mode::empty()).at(Step::SysctlMemfd)?;
        set_sysctls(&proc, &sysctl::HOST_USER)?;
    }
    match cradle.owner {
        Some(owner) => process::set_effective_user(owner).at(Step::Owner),
        None => Ok(()),
    }
}

/// Never returns: the program is executed, or the failing step told and the process ended.
pub(super) fn run(cradle: &Cradle<'_>) -> ! {
    let Err(failure) = start(cradle);
    // Nobody is left to tell when this fails: the parent is gone, and sees nothing.
    let _ = send(cradle, failure);
    process::exit(i32::from(crate::base::error::EXIT_REFUSED))
}

fn start(cradle: &Cradle<'_>) -> Result<Infallible, Failure> {
    // Else the parent's death would go unseen, as this copy kept its end open.
    nix::unistd::close(cradle.parent_channel).at(Step::Channel)?;
    process::reset_signals().at(Step::Signals)?;
    setsid().at(Step::Session)?;
    send(cradle, told(Step::Born))?;
    let views = mount_views(cradle)?;
    let (world, handed) = await_world(cradle)?;
    let null = enter_root(cradle, world, &handed, views)?;
    let name = std::os::unix::ffi::OsStrExt::from_bytes(world.spec.hostname.as_bytes());
    nix::unistd::sethostname::<&std::ffi::OsStr>(name).at(Step::Hostname)?;
    if let Some(name) = &world.spec.domainname {
        process::set_domain_name(name).at(Step::Domainname)?;
    }
    connect_stdio(cradle, null)?;
    drop_privileges(cradle, &world.spec)?;
    // Last of all: from here on only the channel to the parent and execve(2) are left.
    landlock::restrict(handed.ruleset.as_fd()).at(Step::Landlock)?;
    let listener = if world.spec.observed {
        Some(seccomp::install_with_listener(&world.filter).at(Step::Seccomp)?)
    } else {
        seccomp::install(&world.filter)
            .at(Step::Seccomp)
            .map(|()| None)?
    };
    // All but this is done while the sink makes up its mind.
    match listener {
        Some(listener) => send_with(cradle, told(Step::Ready), &[listener.as_fd()])?,
        None => send(cradle, told(Step::Ready))?,
    }
    let [] = await_message(cradle, GO)?;
    // It need not allow what was done until here.
    if let Some(filter) = &world.spec.filter {
        add_filter(cradle, filter)?;
    }
    Err(execute(&world.spec))
}

/// From the moment that its listener is away, any call may wait for who has that.
fn add_filter(cradle: &Cradle<'_>, filter: &Filter) -> Result<(), Failure> {
    if !filter.asks {
        return seccomp::install(&filter.program).at(Step::Seccomp);
    }
    let listener = seccomp::install_with_listener(&filter.program).at(Step::Seccomp)?;
    send_with(cradle, told(Step::Asking), &[listener.as_fd()])?;
    let [] = await_message(cradle, GO)?;
    Ok(())
}

/// The message that a step was reached.
fn told(step: Step) -> Failure {
    Failure {
        step,
        errno: Errno::from_raw(0),
        index: 0,
    }
}

fn send(cradle: &Cradle<'_>, message: Failure) -> Result<(), Failure> {
    send_with(cradle, message, &[])
}

fn send_with(
    cradle: &Cradle<'_>,
    message: Failure,
    with: &[BorrowedFd<'_>],
) -> Result<(), Failure> {
    descriptors::send(cradle.channel, &message.encode(), with).at(Step::Channel)
}

/// Ends the process in silence when the parent is gone.
fn await_message<const N: usize>(
    cradle: &Cradle<'_>,
    expected: u8,
) -> Result<[Option<OwnedFd>; N], Failure> {
    let mut message = [0];
    match descriptors::receive(cradle.channel, &mut message).at(Step::Channel)? {
        (1, descriptors) if message == [expected] => Ok(descriptors),
        _ => process::exit(i32::from(crate::base::error::EXIT_REFUSED)),
    }
}

fn await_world<'a>(cradle: &Cradle<'a>) -> Result<(&'a World, Handed), Failure> {
    let handed = await_message(cradle, TOLD)?;
    let world = cradle.world.get().ok_or(Errno::EBADMSG).at(Step::Channel)?;
    let (dev, binds) = match (handed, world.has_devices) {
        ([root, ruleset, dev, a, b, c, d], true) => ([root, ruleset, dev], [a, b, c, d]),
        ([root, ruleset, a, b, c, d, _], false) => ([root, ruleset, None], [a, b, c, d]),
    };
    let [Some(root), Some(ruleset), dev] = dev else {
        return Err(Errno::EBADMSG).at(Step::Channel);
    };
    let handed = Handed {
        root,
        ruleset,
        dev,
        binds,
    };
    Ok((world, handed))
}

/// What can be done before it is known what the container is to be.
fn mount_views(cradle: &Cradle<'_>) -> Result<Views, Failure> {
    unshare(CloneFlags::CLONE_NEWCGROUP).at(Step::CgroupNamespace)?;
    let none: Option<&CStr> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(none, c"/", none, private, none).at(Step::Propagation)?;
    let proc = mount_new(c"proc", 0, Step::Proc)?;
    let sysfs = if cradle.own_network {
        Some(mount_new(c"sysfs", RDONLY, Step::Sysfs)?)
    } else {
        None
    };
    let cgroupfs = mount_new(c"cgroup2", RDONLY, Step::Cgroupfs)?;
    if cradle.own_network {
        let socket = socket::socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .at(Step::LoopbackSocket)?;
        network::loopback_up(socket.as_fd()).at(Step::Loopback)?;
    }
    Ok(Views {
        proc,
        sysfs,
        cgroupfs,
    })
}

/// Returns the container's /dev/null, open: a masked path may cover it.
fn enter_root(
    cradle: &Cradle<'_>,
    world: &World,
    handed: &Handed,
    views: Views,
) -> Result<OwnedFd, Failure> {
    let root = handed.root.as_fd();
    mount::move_mount(root, libc::AT_FDCWD, &world.stage).at(Step::Attach)?;
    let dev = handed.dev.as_ref().map(AsFd::as_fd);
    if let Some(dev) = dev {
        mount::move_mount(dev, root.as_raw_fd(), c"dev").at(Step::AttachDev)?;
    }
    let covers = Covers::open(root, dev).at(Step::Covers)?;
    if world.has_root {
        let no_groups: Option<&[u32]> = cradle.sets_groups.then_some(&[]);
        process::set_ids(0, 0, no_groups).at(Step::RootIds)?;
    }
    configure(&views.proc, cradle, &world.spec)?;
    let attach = |view: &OwnedFd, path, step| {
        mount::move_mount(view.as_fd(), root.as_raw_fd(), path).at(step)
    };
    attach(&views.proc, c"proc", Step::AttachProc)?;
    covers
        .put(views.proc.as_fd(), &mask::PROC)
        .at(Step::CoverProc)?;
    if let Some(sysfs) = &views.sysfs {
        attach(sysfs, c"sys", Step::AttachSysfs)?;
        covers.put(sysfs.as_fd(), &mask::SYS).at(Step::CoverSysfs)?;
    }
    attach(&views.cgroupfs, c"sys/fs/cgroup", Step::AttachCgroupfs)?;
    let binds = world.targets.iter().zip(handed.binds.iter().flatten());
    for (index, (target, bind)) in binds.enumerate() {
        attach_bind(root, bind, target, index)?;
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let null = openat2(root, c"dev/null", how).at(Step::Stdin)?;
    for (index, path) in world.spec.masked.iter().enumerate() {
        let put = covers.put_in(root, path);
        put.at_element(Step::Masked, index)?;
    }
    if world.waits {
        send(cradle, told(Step::Mounted))?;
        let [] = await_message(cradle, GO)?;
    }
    fchdir(root).at(Step::EnterRoot)?;
    pivot_root(c".", c".").at(Step::Pivot)?;
    umount2(c".", MntFlags::MNT_DETACH).at(Step::Detach)?;
    chdir(c"/").at(Step::LeaveOldRoot)?;
    Ok(null)
}

fn mount_new(fstype: &CStr, attributes: mount::Attributes, step: Step) -> Result<OwnedFd, Failure> {
    let context = mount::fsopen(fstype).at(step)?;
    mount::fsconfig_string(context.as_fd(), c"source", fstype).at(step)?;
    mount::fsconfig_create(context.as_fd()).at(step)?;
    mount::fsmount(context.as_fd(), attributes | NOSUID | NODEV | NOEXEC).at(step)
}

/// Through this one procfs alone are sysctls written, so that no mount in an image can redirect
/// them; then it becomes read-only.
fn configure(proc: &OwnedFd, cradle: &Cradle<'_>, spec: &Spec) -> Result<(), Failure> {
    if cradle.own_ipc {
        set_sysctls(proc, &sysctl::IPC)?;
    }
    set_sysctls(proc, &sysctl::USER)?;
    if cradle.owner.is_none() {
        set_sysctls(proc, &sysctl::SHARED_USER)?;
    }
    if cradle.own_network {
        set_sysctls(proc, &sysctl::NETWORK)?;
    }
    // After imrun's own: what a bundle asks for is what the app sees.
    for (index, Setting { path, value, .. }) in spec.sysctls.iter().enumerate() {
        let set = sysctl::set(proc.as_fd(), path, value);
        set.at_element(Step::Sysctl, index)?;
    }
    for (index, Setting { path, value, .. }) in spec.sysctls.iter().enumerate() {
        let holds = sysctl::holds(proc.as_fd(), path, value);
        if !holds.at_element(Step::SysctlRead, index)? {
            return Err(Errno::EIO).at_element(Step::SysctlKept, index);
        }
    }
    mount::set_attributes(proc.as_fd(), RDONLY).at(Step::ProcReadOnly)
}

fn set_sysctls(proc: &OwnedFd, sysctls: &[Sysctl]) -> Result<(), Failure> {
    let set = |sysctl: &Sysctl| sysctl.set(proc.as_fd()).at(sysctl.step);
    sysctls.iter().try_for_each(set)
}

/// The placeholder may be reached through the image's own links, but never outside its root.
fn attach_bind(
    root: BorrowedFd<'_>,
    bind: &OwnedFd,
    target: &CStr,
    index: usize,
) -> Result<(), Failure> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let target = openat2(root, target, how).at_element(Step::BindTarget, index)?;
    mount::move_mount_onto(bind.as_fd(), target.as_fd()).at_element(Step::Bind, index)
}

fn connect_stdio(cradle: &Cradle<'_>, null: OwnedFd) -> Result<(), Failure> {
    match cradle.stdin {
        Some(stdin) => process::dup2(stdin, 0).at(Step::Stdio)?,
        None => dup2_stdin(null).at(Step::Stdio)?,
    }
    process::dup2(cradle.stdout, 1).at(Step::Stdio)?;
    process::dup2(cradle.stderr, 2).at(Step::Stdio)
}

fn drop_privileges(cradle: &Cradle<'_>, spec: &Spec) -> Result<(), Failure> {
    setrlimit(Resource::RLIMIT_CORE, NO_CORE, NO_CORE).at(Step::CoreLimit)?;
    umask(Mode::from_bits_truncate(spec.umask));
    process::set_personality(spec.personality).at(Step::Personality)?;
    let capabilities = spec.capabilities.bits();
    bound_capabilities(capabilities)?;
    // Else a user other than 0 would have none left to be given.
    nix::sys::prctl::set_keepcaps(capabilities != 0).at(Step::KeepCapabilities)?;
    let groups = cradle.sets_groups.then_some(&*spec.groups);
    process::set_ids(spec.uid, spec.gid, groups).at(Step::Ids)?;
    process::set_capabilities(capabilities).at(Step::Capabilities)?;
    nix::sys::prctl::set_no_new_privs().at(Step::NoNewPrivileges)?;
    enter_working_directory(&spec.workdir).at(Step::WorkingDirectory)?;
    // Who creates a container hears of it, and not only who starts it.
    try_candidates(spec, process::find_executable)?;
    process::close_on_exec_from(3).at(Step::CloseRange)?;
    process::keep_open(3..3 + spec.descriptors).at(Step::KeepOpen)
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

fn execute(spec: &Spec) -> Failure {
    let execute = |path: &CStr| Err::<Infallible, _>(process::execve(path, &spec.args, &spec.env));
    match try_candidates(spec, execute) {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

/// Tries the candidates as execvp(3) does: the first one that is there decides.
fn try_candidates<T>(
    spec: &Spec,
    mut attempt: impl FnMut(&CStr) -> nix::Result<T>,
) -> Result<T, Failure> {
    let mut worst = Errno::ENOENT;
    for path in &spec.candidates {
        match attempt(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(Errno::EACCES) => worst = Errno::EACCES,
            decided => return decided.at(Step::Execute),
        }
    }
    Err(worst).at(Step::Execute)
}
