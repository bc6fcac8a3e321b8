//! System calls that every container may make, and the answers to the others.
//!
//! The source is the default profile of Docker and containerd (github.com/moby/profiles,
//! seccomp/default.json) without the calls that it allows by capability. This list is stricter in these
//! points: no openat2 (its flags are invisible to a filter), io_uring, AIO, memfd_secret, ptrace and its
//! relatives, file handles, clock_adjtime, modify_ldt, TIOCSTI, and no address family except unix, inet,
//! inet6 and netlink; the core dump limit cannot be changed.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("seccomp has no table of this architecture's system calls");
#[cfg_attr(target_arch = "x86_64", path = "calls/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "calls/aarch64.rs")]
mod machine;

use super::{Answer, Condition, Policy, Rule, numbers};

pub(super) use machine::{ARCHITECTURE, FOREIGN};

macro_rules! calls {
    ($($name:ident)*) => { &[$(numbers::$name as u32),*] };
}
use calls;

const ALLOWED: &[u32] = calls! {
    SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_chroot SYS_clock_getres
    SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup
    SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve
    SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate
    SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl
    SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat
    SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_getcpu SYS_getcwd SYS_getdents64
    SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid
    SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_get_robust_list
    SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid
    SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_ioprio_get SYS_ioprio_set
    SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr
    SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise
    SYS_membarrier SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall
    SYS_mmap SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend
    SYS_mq_unlink SYS_mremap SYS_mseal SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock
    SYS_munlockall SYS_munmap SYS_nanosleep SYS_newfstatat SYS_openat SYS_pidfd_open SYS_pidfd_send_signal
    SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_pread64 SYS_preadv SYS_preadv2
    SYS_process_mrelease SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead
    SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr
    SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending
    SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_tgsigqueueinfo SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam
    SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getscheduler SYS_sched_rr_get_interval
    SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield
    SYS_seccomp SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg
    SYS_sendto SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority
    SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_set_robust_list SYS_setsid SYS_setsockopt
    SYS_set_tid_address SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown
    SYS_sigaltstack SYS_signalfd4 SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range
    SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun
    SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times
    SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid
    SYS_write SYS_writev
};

/// Allowed calls newer than the C library's header; the numbers are the same on every architecture
/// (scripts/syscall.tbl).
const ALLOWED_NEW: &[u32] = &[
    451, // cachestat
    453, // map_shadow_stack
    454, // futex_wake
    455, // futex_wait
    456, // futex_requeue
    463, // setxattrat
    464, // getxattrat
    465, // listxattrat
    466, // removexattrat
    468, // file_getattr
    469, // file_setattr
];

/// Calls that fail with ENOSYS, as if the kernel lacked them, so that a program does without them.
///
/// - `clone3` and `openat2` have their flags behind a pointer, which a filter cannot follow.
/// - `io_*`: the kernel counts contexts of asynchronous I/O for the whole host
///   (`/proc/sys/fs/aio-max-nr`), so that one container could take all of them.
/// - `memfd_secret`: the observer could not read a path in memory that the kernel hides from it.
const HIDDEN: &[u32] = calls! {
    SYS_clone3 SYS_io_cancel SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit SYS_memfd_secret
    SYS_openat2
};

/// Calls denied to containers: EPERM, as from a kernel that requires a capability.
const DENIED: &[u32] = calls! {
    SYS_acct SYS_add_key SYS_adjtimex SYS_bpf SYS_clock_adjtime SYS_clock_settime SYS_delete_module
    SYS_fanotify_init SYS_finit_module SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_get_mempolicy
    SYS_init_module SYS_io_uring_enter SYS_io_uring_register SYS_io_uring_setup SYS_kcmp SYS_kexec_file_load
    SYS_kexec_load SYS_keyctl SYS_lookup_dcookie SYS_mbind SYS_migrate_pages SYS_mount SYS_mount_setattr
    SYS_move_mount SYS_move_pages SYS_name_to_handle_at SYS_nfsservctl SYS_open_by_handle_at SYS_open_tree
    SYS_perf_event_open SYS_pidfd_getfd SYS_pivot_root SYS_process_madvise SYS_process_vm_readv
    SYS_process_vm_writev SYS_ptrace SYS_quotactl SYS_quotactl_fd SYS_reboot SYS_request_key
    SYS_setdomainname SYS_sethostname SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_setns
    SYS_settimeofday SYS_swapoff SYS_swapon SYS_syslog SYS_umount2 SYS_userfaultfd SYS_vhangup
};

/// Denied calls newer than the C library's header; see [`ALLOWED_NEW`].
const DENIED_NEW: &[u32] = &[
    457, // statmount
    458, // listmount
    467, // open_tree_attr
];

const DENY: Answer = Answer::Errno(libc::EPERM as u16);
const UNKNOWN: Answer = Answer::Errno(libc::ENOSYS as u16);

/// Bits of an int: the kernel ignores the rest of the register.
const INT: u64 = 0xffff_ffff;

pub(super) fn container() -> Policy {
    let always = |answer| move |number: &u32| (*number, Rule::always(answer));
    let allowed = [ALLOWED, ALLOWED_NEW, machine::ALLOWED]
        .into_iter()
        .flatten();
    let denied = [DENIED, DENIED_NEW, machine::DENIED].into_iter().flatten();
    let special = special()
        .into_iter()
        .map(|(number, rule)| (number as u32, rule));
    let rules = allowed
        .map(always(Answer::Allow))
        .chain(denied.map(always(DENY)))
        .chain(HIDDEN.iter().map(always(UNKNOWN)));
    let rules = rules.chain(special).collect();
    Policy {
        rules,
        otherwise: UNKNOWN,
    }
}

/// Returns the rules of calls whose arguments matter, or that have a special answer.
fn special() -> [(libc::c_long, Rule); 9] {
    let families = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ];
    let unsupported = Answer::Errno(libc::EAFNOSUPPORT as u16);
    let socket = only(&families, unsupported);
    [
        (libc::SYS_clone, only_flags(!NAMESPACES, DENY)),
        (libc::SYS_unshare, only_flags(UNSHARED, DENY)),
        (libc::SYS_personality, only(&[0, -1], DENY)),
        (
            libc::SYS_ioctl,
            all_but(&[libc::TIOCSTI as i32, TIOCLINUX], 1, DENY),
        ),
        // The thread that cloned the app ends once the app runs: an app with a parent death signal would
        // die of that.
        (
            libc::SYS_prctl,
            all_but(&[libc::PR_SET_PDEATHSIG], 0, Answer::Errno(0)),
        ),
        (
            numbers::SYS_setrlimit,
            all_but(&[CORE_LIMIT], 0, Answer::Errno(0)),
        ),
        (libc::SYS_prlimit64, process_limit()),
        (libc::SYS_socket, socket.clone()),
        (libc::SYS_socketpair, socket),
    ]
}

/// RLIMIT_CORE, whose value imrun sets and nobody may change: attempts seem to succeed.
///
/// Only with a limit of 1 byte the kernel passes no dump to a program named in
/// `/proc/sys/kernel/core_pattern` either (core(5)). If an app could raise the limit, or lower it to 0 as
/// many careful ones do, its memory would be written to the host.
const CORE_LIMIT: i32 = libc::RLIMIT_CORE as i32;

/// Returns the rule for prlimit64(2), which only reads if it has no new limit.
fn process_limit() -> Rule {
    let reads = Condition {
        argument: 2,
        mask: u64::MAX,
        value: 0,
    };
    Rule {
        cases: vec![
            (reads, Answer::Allow),
            (is(1, CORE_LIMIT), Answer::Errno(0)),
        ],
        otherwise: Answer::Allow,
    }
}

/// Returns the rule for memfd_create(2): allowed only with `MFD_NOEXEC_SEAL` and without `MFD_EXEC`.
pub(super) fn memory() -> Rule {
    let (sealed, executable) = (libc::MFD_NOEXEC_SEAL, libc::MFD_EXEC);
    let harmless = Condition {
        argument: 1,
        mask: u64::from(sealed | executable),
        value: u64::from(sealed),
    };
    Rule {
        cases: vec![(harmless, Answer::Allow)],
        otherwise: Answer::Errno(libc::EACCES as u16),
    }
}

/// ioctl that pastes into the terminal, as TIOCSTI does (ioctl_console(2)).
const TIOCLINUX: i32 = 0x541c;

/// CLONE_NEW* of clone(2), whose low bits hold the signal's number and so leave no room for
/// CLONE_NEWTIME; the kernel uses the lower half of these flags.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Attributes that a thread may stop sharing.
const UNSHARED: u64 = (libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SYSVSEM) as u64;

/// Makes a rule that allows a call if the first argument has only these flags.
fn only_flags(flags: u64, otherwise: Answer) -> Rule {
    let harmless = Condition {
        argument: 0,
        mask: !flags,
        value: 0,
    };
    Rule {
        cases: vec![(harmless, Answer::Allow)],
        otherwise,
    }
}

/// Makes a rule that allows a call if the first argument is one of these values.
fn only(values: &[i32], otherwise: Answer) -> Rule {
    let case = |value: &i32| (is(0, *value), Answer::Allow);
    Rule {
        cases: values.iter().map(case).collect(),
        otherwise,
    }
}

/// Makes a rule that allows a call if an argument is none of these values.
fn all_but(values: &[i32], argument: u8, answer: Answer) -> Rule {
    let case = |value: &i32| (is(argument, *value), answer);
    Rule {
        cases: values.iter().map(case).collect(),
        otherwise: Answer::Allow,
    }
}

fn is(argument: u8, value: i32) -> Condition {
    Condition {
        argument,
        mask: INT,
        value: u64::from(value as u32),
    }
}
