//! Ways to change processes: users and capabilities, namespaces, limits, others.

use super::*;

pub const WAYS: &[&[Way]] = &[USERS, OWN_IDS, CAPABILITIES, TRAITS, NAMESPACES, OTHERS, SCHEDULING, LIMITS, MEMORY, SIGNALS];

const NEWUSER: c_long = 0x1000_0000;
const NEWNS: c_long = 0x0002_0000;
const NEWNET: c_long = 0x4000_0000;
const SIGCHLD: c_long = 17;

// An ordinary user's container has one id, and another one is not even known there: EINVAL.
const USERS: &[Way] = &[
    told("setuid", "EPERM|EINVAL", "setuid", "-", |_| sys(105, &[1])).with("1").of_process(),
    told("setreuid", "EPERM|EINVAL", "setreuid", "-", |_| sys(113, &[-1, 1])).with("-1,1").of_process(),
    told("setresuid", "EPERM|EINVAL", "setresuid", "-", |_| sys(117, &[1, 1, 1])).with("1,1,1").of_process(),
    told("setgid", "EPERM|EINVAL", "setgid", "-", |_| sys(106, &[1])).with("1").of_process(),
    told("setregid", "EPERM|EINVAL", "setregid", "-", |_| sys(114, &[1, -1])).with("1,-1").of_process(),
    told("setresgid", "EPERM|EINVAL", "setresgid", "-", |_| sys(119, &[-1, 1, 1])).with("-1,1,1").of_process(),
    told("setgroups", "EPERM", "setgroups", "-", |_| sys(116, &[1, address(&[0u32])])).with("1 groups").of_process(),
    told("setgroups to none", "EPERM", "setgroups", "-", |_| sys(116, &[0, NULL])).with("0 groups").of_process(),
    told("setuid of what is no user", "EINVAL", "setuid", "-", |_| sys(105, &[-1])).with("-1").of_process(),
];

const OWN: &str = "they are its own already";

const OWN_IDS: &[Way] = &[
    allowed("setuid to the same", OWN, |_| sys(105, &[sys(102, &[])?])),
    allowed("setgid to the same", OWN, |_| sys(106, &[sys(104, &[])?])),
    allowed("setresuid that leaves all", OWN, |_| sys(117, &[-1, -1, -1])),
    allowed("setreuid to the same", OWN, |_| sys(113, &[sys(102, &[])?, -1])),
    refused("setfsuid", "EPERM", "it has no errno, and changes nothing", |_| {
        sys(122, &[1])?;
        if sys(122, &[-1])? == 1 { Ok(0) } else { failed(1) }
    }),
    refused("setfsgid", "EPERM", "it has no errno, and changes nothing", |_| {
        sys(123, &[1])?;
        if sys(123, &[-1])? == 1 { Ok(0) } else { failed(1) }
    }),
];

const NO_CAPABILITY: &str = "no capability can be had";

const CAPABILITIES: &[Way] = &[
    refused("capset, all", "EPERM", NO_CAPABILITY, |_| {
        sys(126, &[address(&[0x2008_0522u32, 0]), address(&[u32::MAX; 6])])
    }),
    refused("prctl PR_CAP_AMBIENT_RAISE", "EPERM", NO_CAPABILITY, |_| sys(157, &[47, 2, 21, 0, 0])),
    refused("prctl PR_SET_SECUREBITS", "EPERM", NO_CAPABILITY, |_| sys(157, &[28, 1])),
    refused("prctl PR_SET_NO_NEW_PRIVS to 0", "EINVAL", "it cannot be taken back", |_| sys(157, &[38, 0, 0, 0, 0])),
    refused("prctl PR_SET_MM", "EPERM|EINVAL", NO_CAPABILITY, |_| sys(157, &[35, 8, 0, 0, 0])),
    allowed("prctl PR_SET_PDEATHSIG", "it seems to be set, and is not: imrun's guard ends the app", |_| {
        let mut signal: c_int = 0;
        sys(157, &[1, 15])?;
        sys(157, &[2, address(&mut signal)])?;
        if signal == 0 { Ok(0) } else { failed(22) }
    }),
    refused("seccomp, a second listener", "EBUSY|ok", "the container's filter has the one that there can be", |_| {
        let allow = [0x7fff_0000_0000_0006u64];
        sys(317, &[1, 8, address(&[1u64, address(&allow) as u64])])
    }),
];

const TRAIT: &str = "a trait of the process";

const TRAITS: &[Way] = &[
    allowed("prctl PR_SET_DUMPABLE", TRAIT, |_| sys(157, &[4, 1])),
    allowed("prctl PR_SET_CHILD_SUBREAPER", TRAIT, |_| sys(157, &[36, 1])),
    allowed("prctl PR_SET_NAME", TRAIT, |_| sys(157, &[15, text(c"evil\n\x1b[31m")])),
    allowed("prctl PR_SET_TIMERSLACK", TRAIT, |_| sys(157, &[29, 1])),
    allowed("prctl PR_MCE_KILL", TRAIT, |_| sys(157, &[33, 1, 1, 0, 0])),
    refused("prctl PR_SCHED_CORE", "EINVAL|ENODEV", "not for a thread alone", |_| sys(157, &[62, 1, 0, 0, 0])),
    refused("prctl PR_SET_PTRACER", "EINVAL|ok", TRAIT, |_| sys(157, &[0x5961_6d61, -1])),
    refused("personality ADDR_NO_RANDOMIZE", "EPERM", "the filter", |_| sys(135, &[0x0004_0000])),
    refused("personality READ_IMPLIES_EXEC", "EPERM", "the filter", |_| sys(135, &[0x0040_0000])),
    allowed("umask", TRAIT, |_| sys(95, &[0o22])),
];

const WORLD: &str = "the filter: a namespace of its own could have writable mounts";

const NAMESPACES: &[Way] = &[
    refused("unshare CLONE_NEWUSER", "EPERM", WORLD, |_| sys(272, &[NEWUSER])),
    refused("unshare CLONE_NEWNS", "EPERM", WORLD, |_| sys(272, &[NEWNS])),
    refused("unshare CLONE_NEWTIME", "EPERM", WORLD, |_| sys(272, &[0x80])),
    refused("unshare CLONE_NEWCGROUP", "EPERM", WORLD, |_| sys(272, &[0x0200_0000])),
    refused("unshare CLONE_NEWIPC", "EPERM", WORLD, |_| sys(272, &[0x0800_0000])),
    refused("clone CLONE_NEWUSER", "EPERM", WORLD, |_| child(NEWUSER)),
    refused("clone CLONE_NEWPID", "EPERM", WORLD, |_| child(0x2000_0000)),
    refused("clone CLONE_NEWNET with a high bit", "EPERM", WORLD, |_| child(1 << 40 | NEWNET)),
    refused("clone3", "ENOSYS", "its flags are behind a pointer", |_| {
        sys(435, &[address(&[NEWUSER as u64, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0]), 88])
    }),
    refused("setns of a file", "EPERM", WORLD, |_| sys(308, &[open(c"/proc/self/ns/net", RDONLY)?, 0])),
    refused("setns of a pidfd", "EPERM", WORLD, |_| sys(308, &[sys(434, &[1, 0])?, NEWNS])),
];

fn child(flags: c_long) -> Attempt {
    let pid = sys(56, &[flags | SIGCHLD, NULL, NULL, NULL, 0])?;
    if pid == 0 {
        let _ = sys(231, &[0]);
    }
    Ok(pid)
}

const OTHER: &str = "the filter: no process looks into another";

const OTHERS: &[Way] = &[
    refused("ptrace PTRACE_TRACEME", "EPERM", OTHER, |_| sys(101, &[0, 0, 0, 0])),
    refused("ptrace PTRACE_ATTACH", "EPERM", OTHER, |_| sys(101, &[16, 1, 0, 0])),
    refused("process_vm_readv", "EPERM", OTHER, |_| sys(310, &[1, NULL, 0, NULL, 0, 0])),
    refused("process_vm_writev", "EPERM", OTHER, |_| sys(311, &[1, NULL, 0, NULL, 0, 0])),
    refused("pidfd_getfd", "EPERM", OTHER, |_| sys(438, &[sys(434, &[1, 0])?, 0, 0])),
    refused("process_madvise", "EPERM", OTHER, |_| sys(440, &[0; 5])),
    refused("kcmp", "EPERM", OTHER, |_| sys(312, &[1, 1, 0, 0, 0])),
];

const SCHEDULING: &[Way] = &[
    refused("sched_setscheduler SCHED_FIFO", "EPERM", NO_CAPABILITY, |_| sys(144, &[0, 1, address(&[1u32])])),
    refused("sched_setattr SCHED_DEADLINE", "EPERM", NO_CAPABILITY, |_| {
        let attributes = [48 | 6 << 32, 0u64, 0, 1_000_000, 10_000_000, 10_000_000];
        sys(314, &[0, address(&attributes), 0])
    }),
    refused("setpriority -20", "EACCES|EPERM", NO_CAPABILITY, |_| sys(141, &[0, 0, -20])),
    allowed("setpriority 19", "an app may do less", |_| sys(141, &[0, 0, 19])),
    refused("ioprio_set, real time", "EPERM", NO_CAPABILITY, |_| sys(251, &[1, 0, 1 << 13])),
    allowed("sched_setaffinity", "within the container's cpus", |_| sys(203, &[0, 8, address(&u64::MAX)])),
    allowed("sched_yield", "it changes nothing", |_| sys(24, &[])),
];

const LIMITS: &[Way] = &[
    allowed("setrlimit RLIMIT_CORE", "it seems to be set, and stays", |_| {
        let before = core_limit()?;
        sys(160, &[4, address(&[0u64, 0])])?;
        if core_limit()? == before { Ok(0) } else { failed(22) }
    }),
    allowed("prlimit64 RLIMIT_CORE", "it seems to be set, and stays", |_| {
        let before = core_limit()?;
        sys(302, &[0, 4, address(&[u64::MAX, u64::MAX]), NULL])?;
        if core_limit()? == before { Ok(0) } else { failed(22) }
    }),
    refused("setrlimit, a higher one", "EPERM", NO_CAPABILITY, |_| {
        let mut limit = [0u64; 2];
        sys(97, &[7, address(&mut limit)])?;
        limit[1] += 1;
        sys(160, &[7, address(&limit)])
    }),
    allowed("setrlimit, the same one", "an app may have less", |_| {
        let mut limit = [0u64; 2];
        sys(97, &[7, address(&mut limit)])?;
        sys(160, &[7, address(&limit)])
    }),
    refused("prlimit64 of nobody", "ESRCH", "there is no such process", |_| sys(302, &[32767, 7, address(&[1u64, 1]), NULL])),
];

fn core_limit() -> Result<[u64; 2], Error> {
    let mut limit = [0u64; 2];
    sys(97, &[4, address(&mut limit)])?;
    Ok(limit)
}

const MEMORY: &[Way] = &[
    refused("mlockall", "ok|ENOMEM|EPERM", "within its limit", |_| sys(151, &[3])),
    allowed("munlockall", "its own memory", |_| sys(152, &[])),
    allowed("mmap to be written and executed", "a process can execute its own memory", |_| sys(9, &[0, 4096, 7, 0x22, -1, 0])),
    allowed("madvise", "its own memory", |_| sys(28, &[sys(9, &[0, 4096, 3, 0x22, -1, 0])?, 4096, 4])),
    refused("rseq of nothing", "EINVAL", "its own memory", |_| sys(334, &[0; 4])),
];

const SIGNALS: &[Way] = &[
    refused("kill all others", "ESRCH", "there are none", |_| sys(62, &[-1, 0])),
    allowed("kill process 1", "it is the container's own", |_| sys(62, &[1, 0])),
    allowed("pidfd_open", "it is the container's own", |_| sys(434, &[1, 0])),
    allowed("timer_create", "a trait of the process", |_| sys(222, &[1, NULL, address(&mut 0u64)])),
    refused("timerfd_create, an alarm", "EPERM|EOPNOTSUPP|EINVAL", NO_CAPABILITY, |_| sys(283, &[8, 0])),
    allowed("setitimer", "a trait of the process", |_| sys(38, &[0, address(&[0u64; 4]), NULL])),
    refused("setpgid", "EPERM", "it leads its session", |_| sys(109, &[0, 0])),
    refused("setsid", "EPERM", "it leads its session", |_| sys(112, &[])),
];
