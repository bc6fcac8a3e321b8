//! Ways to change the machine: mounts, swap, clocks, modules, the files of /proc and /sys.

use super::*;

pub const WAYS: &[&[Way]] = &[MOUNTS, HANDLES, ACCOUNTS, HOST, CODE, SYSCTLS, OWN_PROC, TRAITS, SYSFS, OBJECTS, ADDRESSES, NETLINK];

const MOUNTS: &[Way] = &[
    told("mount a tmpfs", "EPERM", "mount", "/home", |_| {
        sys(165, &[text(c"none"), text(c"/home"), text(c"tmpfs"), 0, NULL])
    }),
    told("mount MS_BIND", "EPERM", "mount", "/probe", |_| sys(165, &[text(c"/"), text(c"/probe"), NULL, 0x1000, NULL])),
    told("mount MS_REMOUNT", "EPERM", "mount", "/", |_| sys(165, &[NULL, text(c"/"), NULL, 0x20, NULL])),
    told("mount MS_REMOUNT|MS_BIND", "EPERM", "mount", "/dev", |_| sys(165, &[NULL, text(c"/dev"), NULL, 0x1020, NULL])),
    told("mount proc", "EPERM", "mount", "/proc", |_| sys(165, &[text(c"p"), text(c"/proc"), text(c"proc"), 0, NULL])),
    told("mount MS_MOVE", "EPERM", "mount", "/sys", |_| sys(165, &[text(c"/proc"), text(c"/sys"), NULL, 0x2000, NULL])),
    told("umount2", "EPERM", "umount2", "/proc", |_| sys(166, &[text(c"/proc"), 2])),
    told("pivot_root", "EPERM", "pivot_root", "/", |_| sys(155, &[text(c"/"), text(c"/")])),
    told("chroot", "EPERM", "chroot", "/home", |_| sys(161, &[text(c"/home")])).of_process(),
    refused("chroot to what is not there", "ENOENT", "it would change nothing anywhere", |_| sys(161, &[text(c"/none")])),
    told("fsopen", "EPERM", "fsopen", "-", |_| sys(430, &[text(c"tmpfs"), 0])),
    told("fsconfig", "EPERM", "fsconfig", "-", |_| sys(431, &[0, 6, NULL, NULL, 0])),
    told("fsmount", "EPERM", "fsmount", "-", |_| sys(432, &[0, 0, 0])),
    told("fspick", "EPERM", "fspick", "/", |_| sys(433, &[HERE, text(c"/"), 0])),
    told("open_tree OPEN_TREE_CLONE", "EPERM", "open_tree", "/", |_| sys(428, &[HERE, text(c"/"), 1])),
    told("open_tree_attr", "EPERM", "open_tree_attr", "/", |_| sys(467, &[HERE, text(c"/"), 1, NULL, 0])),
    told("move_mount", "EPERM", "move_mount", "/home", |lab| sys(429, &[lab.home, text(c""), HERE, text(c"/home"), 4])),
    told("mount_setattr", "EPERM", "mount_setattr", "/", |_| {
        sys(442, &[HERE, text(c"/"), 0, address(&[0u64, 1, 0, 0]), 32])
    }),
    told("mount_setattr of a descriptor", "EPERM", "mount_setattr", "/home", |lab| {
        sys(442, &[lab.home, text(c""), EMPTY_PATH, address(&[0u64, 1, 0, 0]), 32])
    }),
];

const BEYOND: &str = "it leads out of the root";

const HANDLES: &[Way] = &[
    refused("statmount", "EPERM", "it tells of the host's mounts", |_| sys(457, &[NULL, NULL, 0, 0])),
    refused("listmount", "EPERM", "it tells of the host's mounts", |_| sys(458, &[NULL, NULL, 0, 0])),
    refused("name_to_handle_at", "EPERM", BEYOND, |_| {
        sys(303, &[HERE, text(c"/probe"), address(&mut [64u64; 16]), address(&mut 0u64), 0])
    }),
    refused("open_by_handle_at", "EPERM", BEYOND, |lab| sys(304, &[lab.home, address(&mut [64u64; 16]), RDWR])),
];

const ACCOUNTS: &[Way] = &[
    told("swapon", "EPERM", "swapon", "/probe", |_| sys(167, &[text(c"/probe"), 0])),
    told("swapoff", "EPERM", "swapoff", "/probe", |_| sys(168, &[text(c"/probe")])),
    told("acct", "EPERM", "acct", "/home/new", |_| sys(163, &[text(c"/home/new")])),
    told("acct, off", "EPERM", "acct", "-", |_| sys(163, &[NULL])),
    told("quotactl", "EPERM", "quotactl", "/dev/x", |_| sys(179, &[0x8000_0200, text(c"/dev/x"), 0, NULL])),
    told("quotactl_fd", "EPERM", "quotactl_fd", "/probe", |lab| sys(443, &[lab.file, 0x8000_0200, 0, NULL])),
];

const FILTER: &str = "the filter: it is the machine's";

const HOST: &[Way] = &[
    refused("settimeofday", "EPERM", FILTER, |_| sys(164, &[address(&[1u64, 0]), NULL])),
    refused("clock_settime", "EPERM", FILTER, |_| sys(227, &[0, address(&[1u64, 0])])),
    refused("adjtimex", "EPERM", FILTER, |_| sys(159, &[address(&mut [1u64; 32])])),
    refused("clock_adjtime", "EPERM", FILTER, |_| sys(305, &[0, address(&mut [1u64; 32])])),
    refused("sethostname", "EPERM", FILTER, |_| sys(170, &[text(c"evil"), 4])),
    refused("setdomainname", "EPERM", FILTER, |_| sys(171, &[text(c"evil"), 4])),
    refused("reboot", "EPERM", FILTER, |_| sys(169, &[0xfee1_dead, 672_274_793, 0x89ab_cdef, NULL])),
    refused("syslog, clear", "EPERM", FILTER, |_| sys(103, &[5, NULL, 0])),
    refused("vhangup", "EPERM", FILTER, |_| sys(153, &[])),
    refused("iopl", "EPERM", FILTER, |_| sys(172, &[3])),
    refused("ioperm", "EPERM", FILTER, |_| sys(173, &[0x80, 1, 1])),
    refused("modify_ldt", "EPERM", FILTER, |_| sys(154, &[0, address(&mut [0u64; 2]), 16])),
    refused("sysfs", "EPERM", FILTER, |_| sys(139, &[3])),
    refused("uselib", "EPERM", FILTER, |_| sys(134, &[text(c"/probe")])),
    refused("ustat", "EPERM", FILTER, |_| sys(136, &[0, NULL])),
    refused("_sysctl", "ENOSYS", "the kernel has it no more", |_| sys(156, &[NULL])),
    refused("nfsservctl", "EPERM", FILTER, |_| sys(180, &[0, NULL, NULL])),
    refused("lookup_dcookie", "EPERM", FILTER, |_| sys(212, &[0, NULL, 0])),
];

const CODE: &[Way] = &[
    refused("kexec_load", "EPERM", FILTER, |_| sys(246, &[0, 0, NULL, 0])),
    refused("kexec_file_load", "EPERM", FILTER, |_| sys(320, &[-1, -1, 0, NULL, 0])),
    refused("init_module", "EPERM", FILTER, |_| sys(175, &[NULL, 0, text(c"")])),
    refused("finit_module", "EPERM", FILTER, |lab| sys(313, &[lab.file, text(c""), 0])),
    refused("delete_module", "EPERM", FILTER, |_| sys(176, &[text(c"x"), 0])),
    refused("bpf", "EPERM", FILTER, |_| sys(321, &[0, address(&[0u64; 8]), 64])),
    refused("perf_event_open", "EPERM", FILTER, |_| sys(298, &[address(&[0u64; 16]), 0, -1, -1, 0])),
    refused("userfaultfd", "EPERM", FILTER, |_| sys(323, &[1])),
    refused("add_key", "EPERM", "keyrings belong to no container", |_| {
        sys(248, &[text(c"user"), text(c"a"), text(c"b"), 1, -3])
    }),
    refused("request_key", "EPERM", "keyrings belong to no container", |_| sys(249, &[text(c"user"), text(c"a"), NULL, -3])),
    refused("keyctl", "EPERM", "keyrings belong to no container", |_| sys(250, &[1, NULL])),
    refused("mbind", "EPERM", FILTER, |_| sys(237, &[0; 6])),
    refused("set_mempolicy", "EPERM", FILTER, |_| sys(238, &[0, NULL, 0])),
    refused("set_mempolicy_home_node", "EPERM", FILTER, |_| sys(450, &[0, 0, 0, 0])),
    refused("migrate_pages", "EPERM", FILTER, |_| sys(256, &[0, 0, NULL, NULL])),
    refused("move_pages", "EPERM", FILTER, |_| sys(279, &[0, 0, NULL, NULL, NULL, 0])),
];

macro_rules! write_ways {
    ($list:ident: $($path:literal $outcome:literal $place:literal;)*) => {
        const $list: &[Way] = &[$(
            told(concat!("write ", $path), $outcome, "openat", $place, |_| {
                write_to(CStr::from_bytes_with_nul(concat!($path, "\0").as_bytes()).unwrap(), b"1")
            })
        ),*];
    };
}

// A file of sysfs or of a sysctl is the host's root's: the user is looked at before the mount is.
write_ways! { SYSCTLS:
    "/proc/sys/kernel/hostname" "EACCES|EROFS" "/proc/sys/kernel/hostname";
    "/proc/sys/kernel/core_pattern" "EACCES|EROFS" "/proc/sys/kernel/core_pattern";
    "/proc/sys/kernel/modprobe" "EACCES|EROFS|ENOENT" "/proc/sys/kernel/modprobe";
    "/proc/sys/kernel/shmmni" "EACCES|EROFS" "/proc/sys/kernel/shmmni";
    "/proc/sys/vm/drop_caches" "EACCES|EROFS" "/proc/sys/vm/drop_caches";
    "/proc/sys/vm/memfd_noexec" "EACCES|EROFS|ENOENT" "/proc/sys/vm/memfd_noexec";
    "/proc/sys/net/ipv4/ip_forward" "EACCES|EROFS" "/proc/sys/net/ipv4/ip_forward";
    "/proc/sys/user/max_user_namespaces" "EACCES|EROFS" "/proc/sys/user/max_user_namespaces";
    "/proc/sys/fs/binfmt_misc/register" "EACCES|EROFS|ENOENT" "/proc/sys/fs/binfmt_misc/register";
    "/proc/sysrq-trigger" "EACCES|EROFS|ENOENT" "/proc/sysrq-trigger";
    "/proc/irq/default_smp_affinity" "EACCES|EROFS|ENOENT" "/proc/irq/default_smp_affinity";
    "/proc/mtrr" "EACCES|EROFS|ENOENT" "/proc/mtrr";
    "/proc/fs/nfsd/x" "ENOENT" "/proc/fs/nfsd/x";
    "/proc/pressure/memory" "EROFS|EACCES|ENOENT" "/proc/pressure/memory";
    "/proc/none" "ENOENT" "/proc/none";
}

write_ways! { OWN_PROC:
    "/proc/self/mem" "EROFS" "/proc/1/mem";
    "/proc/self/coredump_filter" "EROFS|ENOENT" "/proc/1/coredump_filter";
    "/proc/self/uid_map" "EROFS" "/proc/1/uid_map";
    "/proc/self/gid_map" "EROFS" "/proc/1/gid_map";
    "/proc/self/setgroups" "EROFS" "/proc/1/setgroups";
    "/proc/self/attr/current" "EROFS|ENOENT" "/proc/1/attr/current";
    "/proc/self/attr/exec" "EROFS|ENOENT" "/proc/1/attr/exec";
    "/proc/self/clear_refs" "EROFS|ENOENT" "/proc/1/clear_refs";
    "/proc/self/loginuid" "EROFS|ENOENT" "/proc/1/loginuid";
    "/proc/self/autogroup" "EROFS|ENOENT" "/proc/1/autogroup";
    "/proc/self/make-it-fail" "EROFS|ENOENT" "/proc/1/make-it-fail";
    "/proc/self/timens_offsets" "EROFS|ENOENT" "/proc/1/timens_offsets";
    "/proc/self/task/1/attr/current" "EROFS|ENOENT" "/proc/1/task/1/attr/current";
}

const TRAIT: &str = "a trait of the process, no change of a file system";

/// Names and the like: refused, because /proc is read-only, and nobody is told.
const TRAITS: &[Way] = &[
    refused("write /proc/self/comm", "EROFS", TRAIT, |_| write_to(c"/proc/self/comm", b"x")).strictly("EACCES"),
    refused("write /proc/1/comm", "EROFS", TRAIT, |_| write_to(c"/proc/1/comm", b"x")).strictly("EACCES"),
    refused("write /proc/thread-self/comm", "EROFS", TRAIT, |_| write_to(c"/proc/thread-self/comm", b"x")).strictly("EACCES"),
    refused("write /proc/self/task/1/comm", "EROFS", TRAIT, |_| write_to(c"/proc/self/task/1/comm", b"x")).strictly("EACCES"),
    refused("write /proc/self/oom_score_adj", "EROFS", TRAIT, |_| write_to(c"/proc/self/oom_score_adj", b"1"))
        .strictly("EACCES"),
    refused("write /proc/self/timerslack_ns", "EROFS", TRAIT, |_| write_to(c"/proc/self/timerslack_ns", b"1"))
        .strictly("EACCES"),
    refused("open /proc/self/comm O_RDWR|O_TRUNC", "EROFS", TRAIT, |_| open(c"/proc/self/comm", RDWR | TRUNC))
        .strictly("EACCES"),
];

write_ways! { SYSFS:
    "/sys/fs/cgroup/cgroup.procs" "EACCES|EROFS" "/sys/fs/cgroup/cgroup.procs";
    "/sys/fs/cgroup/cgroup.freeze" "EACCES|EROFS|ENOENT" "/sys/fs/cgroup/cgroup.freeze";
    "/sys/fs/cgroup/cgroup.kill" "EACCES|EROFS|ENOENT" "/sys/fs/cgroup/cgroup.kill";
    "/sys/fs/cgroup/memory.max" "EACCES|EROFS|ENOENT" "/sys/fs/cgroup/memory.max";
    "/sys/fs/cgroup/cpu.pressure" "EACCES|EROFS|ENOENT" "/sys/fs/cgroup/cpu.pressure";
    "/sys/power/state" "EACCES|EROFS|ENOENT" "/sys/power/state";
    "/sys/kernel/uevent_helper" "EACCES|EROFS|ENOENT" "/sys/kernel/uevent_helper";
    "/sys/kernel/mm/ksm/run" "EACCES|EROFS|ENOENT" "/sys/kernel/mm/ksm/run";
    "/sys/class/net/lo/mtu" "EACCES|EROFS" "/sys/devices/virtual/net/lo/mtu";
    "/sys/module/printk/parameters/time" "EACCES|EROFS|ENOENT" "/sys/module/printk/parameters/time";
    "/sys/none" "ENOENT" "/sys/none";
}

/// Objects that the kernel keeps by a key or a name.
const OBJECTS: &[Way] = &[
    told("shmget", "ENOSPC", "shmget", "-", |_| sys(29, &[0, 4096, 0o1600])),
    told("shmget SHM_HUGETLB", "ENOSPC|EPERM|ENOMEM", "shmget", "-", |_| sys(29, &[0, 2 << 20, 0o5600])),
    told("shmget of a key", "ENOSPC", "shmget", "-", |_| sys(29, &[7, 4096, 0o1600])),
    told("msgget", "ENOSPC", "msgget", "-", |_| sys(68, &[0, 0o1600])),
    told("semget", "EINVAL", "semget", "-", |_| sys(64, &[0, 1, 0o1600])),
    told("semget of none", "EINVAL", "semget", "-", |_| sys(64, &[0, 0, 0o1600])),
    refused("shmget of what is there", "ENOENT", "it makes none", |_| sys(29, &[7, 4096, 0])),
    told("mq_open", "ENOSPC", "mq_open", "queue", |_| sys(240, &[text(c"queue"), CREAT | RDWR, 0o600, NULL])),
    refused("mq_open of what is there", "ENOENT", "it makes none", |_| sys(240, &[text(c"queue"), RDWR, 0, NULL])),
    told("mq_unlink", "ENOENT", "mq_unlink", "queue", |_| sys(241, &[text(c"queue")])),
];

const ADDRESSES: &[Way] = &[
    refused("socket AF_PACKET", "EAFNOSUPPORT", "the filter", |_| sys(41, &[17, 3, 0])),
    refused("socket AF_VSOCK", "EAFNOSUPPORT", "the filter", |_| sys(41, &[40, 1, 0])),
    refused("socket AF_ALG", "EAFNOSUPPORT", "the filter", |_| sys(41, &[38, 5, 0])),
    refused("socket AF_BLUETOOTH", "EAFNOSUPPORT", "the filter", |_| sys(41, &[31, 3, 0])),
    refused("socket SOCK_RAW", "EPERM", "no capability", |_| sys(41, &[2, 3, 1])),
    refused("socket SOCK_DGRAM, ICMP", "EACCES|ok", "the sysctl ping_group_range", |_| sys(41, &[2, 2, 1])),
    allowed("socket AF_NETLINK, NETLINK_ROUTE", "it is the container's own network", |_| sys(41, &[16, 3, 0])),
    refused("ioctl SIOCSIFADDR", "EPERM", "no capability", |_| {
        sys(16, &[sys(41, &[2, 2, 0])?, 0x8916, address(b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x7f\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")])
    }),
];

const NETLINK: &[Way] = &[refused("netlink RTM_NEWLINK", "EPERM", "no capability", |_| {
    let socket = sys(41, &[16, 3, 0])?;
    // Length 32, RTM_NEWLINK, NLM_F_REQUEST|NLM_F_ACK|NLM_F_CREATE.
    let message = [32u32, 16 | 0x405 << 16, 1, 0, 0, 0, 0, 0];
    sys(44, &[socket, address(&message), 32, 0, NULL, 0])?;
    let mut reply = [0i32; 64];
    sys(45, &[socket, address(&mut reply), 256, 0, NULL, NULL])?;
    match reply[4] {
        0 => Ok(0),
        errno => failed(-errno),
    }
})];
