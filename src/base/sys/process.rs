//! Process control: privileges, signals, descriptors, execution of programs.
//!
//! Credentials are changed by direct system calls: the C library would also signal all threads that it knows, and in
//! a cloned child it knows threads that do not exist.

use super::check;
use nix::Result;
use nix::errno::Errno;
use std::ffi::{CStr, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Version of capget(2) and capset(2) with three pairs of 32-bit words (_LINUX_CAPABILITY_VERSION_3,
/// linux/capability.h).
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Identity with which a command is executed in a container.
#[derive(Debug, Clone)]
pub enum Identity {
    /// The caller's user on the host, who has no id in the container: all capabilities in the container's user
    /// namespace, and none elsewhere.
    Caller,
    /// A user of the container, with no_new_privs.
    User {
        /// User id in the container.
        uid: u32,
        /// Group id in the container.
        gid: u32,
        /// Supplementary groups in the container.
        groups: Vec<u32>,
        /// Capabilities, as a bit set by number.
        capabilities: u64,
    },
}

impl Identity {
    fn assume(&self) -> Result<()> {
        // CAP_LAST_CAP of linux/capability.h.
        const ALL: u64 = (1 << 41) - 1;
        match self {
            Identity::Caller => set_capabilities(ALL),
            Identity::User {
                uid,
                gid,
                groups,
                capabilities,
            } => {
                nix::sys::prctl::set_keepcaps(true)?;
                set_ids(*uid, *gid, Some(groups))?;
                set_capabilities(*capabilities)?;
                nix::sys::prctl::set_no_new_privs()
            }
        }
    }
}

/// Makes a command start with an empty signal mask and default signal actions, as the leader of a process group, and
/// end by SIGKILL with the thread that started it.
pub fn isolate_before_exec(command: &mut Command) {
    let isolate = || {
        reset_signals()?;
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        Ok(())
    };
    command.process_group(0);
    // SAFETY: the closure makes system calls alone, and neither allocates nor locks.
    unsafe { command.pre_exec(isolate) };
}

/// Makes a command run in all namespaces of the process `pidfd`, in a working directory there.
pub fn enter_before_exec(
    command: &mut Command,
    pidfd: BorrowedFd<'_>,
    identity: Identity,
    directory: std::ffi::CString,
) -> std::io::Result<()> {
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let pidfd = pidfd.try_clone_to_owned()?;
    let enter = move || {
        // SAFETY: plain integers.
        check(unsafe { libc::setns(pidfd.as_raw_fd(), namespaces) }.into())?;
        nix::unistd::chdir(directory.as_c_str())?;
        split_off()?;
        identity.assume()?;
        // A change of credentials clears this, so it comes last.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: the closure only makes system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// Continues in a child, because only a child is in the pid namespace that was entered. The process itself waits, and
/// ends with the child's exit status.
fn split_off() -> Result<()> {
    // SAFETY: this process has one thread, and the child goes on with a copy of its memory.
    let child = check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })?;
    if child == 0 {
        return Ok(());
    }
    // The parent detects the execution of the program by the end of a pipe, so close the copy here.
    // SAFETY: from here on only the child's id is used.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    let mut status = 0;
    // SAFETY: the pointer is valid.
    let mut wait =
        || check(unsafe { libc::waitpid(child as libc::pid_t, &raw mut status, 0) }.into());
    while wait() == Err(Errno::EINTR) {}
    if libc::WIFEXITED(status) {
        exit(libc::WEXITSTATUS(status))
    } else {
        exit(128 + libc::WTERMSIG(status))
    }
}

/// Forks this process. Returns the child's id, or `None` in the child.
///
/// # Errors
/// EBUSY if the process has several threads: a lock that another one holds would stay locked.
pub fn fork() -> Result<Option<nix::unistd::Pid>> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: this process has one thread.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok((pid != 0).then(|| nix::unistd::Pid::from_raw(pid as i32)))
}

/// Redirects standard input, output and error to /dev/null.
pub fn close_stdio() -> Result<()> {
    (0..3).try_for_each(close_stream)
}

/// Redirects one standard stream to /dev/null.
pub fn close_stream(number: RawFd) -> Result<()> {
    let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC;
    let null = nix::fcntl::open(c"/dev/null", flags, nix::sys::stat::Mode::empty())?;
    dup2(null.as_raw_fd(), number)
}

/// Ends this process at once, without destructors and without flushing buffers.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Executes a program in this process; returns only on failure.
pub fn execve(path: &CStr, argv: &Pointers, envp: &Pointers) -> Errno {
    // SAFETY: `Pointers` keeps its strings alive and its list null-terminated.
    unsafe { libc::execve(path.as_ptr(), argv.0.as_ptr(), envp.0.as_ptr()) };
    Errno::last()
}

/// Executes the program that a descriptor is open for; returns only on failure.
pub fn execute_descriptor(program: RawFd, argv: &Pointers, envp: &Pointers) -> Errno {
    let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: as in `execve`.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            empty,
            argv.0.as_ptr(),
            envp.0.as_ptr(),
            flags,
        )
    };
    Errno::last()
}

/// Copies a descriptor, close-on-exec, to a number from `first` up.
pub fn duplicate_from(descriptor: impl AsFd, first: RawFd) -> Result<OwnedFd> {
    let number = descriptor.as_fd().as_raw_fd();
    // SAFETY: the kernel makes the copy for the caller alone.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, first) }.into())?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// Null-terminated list of C strings for execve(2), made before the clone because making it allocates.
pub struct Pointers(Vec<*const c_char>, Vec<std::ffi::CString>);

// SAFETY: the pointers refer to the strings in the second field, which never change.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

impl Pointers {
    /// Returns the list of these strings.
    pub fn new(strings: Vec<std::ffi::CString>) -> Pointers {
        let list = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Pointers(list, strings)
    }

    /// Returns the strings.
    pub fn strings(&self) -> &[std::ffi::CString] {
        &self.1
    }
}

/// Sets the supplementary groups, if given, then all group ids, then all user ids, of this thread only.
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<()> {
    if let Some(groups) = groups {
        // SAFETY: the pointer is valid for the given number of ids.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Makes `uid` the effective user of this thread only, so that it owns a new user namespace. Access to files remains
/// that of the real user.
pub fn set_effective_user(uid: u32) -> Result<()> {
    const SAME: u32 = u32::MAX;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, SAME, uid, SAME) })?;
    // SAFETY: getuid(2) always succeeds.
    let real = unsafe { libc::getuid() };
    // setfsuid(2) returns the previous user and no error; a second call shows the effect of the first.
    let set = || {
        // SAFETY: plain integers.
        unsafe { libc::syscall(libc::SYS_setfsuid, real) }
    };
    set();
    if set() == libc::c_long::from(real) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Sets the NIS domain name of this UTS namespace.
pub fn set_domain_name(name: &CStr) -> Result<()> {
    // SAFETY: the pointer is valid for the given number of bytes.
    check(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }.into()).map(drop)
}

/// Sets a resource limit of process `pid` (`RLIMIT_*`).
pub fn limit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the kernel reads one structure; EINVAL means that the resource is unknown.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, none) })
        .map(drop)
}

/// Returns the hard limit of this process (`RLIMIT_*`).
pub fn hard_limit(resource: u32) -> Result<u64> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let none = std::ptr::null::<libc::rlimit64>();
    // SAFETY: the kernel writes one structure; EINVAL means that the resource is unknown.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, none, &raw mut limit) })?;
    Ok(limit.rlim_max)
}

/// Removes a capability from the bounding set; EINVAL if the kernel does not have it.
pub fn drop_bounding(capability: i32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })
        .map(drop)
}

/// Sets the permitted, effective, inheritable and ambient sets to a bit set of capability numbers. Programs executed
/// afterwards have these capabilities under any user.
pub fn set_capabilities(set: u64) -> Result<()> {
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    let header = [CAPABILITY_VERSION_3, 0];
    let (low, high) = (set as u32, (set >> 32) as u32);
    let sets = [low, low, low, high, high, high];
    // SAFETY: version 3 reads a header of two and sets of six 32-bit words.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
    (0..u64::BITS)
        .filter(|number| set & (1 << number) != 0)
        .try_for_each(|number| ambient(libc::PR_CAP_AMBIENT_RAISE, number))
}

fn ambient(operation: libc::c_int, capability: u32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_CAP_AMBIENT,
            operation,
            capability,
            0,
            0,
        )
    })
    .map(drop)
}

/// Sets the execution domain (personality(2)).
pub fn set_personality(persona: libc::c_ulong) -> Result<()> {
    // SAFETY: a plain integer.
    check(unsafe { libc::personality(persona) }.into()).map(drop)
}

/// Checks whether this process can execute the file `path`, with the errors of execve(2).
pub fn find_executable(path: &CStr) -> Result<()> {
    let (directory, flags) = (libc::AT_FDCWD, libc::AT_EACCESS);
    // SAFETY: the path is a C string, and no other pointers are passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            directory,
            path.as_ptr(),
            libc::X_OK,
            flags,
        )
    })?;
    match nix::sys::stat::stat(path)?.st_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(()),
        _ => Err(Errno::EACCES),
    }
}

/// Sets the scheduling policy of process `pid` (sched_setattr(2)).
pub fn set_scheduler(pid: i32, policy: i32, flags: u64, nice: i32) -> Result<()> {
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        // Parameters of real-time and deadline policies, which are unused here.
        priority: u32,
        times: [u64; 3],
    }
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: policy as u32,
        flags,
        nice,
        priority: 0,
        times: [0; 3],
    };
    // SAFETY: the kernel reads as many bytes as the structure's size field contains.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) })
        .map(drop)
}

/// Sets the I/O class and priority of process `pid` (ioprio_set(2)).
pub fn set_io_priority(pid: i32, class: i32, priority: i32) -> Result<()> {
    const PROCESS: i32 = 1; // IOPRIO_WHO_PROCESS, linux/ioprio.h
    const CLASS_SHIFT: i32 = 13; // IOPRIO_CLASS_SHIFT
    let value = class << CLASS_SHIFT | priority;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, pid, value) }).map(drop)
}

/// Ignores a signal in this process (sigaction(2)).
pub fn ignore_signal(signal: i32) -> Result<()> {
    // SAFETY: no handler is installed.
    match unsafe { libc::signal(signal, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// Marks every descriptor from `first` up close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: plain integers; nothing is closed before execve(2).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Clears close-on-exec of these descriptors.
pub fn keep_open(numbers: std::ops::Range<RawFd>) -> Result<()> {
    for number in numbers {
        // SAFETY: a flag of a descriptor; fcntl(2) returns EBADF if it is not open.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into())?;
    }
    Ok(())
}

/// Makes `number` a copy of `descriptor`, without close-on-exec.
pub fn dup2(descriptor: RawFd, number: RawFd) -> Result<()> {
    // SAFETY: `number` is 0, 1 or 2, which no Rust value owns.
    check(unsafe { libc::dup2(descriptor, number) }.into()).map(drop)
}

/// Redirects standard output to standard error. Returns the previous standard output.
pub fn redirect_stdout_to_stderr() -> Result<OwnedFd> {
    let stdout = inherited(1)?;
    dup2(2, 1)?;
    Ok(stdout)
}

/// Restores standard output.
pub fn restore_stdout(stdout: OwnedFd) -> Result<()> {
    dup2(stdout.as_raw_fd(), 1)
}

/// Closes the inherited descriptors from `first` to `last`.
///
/// Must run first in `main`, before this program opens a descriptor.
pub fn close_inherited(first: u32, last: u32) -> Result<()> {
    // SAFETY: at the start of the program nothing owns these descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Sends a signal to the process that `pidfd` refers to.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is valid, and means that of kill(2).
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        )
    })
    .map(drop)
}

/// Waits for the end of the child `pidfd` and reaps it; returns its wait status.
///
/// nix's `waitid` fails after it has reaped a child that a realtime signal ended.
pub fn wait_for(pidfd: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: all-zero bytes are a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = pidfd.as_raw_fd() as libc::id_t;
    // SAFETY: the kernel writes one siginfo.
    Errno::result(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) })?;
    // SAFETY: after waitid(2), the siginfo is that of a child.
    let status = unsafe { info.si_status() };
    Ok(match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        _ => status,
    })
}

/// Waits for the end of any child and reaps it; returns its process id and wait status, or `None` if
/// `flags` include `WNOHANG` and no child has ended.
///
/// nix's `waitpid` fails after it has reaped a child that a realtime signal ended.
pub fn wait_for_any(flags: i32) -> Result<Option<(nix::unistd::Pid, i32)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, flags) })?;
    Ok((pid > 0).then(|| (nix::unistd::Pid::from_raw(pid), status)))
}

/// Returns the exit code of a process with that wait status, and the signal that ended it. The code is
/// then 128 plus the signal's number.
pub fn code_of(status: i32) -> (u8, Option<i32>) {
    match libc::WTERMSIG(status) {
        0 => (libc::WEXITSTATUS(status) as u8, None),
        signal => (128 + signal as u8, Some(signal)),
    }
}

/// Returns the wait status of a reaped process (`PIDFD_GET_INFO` of linux/pidfd.h, Linux 6.15); `None` if it is not
/// reaped yet.
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>> {
    const EXIT: u64 = 1 << 3; // PIDFD_INFO_EXIT
    /// Size of the structure's first version in 64-bit words. The mask comes first, the code in the last half.
    const WORDS: usize = 8;
    const GET_INFO: libc::c_ulong = nix::request_code_readwrite!(0xff, 11, WORDS * 8) as _;
    let mut info = [0u64; WORDS];
    info[0] = EXIT;
    // SAFETY: the kernel writes at most the size in the request's number.
    check(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, info.as_mut_ptr()) }.into())?;
    let bytes = info[7].to_ne_bytes();
    let code = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    Ok((info[0] & EXIT != 0).then_some(code))
}

/// Opens a pidfd of process `pid`.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Returns the id of the process `pidfd` in the pid namespace of /proc (pidfd_open(2)).
pub fn pid_of(pidfd: BorrowedFd<'_>) -> std::io::Result<nix::unistd::Pid> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid
        .and_then(|pid| pid.trim().parse().ok())
        .filter(|pid| *pid > 0);
    pid.map(nix::unistd::Pid::from_raw)
        .ok_or_else(|| Errno::ESRCH.into())
}

/// Copies descriptor `number` of the thread `tid`, with close-on-exec (pidfd_getfd(2)).
///
/// Before Linux 6.9 it copies the descriptor of the thread's process, which differs if the thread has called
/// unshare(2) with CLONE_FILES.
pub fn descriptor_of(
    tid: i32,
    process: impl FnOnce() -> Option<i32>,
    number: RawFd,
) -> Result<OwnedFd> {
    const THREAD: libc::c_int = libc::O_EXCL; // PIDFD_THREAD, linux/pidfd.h
    // SAFETY: plain integers.
    let thread = check(unsafe { libc::syscall(libc::SYS_pidfd_open, tid, THREAD) });
    let thread = match thread {
        // SAFETY: the kernel has just made this descriptor for the caller.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd as RawFd) },
        Err(Errno::EINVAL) => pidfd_open(process().ok_or(Errno::ESRCH)?)?,
        Err(errno) => return Err(errno),
    };
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, thread.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Runs `work` without effective capabilities in this thread. The owner of a user namespace keeps them inside it
/// (capabilities(7)).
///
/// # Errors
/// The capabilities cannot be dropped or restored.
pub fn unprivileged<T>(work: impl FnOnce() -> T) -> Result<T> {
    let header = [CAPABILITY_VERSION_3, 0];
    let mut held = [0u32; 6];
    // SAFETY: version 3 writes sets of six 32-bit words behind a header of two.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), held.as_mut_ptr()) })?;
    let [
        _,
        permitted,
        inheritable,
        _,
        permitted_high,
        inheritable_high,
    ] = held;
    let none = [
        0,
        permitted,
        inheritable,
        0,
        permitted_high,
        inheritable_high,
    ];
    // SAFETY: version 3 reads a header of two and sets of six 32-bit words.
    let set = |sets: [u32; 6]| unsafe {
        check(libc::syscall(
            libc::SYS_capset,
            header.as_ptr(),
            sets.as_ptr(),
        ))
    };
    set(none)?;
    let done = work();
    set(held)?;
    // Gaining capabilities resets this to /proc/sys/fs/suid_dumpable.
    nix::sys::prctl::set_dumpable(false)?;
    Ok(done)
}

/// Runs `work` in this thread with the effective user `uid` instead of root. This user has all capabilities in the
/// user namespaces that it owns, and none elsewhere.
///
/// # Errors
/// The user cannot be changed or restored.
pub fn as_user<T>(uid: u32, work: impl FnOnce() -> T) -> Result<T> {
    const SAME: libc::uid_t = libc::uid_t::MAX;
    // SAFETY: plain integers.
    let become_user =
        |uid: libc::uid_t| check(unsafe { libc::syscall(libc::SYS_setresuid, SAME, uid, SAME) });
    become_user(uid)?;
    let done = work();
    become_user(0)?;
    Ok(done)
}

/// Sends a signal with a value, as sigqueue(3) does.
pub fn queue_signal(pid: i32, signal: i32, value: i32) -> Result<()> {
    let value = libc::sigval {
        sival_ptr: value as usize as *mut libc::c_void,
    };
    // SAFETY: sigqueue(3) passes the value without dereferencing it.
    check(unsafe { libc::sigqueue(pid, signal, value) }.into()).map(drop)
}

/// Resets all signals to their default actions and unblocks them, so that nothing is inherited from the caller.
pub fn reset_signals() -> Result<()> {
    // The kernel's structure: all zeros are SIG_DFL without flags. The C library keeps some signals for itself, and
    // its posix_spawn(3) makes a program start with these ignored.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_BYTES: usize = 8;
    let none = std::ptr::null_mut::<u64>();
    for signal in 1..=64 {
        // SAFETY: the structure is large enough; SIGKILL and SIGSTOP are EINVAL.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                none,
                MASK_BYTES,
            )
        };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// Reads the path of the working directory into `buffer`, without its NUL (getcwd(2)).
///
/// The C library's getcwd(3) fails for a directory outside the root.
pub fn current_directory(buffer: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the kernel writes at most `length` bytes.
    let length =
        check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(&buffer[..(length as usize).saturating_sub(1)])
}

/// Takes ownership of an inherited descriptor under its number, and sets close-on-exec.
///
/// Must run first in `main`, once for each descriptor.
pub fn take_over(number: u32) -> Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: a flag of a descriptor; fcntl(2) answers EBADF for what is not open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: the descriptor is open, and at the start of the program nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Copies an inherited descriptor, with close-on-exec.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl(2) returns EBADF if the descriptor is not open.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}
