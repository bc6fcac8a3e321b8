//! What a process can do to itself and to others: privileges, signals, another program.
//!
//! The credential calls are made directly: the C library's own would also signal every thread that
//! it remembers, and in the child of a clone it remembers threads that are not there.

use super::check;
use nix::Result;
use nix::errno::Errno;
use std::ffi::{CStr, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sets of capabilities as three pairs of 32-bit words (_LINUX_CAPABILITY_VERSION_3, linux/capability.h).
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// As whom a command is executed in a container.
#[derive(Debug, Clone)]
pub enum Identity {
    /// As the same user of the host, whom the container does not know, with all capabilities in its user
    /// namespace and none elsewhere.
    Caller,
    /// As a user of the container, who gains nothing by executing anything.
    User {
        /// In the container.
        uid: u32,
        /// In the container.
        gid: u32,
        /// The supplementary groups, in the container.
        groups: Vec<u32>,
        /// A bit for each capability's number.
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

/// Lets a command be executed in all namespaces of the process that `pidfd` refers to, in a working
/// directory that is there.
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
        // A change of credentials clears it, so it comes last.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: the closure makes system calls alone, and neither allocates nor locks.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// Goes on in a child of this process, as only a child is in the process namespace that was entered. The
/// process itself ends as the child does.
fn split_off() -> Result<()> {
    // SAFETY: this process has one thread, and the child goes on with a copy of its memory.
    let child = check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })?;
    if child == 0 {
        return Ok(());
    }
    // Who waits until the program was executed sees it by the end of a pipe.
    // SAFETY: nothing is used any more but the child's number.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
    let mut status = 0;
    // SAFETY: the pointer is valid.
    let mut wait =
        || check(unsafe { libc::waitpid(child as libc::pid_t, &raw mut status, 0) }.into());
    while wait() == Err(Errno::EINTR) {}
    match libc::WIFEXITED(status) {
        true => exit(libc::WEXITSTATUS(status)),
        false => exit(128 + libc::WTERMSIG(status)),
    }
}

/// Splits this process in two: the new one, or None in the new one.
///
/// # Errors
/// EBUSY where it has several threads: a lock that another one holds would stay locked.
pub fn fork() -> Result<Option<nix::unistd::Pid>> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: nobody else runs in this process.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok((pid != 0).then(|| nix::unistd::Pid::from_raw(pid as i32)))
}

/// Lets standard input, output and error lead nowhere.
pub fn close_stdio() -> Result<()> {
    (0..3).try_for_each(close_stream)
}

/// Lets one standard stream lead nowhere.
pub fn close_stream(number: RawFd) -> Result<()> {
    let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC;
    let null = nix::fcntl::open(c"/dev/null", flags, nix::sys::stat::Mode::empty())?;
    dup2(null.as_raw_fd(), number)
}

/// Ends this process at once: no destructors, no buffers.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Replaces this process's program; returns only on failure.
///
/// `argv` and `envp` are C strings' pointers, each list ended by a null pointer.
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

/// A copy of a descriptor, close-on-exec, whose number is `first` or higher.
pub fn duplicate_from(descriptor: impl AsFd, first: RawFd) -> Result<OwnedFd> {
    let number = descriptor.as_fd().as_raw_fd();
    // SAFETY: the kernel makes the copy for the caller alone.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, first) }.into())?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// C strings as execve(2) wants them, made before the clone because making them allocates.
pub struct Pointers(Vec<*const c_char>, Vec<std::ffi::CString>);

// SAFETY: the pointers lead to the strings beside them, which nobody changes.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

impl Pointers {
    /// Takes the strings over.
    pub fn new(strings: Vec<std::ffi::CString>) -> Pointers {
        let list = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Pointers(list, strings)
    }

    /// The strings.
    pub fn strings(&self) -> &[std::ffi::CString] {
        &self.1
    }
}

/// Sets the supplementary groups, if they are given, then all group ids, then all user ids, of this one
/// thread.
pub fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<()> {
    if let Some(groups) = groups {
        // SAFETY: the pointer is valid for as many ids as the length says.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Makes `uid` the effective user of this one thread, whose rights to files stay those of its real
/// user: a user namespace that it makes belongs to `uid`.
pub fn set_effective_user(uid: u32) -> Result<()> {
    const SAME: u32 = u32::MAX;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, SAME, uid, SAME) })?;
    // SAFETY: getuid(2) always succeeds.
    let real = unsafe { libc::getuid() };
    // It tells no error, and the user that it was before; a second call tells what the first did.
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

/// The NIS domain's name of this uts namespace.
pub fn set_domain_name(name: &CStr) -> Result<()> {
    // SAFETY: the pointer is valid for as many bytes as the length says.
    check(unsafe { libc::setdomainname(name.as_ptr(), name.count_bytes()) }.into()).map(drop)
}

/// Sets a resource limit of process `pid` (`RLIMIT_*`).
pub fn limit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the kernel reads one structure; EINVAL says that it has no such resource.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, none) })
        .map(drop)
}

/// Takes a capability out of the bounding set; EINVAL says that the kernel has none of that number.
pub fn drop_bounding(capability: i32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })
        .map(drop)
}

/// Sets the permitted, effective, inheritable and ambient sets, a bit for each capability's number:
/// a program that is executed afterwards has these, whatever its user.
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

/// The execution domain that system calls tell of (personality(2)).
pub fn set_personality(persona: libc::c_ulong) -> Result<()> {
    // SAFETY: a plain integer.
    check(unsafe { libc::personality(persona) }.into()).map(drop)
}

/// Whether this process may execute the file `path`, as execve(2) would find out.
pub fn find_executable(path: &CStr) -> Result<()> {
    let (directory, flags) = (libc::AT_FDCWD, libc::AT_EACCESS);
    // SAFETY: the path is a C string; nothing else is passed that leads to memory.
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

/// Sets how the kernel shares processors with process `pid` (sched_setattr(2)).
pub fn set_scheduler(pid: i32, policy: i32, flags: u64, nice: i32) -> Result<()> {
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        // Of policies that are not set here: priority; runtime, deadline, period.
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
    // SAFETY: the kernel reads as many bytes as the structure says that it has.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) })
        .map(drop)
}

/// Sets how the kernel shares disks with process `pid` (ioprio_set(2)): a class and a priority in it.
pub fn set_io_priority(pid: i32, class: i32, priority: i32) -> Result<()> {
    const PROCESS: i32 = 1; // IOPRIO_WHO_PROCESS, linux/ioprio.h
    const CLASS_SHIFT: i32 = 13; // IOPRIO_CLASS_SHIFT
    let value = class << CLASS_SHIFT | priority;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, pid, value) }).map(drop)
}

/// Marks every descriptor from `first` up close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: plain integers; nothing is closed before execve(2).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Lets these descriptors stay open when a program is executed.
pub fn keep_open(numbers: std::ops::Range<RawFd>) -> Result<()> {
    for number in numbers {
        // SAFETY: a flag of a descriptor; fcntl(2) answers EBADF for what is not open.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into())?;
    }
    Ok(())
}

/// Makes `number` a copy of `descriptor`, which stays open when a program is executed.
pub fn dup2(descriptor: RawFd, number: RawFd) -> Result<()> {
    // SAFETY: of the numbers that this is called with nobody owns the second: they are 0, 1 and 2.
    check(unsafe { libc::dup2(descriptor, number) }.into()).map(drop)
}

/// Lets standard output go where standard error does; what it was.
pub fn exchange_stdout() -> Result<OwnedFd> {
    let stdout = inherited(1)?;
    dup2(2, 1)?;
    Ok(stdout)
}

/// Makes standard output what it was.
pub fn restore_stdout(stdout: OwnedFd) -> Result<()> {
    dup2(stdout.as_raw_fd(), 1)
}

/// Closes every descriptor from `first` to `last` that this program did not open itself.
///
/// Called first thing in `main`, when no descriptor above standard error is this program's own.
pub fn close_inherited(first: u32, last: u32) -> Result<()> {
    // SAFETY: at the start of the program nothing owns these descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Sends a signal to the process that `pidfd` refers to.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means that of kill(2).
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

/// The wait status of a process that was reaped (`PIDFD_GET_INFO` of linux/pidfd.h, Linux 6.15); None
/// as long as nobody did.
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>> {
    const EXIT: u64 = 1 << 3; // PIDFD_INFO_EXIT
    /// The first version of the structure, in 64-bit words: the mask first, the code in the last half.
    const WORDS: usize = 8;
    const GET_INFO: libc::c_ulong = nix::request_code_readwrite!(0xff, 11, WORDS * 8) as _;
    let mut info = [0u64; WORDS];
    info[0] = EXIT;
    // SAFETY: the request's number has the structure's size, which the kernel keeps to.
    check(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, info.as_mut_ptr()) }.into())?;
    let bytes = info[7].to_ne_bytes();
    let code = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    Ok((info[0] & EXIT != 0).then_some(code))
}

/// A descriptor that refers to process `pid`.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The id, in the pid namespace of /proc, of the process that `pidfd` refers to (pidfd_open(2)).
pub fn pid_of(pidfd: BorrowedFd<'_>) -> std::io::Result<nix::unistd::Pid> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid
        .and_then(|pid| pid.trim().parse().ok())
        .filter(|pid| *pid > 0);
    pid.map(nix::unistd::Pid::from_raw)
        .ok_or_else(|| Errno::ESRCH.into())
}

/// Copies descriptor `number` of the thread `tid`, close-on-exec: the same open file (pidfd_getfd(2)).
///
/// Before Linux 6.9 it is that of the thread's process, which differs where the thread has called
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

/// Runs `work` with no effective capability in this thread. The owner of a user namespace keeps his rights
/// in that (capabilities(7)).
///
/// # Errors
/// The capabilities cannot be given up, or taken up again.
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
    // Gaining capabilities makes it what /proc/sys/fs/suid_dumpable says.
    nix::sys::prctl::set_dumpable(false)?;
    Ok(done)
}

/// Does `work` in this thread with `uid` in the place of root as the effective user, who has all
/// capabilities in the user namespaces that belong to him and none elsewhere.
///
/// # Errors
/// The user cannot be changed, or changed back.
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
    // SAFETY: sigqueue(3) passes the value on; nobody dereferences it.
    check(unsafe { libc::sigqueue(pid, signal, value) }.into()).map(drop)
}

/// Gives every signal its default action and unblocks all: nothing is inherited from the caller.
pub fn reset_signals() -> Result<()> {
    // SAFETY: an all-zero sigaction is SIG_DFL without flags.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // SAFETY: the structure is valid; SIGKILL, SIGSTOP and the C library's own two are EINVAL.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// The path of the working directory, without its NUL, in `buffer` (getcwd(2)).
///
/// The C library's getcwd(3) would turn a directory outside the root into an error of its own.
pub fn current_directory(buffer: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the kernel writes at most as many bytes as the length says.
    let length =
        check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(&buffer[..(length as usize).saturating_sub(1)])
}

/// A descriptor that the caller of this program handed over, under its own number, close-on-exec.
///
/// Called once for each, first thing in `main`.
pub fn take_over(number: u32) -> Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: a flag of a descriptor; fcntl(2) answers EBADF for what is not open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, and at the start of the program nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A copy of a descriptor that the caller of this program handed over, close-on-exec.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl(2) answers EBADF for what is not open.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}
