//! The cloned child: prepares itself in its new namespaces, then calls execve(2).
//!
//! It must not allocate or lock: it shares its memory with imrun and may be killed at any moment. The
//! kernel dictates the order of the steps. proc and sysfs can be mounted only while the old root is still
//! visible. The stage belongs to the host's root, whose file permissions the child has until it changes
//! its ids; the sysctls of the ipc namespace belong to the container's root.

use super::mask::{self, Masks};
use super::sysctl::{self, Setting, Sysctl};
use super::{Filter, Spec};
use crate::base::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::base::sys::open::openat2;
use crate::base::sys::process::Pointers;
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

/// Namespaces that every container has in addition to [`IPC`]. The child enters the cgroup namespace
/// itself: only then does it begin at the container's own cgroup.
pub(super) const NAMESPACES: u64 =
    (libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS) as u64;

/// Ipc namespace. Without root the container uses imrun's own, which imrun has created for this purpose
/// ([`crate::runtime::rootless`]).
pub(super) const IPC: u64 = libc::CLONE_NEWIPC as u64;

/// Core dump size limit with which no dump is made: a file would have to be larger, and for a program
/// that reads dumps from a pipe the kernel treats 1, not 0, as "no dump" (core(5)).
const NO_CORE: libc::rlim_t = 1;

/// Descriptor by which the process 1 in front of an app reports on it.
const INIT_CHANNEL: RawFd = 3;

/// Sent by the parent once the container's settings are final, the user namespace has its ids and the
/// root is mapped to them.
pub(super) const SETUP_SENT: u8 = b's';
/// Sent by the parent when the child may continue; before execve only after the sink has acknowledged the
/// launch record.
pub(super) const GO: u8 = b'g';

/// Arguments of the child, known when it is cloned. Descriptors are plain numbers, because the parent may
/// close its own copies.
pub(super) struct ChildArgs<'a> {
    pub own_network: bool,
    /// True if the child has its own ipc namespace.
    pub own_ipc: bool,
    /// True if the sysctl `vm.memfd_noexec` is set for the container, which only the host's root can do.
    pub sets_memfd: bool,
    /// True if the child may set supplementary groups.
    pub sets_groups: bool,
    /// Host user who owns the user namespace, if it is not this process's user.
    pub owner: Option<u32>,
    pub stdin: Option<RawFd>,
    pub stdout: RawFd,
    pub stderr: RawFd,
    pub channel: RawFd,
    pub parent_channel: RawFd,
    /// Program of a process 1 in front of the app.
    pub init: Option<RawFd>,
    /// Settings of the container; the parent fills them in before it sends [`SETUP_SENT`].
    pub setup: &'a OnceLock<ContainerSetup>,
}

/// Settings of the container that are final only after the clone.
pub(super) struct ContainerSetup {
    pub spec: Spec,
    pub stage: CString,
    /// True if the container has a user 0, which its sysctls belong to.
    pub has_root: bool,
    /// True if a mount for /dev comes with [`SETUP_SENT`].
    pub has_devices: bool,
    /// True if the child waits once its mounts are ready, before it changes its root.
    pub waits: bool,
    /// Targets of the mounts that come with [`SETUP_SENT`], relative to the root.
    pub targets: Vec<&'static CStr>,
    pub filter: Vec<libc::sock_filter>,
}

/// Descriptors that come with [`SETUP_SENT`], in this order.
struct Received {
    root: OwnedFd,
    ruleset: OwnedFd,
    dev: Option<OwnedFd>,
    binds: [Option<OwnedFd>; 4],
}

/// Kernel file systems of the container's namespaces, not attached yet.
struct KernelMounts {
    proc: OwnedFd,
    sysfs: Option<OwnedFd>,
    cgroupfs: OwnedFd,
}

macro_rules! steps {
    ($($step:ident = $call:literal,)*) => {
        /// Steps of the child, as it reports them to the parent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Step { $($step,)* }

        impl Step {
            const ALL: &[Step] = &[$(Step::$step,)*];

            /// Returns the system call of the step, with its arguments.
            pub fn call(self) -> &'static str {
                match self { $(Step::$step => $call,)* }
            }
        }
    };
}

steps! {
    Cloned = "cloned",
    Ready = "ready",
    ListenerSent = "listener sent",
    // Sent by `base/sys/reaper/main.rs`, which knows their numbers.
    Started = "started",
    Ended = "ended",
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
    Masks = "openat2(\"/dev/null\", O_PATH)",
    MaskProc = "move_mount(/dev/null, /proc)",
    MaskSysfs = "move_mount(/dev/null, /sys)",
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
    Stdin = "openat2(\"/dev/null\")",
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
    Init = "execveat(imrun-init)",
    Execute = "execve()",
}

/// A message of the child: the step that failed and its errno. With errno 0: the step was reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub step: Step,
    pub errno: Errno,
    /// Index of the list element that the step was working on, from 0.
    pub index: u32,
}

impl Failure {
    /// Length of an encoded message, in bytes.
    pub const SIZE: usize = 9;

    fn encode(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = (self.errno as i32).to_ne_bytes();
        let [e, f, g, h] = self.index.to_ne_bytes();
        [self.step as u8, a, b, c, d, e, f, g, h]
    }

    /// Returns the wait status, which [`Step::Ended`] has instead of an errno.
    pub fn status(self) -> i32 {
        self.index as i32
    }

    /// Inverse of `encode`. The bytes come from a child of this same program.
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
    /// Turns an errno into the failure of `step`.
    fn at(self, step: Step) -> Result<T, Failure> {
        self.at_element(step, 0)
    }

    /// Like `at`, and names the list element that the step was working on.
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

/// Runs in the intermediate process that clones the child, and returns true if it shall. That process has
/// all of imrun's privileges, and ends after the clone.
pub(super) fn before(args: &ChildArgs<'_>) -> bool {
    let Err(failure) = prepare_clone(args) else {
        return true;
    };
    // If this fails, the parent is gone and nobody is left to report to.
    let _ = send(args, failure);
    false
}

fn prepare_clone(args: &ChildArgs<'_>) -> Result<(), Failure> {
    if args.sets_memfd {
        // Applies to the guard's pid namespace; a nested one cannot be more permissive.
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let proc = open(c"/proc", flags, Mode::empty()).at(Step::SysctlMemfd)?;
        set_sysctls(&proc, &sysctl::HOST_USER)?;
    }
    match args.owner {
        Some(owner) => process::set_effective_user(owner).at(Step::Owner),
        None => Ok(()),
    }
}

/// Executes the program; if a step fails, reports it and ends the process.
pub(super) fn run(args: &ChildArgs<'_>) -> ! {
    let Err(failure) = start(args);
    // If this fails, the parent is gone and nobody is left to report to.
    let _ = send(args, failure);
    process::exit(i32::from(crate::base::error::EXIT_REFUSED))
}

fn start(args: &ChildArgs<'_>) -> Result<Infallible, Failure> {
    // Otherwise the child would not notice the parent's death: this copy keeps the parent's end open.
    nix::unistd::close(args.parent_channel).at(Step::Channel)?;
    process::reset_signals().at(Step::Signals)?;
    setsid().at(Step::Session)?;
    send(args, reached(Step::Cloned))?;
    let mounts = mount_kernel_filesystems(args)?;
    let (setup, received) = await_setup(args)?;
    let null = enter_root(args, setup, &received, mounts)?;
    let name = std::os::unix::ffi::OsStrExt::from_bytes(setup.spec.hostname.as_bytes());
    nix::unistd::sethostname::<&std::ffi::OsStr>(name).at(Step::Hostname)?;
    if let Some(name) = &setup.spec.settings.domainname {
        process::set_domain_name(name).at(Step::Domainname)?;
    }
    connect_stdio(args, null)?;
    drop_privileges(args, &setup.spec)?;
    // Last of all: from here on the child needs only the channel to the parent and execve(2).
    landlock::restrict(received.ruleset.as_fd()).at(Step::Landlock)?;
    let listener = if setup.spec.observed {
        Some(seccomp::install_with_listener(&setup.filter).at(Step::Seccomp)?)
    } else {
        seccomp::install(&setup.filter)
            .at(Step::Seccomp)
            .map(|()| None)?
    };
    // Everything up to here runs while the sink still decides.
    match listener {
        Some(listener) => send_with(args, reached(Step::Ready), &[listener.as_fd()])?,
        None => send(args, reached(Step::Ready))?,
    }
    let [] = await_message(args, GO)?;
    // Installed last: the bundle's filter need not allow the calls that the child makes until here.
    if let Some(filter) = &setup.spec.settings.filter {
        add_filter(args, filter)?;
    }
    Err(execute(args, &setup.spec))
}

/// Installs the bundle's filter. Once its listener is sent, any call may block until the agent answers.
fn add_filter(args: &ChildArgs<'_>, filter: &Filter) -> Result<(), Failure> {
    if !filter.has_listener {
        return seccomp::install(&filter.program).at(Step::Seccomp);
    }
    let listener = seccomp::install_with_listener(&filter.program).at(Step::Seccomp)?;
    send_with(args, reached(Step::ListenerSent), &[listener.as_fd()])?;
    let [] = await_message(args, GO)?;
    Ok(())
}

/// Returns the message that `step` was reached.
fn reached(step: Step) -> Failure {
    Failure {
        step,
        errno: Errno::from_raw(0),
        index: 0,
    }
}

fn send(args: &ChildArgs<'_>, message: Failure) -> Result<(), Failure> {
    send_with(args, message, &[])
}

fn send_with(
    args: &ChildArgs<'_>,
    message: Failure,
    with: &[BorrowedFd<'_>],
) -> Result<(), Failure> {
    descriptors::send(args.channel, &message.encode(), with).at(Step::Channel)
}

/// Waits for a message of the parent. Ends the process silently if the parent is gone.
fn await_message<const N: usize>(
    args: &ChildArgs<'_>,
    expected: u8,
) -> Result<[Option<OwnedFd>; N], Failure> {
    let mut message = [0];
    match descriptors::receive(args.channel, &mut message).at(Step::Channel)? {
        (1, descriptors) if message == [expected] => Ok(descriptors),
        _ => process::exit(i32::from(crate::base::error::EXIT_REFUSED)),
    }
}

fn await_setup<'a>(args: &ChildArgs<'a>) -> Result<(&'a ContainerSetup, Received), Failure> {
    let received = await_message(args, SETUP_SENT)?;
    let setup = args.setup.get().ok_or(Errno::EBADMSG).at(Step::Channel)?;
    let (dev, binds) = match (received, setup.has_devices) {
        ([root, ruleset, dev, a, b, c, d], true) => ([root, ruleset, dev], [a, b, c, d]),
        ([root, ruleset, a, b, c, d, _], false) => ([root, ruleset, None], [a, b, c, d]),
    };
    let [Some(root), Some(ruleset), dev] = dev else {
        return Err(Errno::EBADMSG).at(Step::Channel);
    };
    let received = Received {
        root,
        ruleset,
        dev,
        binds,
    };
    Ok((setup, received))
}

/// Does everything that does not depend on the container's settings.
fn mount_kernel_filesystems(args: &ChildArgs<'_>) -> Result<KernelMounts, Failure> {
    unshare(CloneFlags::CLONE_NEWCGROUP).at(Step::CgroupNamespace)?;
    let none: Option<&CStr> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(none, c"/", none, private, none).at(Step::Propagation)?;
    let proc = mount_new(c"proc", 0, Step::Proc)?;
    let sysfs = if args.own_network {
        Some(mount_new(c"sysfs", RDONLY, Step::Sysfs)?)
    } else {
        None
    };
    let cgroupfs = mount_new(c"cgroup2", RDONLY, Step::Cgroupfs)?;
    if args.own_network {
        let socket = socket::socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .at(Step::LoopbackSocket)?;
        network::loopback_up(socket.as_fd()).at(Step::Loopback)?;
    }
    Ok(KernelMounts {
        proc,
        sysfs,
        cgroupfs,
    })
}

/// Returns the container's /dev/null, open: a masked path may cover it.
fn enter_root(
    args: &ChildArgs<'_>,
    setup: &ContainerSetup,
    received: &Received,
    mounts: KernelMounts,
) -> Result<OwnedFd, Failure> {
    let root = received.root.as_fd();
    mount::move_mount(root, libc::AT_FDCWD, &setup.stage).at(Step::Attach)?;
    let dev = received.dev.as_ref().map(AsFd::as_fd);
    if let Some(dev) = dev {
        mount::move_mount(dev, root.as_raw_fd(), c"dev").at(Step::AttachDev)?;
    }
    let masks = Masks::open(root, dev).at(Step::Masks)?;
    if setup.has_root {
        let no_groups: Option<&[u32]> = args.sets_groups.then_some(&[]);
        process::set_ids(0, 0, no_groups).at(Step::RootIds)?;
    }
    configure(&mounts.proc, args, &setup.spec)?;
    let attach = |view: &OwnedFd, path, step| {
        mount::move_mount(view.as_fd(), root.as_raw_fd(), path).at(step)
    };
    attach(&mounts.proc, c"proc", Step::AttachProc)?;
    masks
        .mask_all(mounts.proc.as_fd(), &mask::PROC)
        .at(Step::MaskProc)?;
    if let Some(sysfs) = &mounts.sysfs {
        attach(sysfs, c"sys", Step::AttachSysfs)?;
        masks
            .mask_all(sysfs.as_fd(), &mask::SYS)
            .at(Step::MaskSysfs)?;
    }
    attach(&mounts.cgroupfs, c"sys/fs/cgroup", Step::AttachCgroupfs)?;
    let binds = setup.targets.iter().zip(received.binds.iter().flatten());
    for (index, (target, bind)) in binds.enumerate() {
        attach_bind(root, bind, target, index)?;
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let null = openat2(root, c"dev/null", how).at(Step::Stdin)?;
    for (index, path) in setup.spec.masked.iter().enumerate() {
        let put = masks.mask_path(root, path);
        put.at_element(Step::Masked, index)?;
    }
    if setup.waits {
        send(args, reached(Step::Mounted))?;
        let [] = await_message(args, GO)?;
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

/// Writes the sysctls, through this one procfs alone, so that no mount in an image can redirect them;
/// then makes it read-only.
fn configure(proc: &OwnedFd, args: &ChildArgs<'_>, spec: &Spec) -> Result<(), Failure> {
    if args.own_ipc {
        set_sysctls(proc, &sysctl::IPC)?;
    }
    set_sysctls(proc, &sysctl::USER)?;
    if args.owner.is_none() {
        set_sysctls(proc, &sysctl::SHARED_USER)?;
    }
    if args.own_network {
        set_sysctls(proc, &sysctl::NETWORK)?;
    }
    // After imrun's own: the bundle's values take precedence.
    for (index, Setting { path, value, .. }) in spec.settings.sysctls.iter().enumerate() {
        let set = sysctl::set(proc.as_fd(), path, value);
        set.at_element(Step::Sysctl, index)?;
    }
    for (index, Setting { path, value, .. }) in spec.settings.sysctls.iter().enumerate() {
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

/// Mounts `bind` on the placeholder `target`, which may be reached through the image's own links but
/// never outside its root.
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

fn connect_stdio(args: &ChildArgs<'_>, null: OwnedFd) -> Result<(), Failure> {
    match args.stdin {
        Some(stdin) => process::dup2(stdin, 0).at(Step::Stdio)?,
        None => dup2_stdin(null).at(Step::Stdio)?,
    }
    process::dup2(args.stdout, 1).at(Step::Stdio)?;
    process::dup2(args.stderr, 2).at(Step::Stdio)
}

fn drop_privileges(args: &ChildArgs<'_>, spec: &Spec) -> Result<(), Failure> {
    setrlimit(Resource::RLIMIT_CORE, NO_CORE, NO_CORE).at(Step::CoreLimit)?;
    umask(Mode::from_bits_truncate(spec.settings.umask));
    process::set_personality(spec.settings.personality).at(Step::Personality)?;
    let capabilities = spec.capabilities.bits();
    bound_capabilities(capabilities)?;
    // Otherwise a user other than 0 would lose all capabilities.
    nix::sys::prctl::set_keepcaps(capabilities != 0).at(Step::KeepCapabilities)?;
    let groups = args.sets_groups.then_some(&*spec.groups);
    process::set_ids(spec.uid, spec.gid, groups).at(Step::Ids)?;
    process::set_capabilities(capabilities).at(Step::Capabilities)?;
    nix::sys::prctl::set_no_new_privs().at(Step::NoNewPrivileges)?;
    enter_working_directory(&spec.workdir).at(Step::WorkingDirectory)?;
    // A missing program is an error of `create`, not only of `start`.
    try_candidates(spec, process::find_executable)?;
    process::close_on_exec_from(3).at(Step::CloseRange)?;
    process::keep_open(3..3 + spec.settings.descriptors).at(Step::KeepOpen)
}

/// Drops all capabilities except `keep` from the bounding set.
fn bound_capabilities(keep: u64) -> Result<(), Failure> {
    for capability in (0..).filter(|number| *number >= 64 || keep & (1 << number) == 0) {
        match process::drop_bounding(capability) {
            Err(Errno::EINVAL) if capability > 0 => break,
            other => other.at(Step::Bounding)?,
        }
    }
    Ok(())
}

/// Changes to `path`. No descriptor of this process can serve as the path (/proc/self/fd), and the
/// directory must be inside the root: the kernel reports others with a path that starts with
/// "(unreachable)".
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

fn execute(child: &ChildArgs<'_>, spec: &Spec) -> Failure {
    if let Some((program, args)) = child.init.zip(spec.init.as_ref()) {
        let Err(failure) = execute_init(child, program, args, &spec.env);
        return failure;
    }
    let execute = |path: &CStr| Err::<Infallible, _>(process::execve(path, &spec.args, &spec.env));
    match try_candidates(spec, execute) {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

/// Executes the process 1 that executes the app. It keeps the channel, as descriptor 3, and reports on the app by it.
fn execute_init(
    child: &ChildArgs<'_>,
    program: RawFd,
    args: &Pointers,
    env: &Pointers,
) -> Result<Infallible, Failure> {
    process::dup2(child.channel, INIT_CHANNEL).at(Step::Init)?;
    process::keep_open(INIT_CHANNEL..INIT_CHANNEL + 1).at(Step::Init)?;
    Err(process::execute_descriptor(program, args, env)).at(Step::Init)
}

/// Tries the candidates as execvp(3) does: the first one that exists decides.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_1_in_front_of_an_app_tells_steps_by_their_numbers() {
        assert_eq!((Step::Started as u8, Step::Ended as u8), (3, 4));
        let message = [4, 0, 0, 0, 0, 9, 0, 0, 0];
        let told = Failure::decode(message);
        assert_eq!((told.step, told.status()), (Step::Ended, 9));
    }
}
