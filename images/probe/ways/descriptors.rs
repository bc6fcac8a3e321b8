//! Ways that have a descriptor: of a file, open for reading alone; of pipes, memory and devices.

use super::*;

pub const WAYS: &[&[Way]] = &[IOCTLS, FREEZES, LENGTHS, BYTES, MEMORY, PIPES, LOCKS, WATCHES, DEVICES];

const P: &str = "/probe";

const IOCTLS: &[Way] = &[
    told("ioctl FS_IOC_SETFLAGS", "EROFS", "ioctl", P, |lab| on(lab.file, 0x4008_6602, &[0x10])).with("FS_IOC_SETFLAGS"),
    told("ioctl FS_IOC_FSSETXATTR", "EROFS", "ioctl", P, |lab| on(lab.file, 0x401c_5820, &[0; 4])).with("FS_IOC_FSSETXATTR"),
    told("ioctl FS_IOC_SETVERSION", "ENOTTY", "ioctl", P, |lab| on(lab.file, 0x4008_7602, &[1])).with("FS_IOC_SETVERSION"),
    told("ioctl FS_IOC32_SETFLAGS", "ENOTTY", "ioctl", P, |lab| on(lab.file, 0x4004_6602, &[1])).with("FS_IOC32_SETFLAGS"),
    told("ioctl FS_IOC32_SETVERSION", "ENOTTY", "ioctl", P, |lab| on(lab.file, 0x4004_7602, &[1])).with("FS_IOC32_SETVERSION"),
    told("ioctl FS_IOC_SETFSLABEL", "ENOTTY", "ioctl", P, |lab| on(lab.file, 0x4100_9432, &[0; 32])).with("FS_IOC_SETFSLABEL"),
    told("ioctl FICLONE", "EBADF", "ioctl", P, |lab| sys(16, &[lab.file, 0x4004_9409, lab.file])).with("FICLONE"),
    told("ioctl FICLONE of memory", "EXDEV|EINVAL", "ioctl", P, |lab| sys(16, &[lab.file, 0x4004_9409, memory()?])).with("FICLONE"),
    told("ioctl FICLONE of a directory", "EISDIR", "ioctl", "/home", |lab| {
        sys(16, &[lab.home, 0x4004_9409, lab.file])
    })
    .with("FICLONE"),
    told("ioctl FICLONERANGE", "EBADF", "ioctl", P, |lab| on(lab.file, 0x4020_940d, &[lab.file as u64, 0, 0, 0]))
        .with("FICLONERANGE"),
    told("ioctl FIDEDUPERANGE", "EOPNOTSUPP|EROFS", "ioctl", P, |lab| {
        // Source, length, count; for each: descriptor, offset, bytes, status.
        let mut range = [0u64, 1, 1, lab.file as u64, 0, 0, 0];
        sys(16, &[lab.file, 0xc018_9436, address(&mut range)])?;
        match range[6] as i32 {
            0.. => Ok(0),
            status => failed(-status),
        }
    })
    .with("FIDEDUPERANGE"),
    told("ioctl FS_IOC_RESVSP", "EBADF", "ioctl", P, |lab| on(lab.file, 0x4030_5828, &[0, 0, 1, 0, 0, 0])).with("FS_IOC_RESVSP"),
    told("ioctl FS_IOC_UNRESVSP", "EBADF", "ioctl", P, |lab| on(lab.file, 0x4030_5829, &[0, 0, 1, 0, 0, 0]))
        .with("FS_IOC_UNRESVSP"),
    told("ioctl FS_IOC_RESVSP64", "EBADF", "ioctl", P, |lab| on(lab.file, 0x4030_582a, &[0, 0, 1, 0, 0, 0]))
        .with("FS_IOC_RESVSP64"),
    told("ioctl FS_IOC_UNRESVSP64", "EBADF", "ioctl", P, |lab| on(lab.file, 0x4030_582b, &[0, 0, 1, 0, 0, 0]))
        .with("FS_IOC_UNRESVSP64"),
    told("ioctl FS_IOC_ZERO_RANGE", "EBADF", "ioctl", P, |lab| on(lab.file, 0x4030_5839, &[0, 0, 1, 0, 0, 0]))
        .with("FS_IOC_ZERO_RANGE"),
    told("ioctl FS_IOC_RESVSP of nothing", "EINVAL", "ioctl", P, |lab| on(lab.file, 0x4030_5828, &[0; 6])).with("FS_IOC_RESVSP"),
];

const FREEZES: &[Way] = &[
    told("ioctl FITRIM", "ENOTTY", "ioctl", "/home", |lab| on(lab.home, 0xc018_5879, &[0, u64::MAX, 0])).with("FITRIM"),
    told("ioctl FIFREEZE", "EPERM", "ioctl", "/home", |lab| on(lab.home, 0xc004_5877, &[0])).with("FIFREEZE"),
    told("ioctl FITHAW", "EPERM", "ioctl", "/home", |lab| on(lab.home, 0xc004_5878, &[0])).with("FITHAW"),
    told("ioctl FS_IOC_ENABLE_VERITY", "ENOTTY", "ioctl", P, |lab| {
        on(lab.file, 0x4080_6685, &[0x1_0000_0001, 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    })
    .with("FS_IOC_ENABLE_VERITY"),
    told("ioctl FS_IOC_SET_ENCRYPTION_POLICY", "ENOTTY", "ioctl", "/home", |lab| on(lab.home, 0x800c_6613, &[0; 8]))
        .with("FS_IOC_SET_ENCRYPTION_POLICY"),
    told("ioctl FS_IOC_ADD_ENCRYPTION_KEY", "ENOTTY", "ioctl", "/home", |lab| on(lab.home, 0xc050_6617, &[0; 10]))
        .with("FS_IOC_ADD_ENCRYPTION_KEY"),
    told("ioctl FS_IOC_REMOVE_ENCRYPTION_KEY", "ENOTTY", "ioctl", "/home", |lab| on(lab.home, 0xc040_6618, &[0; 8]))
        .with("FS_IOC_REMOVE_ENCRYPTION_KEY"),
    told("ioctl FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS", "ENOTTY", "ioctl", "/home", |lab| on(lab.home, 0xc040_6619, &[0; 8]))
        .with("FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS"),
    told("ioctl FAT_IOCTL_SET_ATTRIBUTES", "ENOTTY", "ioctl", P, |lab| on(lab.file, 0x4004_7211, &[1]))
        .with("FAT_IOCTL_SET_ATTRIBUTES"),
    refused("ioctl that reads a file's flags", "ENOTTY|ok", "it reads", |lab| on(lab.file, 0x8008_6601, &[0])),
];

/// An ioctl with a structure of these words.
fn on(descriptor: c_long, request: c_long, words: &[u64]) -> Attempt {
    let mut words = words.to_vec();
    sys(16, &[descriptor, request, address(&mut words[..])])
}

const LENGTHS: &[Way] = &[
    told("ftruncate", "EINVAL", "ftruncate", P, |lab| sys(77, &[lab.file, 0])),
    told("ftruncate a directory", "EINVAL", "ftruncate", "/home", |lab| sys(77, &[lab.home, 0])),
    told("fallocate", "EBADF", "fallocate", P, |lab| sys(285, &[lab.file, 0, 0, 4096])),
    told("fallocate FALLOC_FL_PUNCH_HOLE", "EBADF", "fallocate", P, |lab| sys(285, &[lab.file, 3, 0, 4096])),
    told("fallocate of nothing", "EINVAL", "fallocate", P, |lab| sys(285, &[lab.file, 0, 0, 0])),
    told("ftruncate what is not open", "EBADF", "ftruncate", "unreadable", |_| sys(77, &[-1, 0])),
    told("fchmod what is not open", "EBADF", "fchmod", "unreadable", |_| sys(91, &[-1, 0])),
    told("open a name that cannot be read", "EFAULT", "open", "unreadable", |_| sys(2, &[8, WRONLY | CREAT, MODE])),
    told("mkdir a name that cannot be read", "EFAULT", "mkdir", "unreadable", |_| sys(83, &[NULL, MODE])),
    told("rename to a name that cannot be read", "EFAULT", "rename", "unreadable", |_| sys(82, &[text(c"/probe"), 8])),
    told("mkdir a name that is too long", "ENAMETOOLONG", "mkdir", "unreadable", |_| {
        let name = CString::new(vec![b'x'; 5000]).unwrap();
        sys(83, &[text(&name), MODE])
    }),
    told("mkdirat from what is not open", "EBADF", "mkdirat", "unreadable", |_| sys(258, &[-1, text(c"x"), MODE])),
];

const READING_ALONE: &str = "no descriptor of a file is open for writing";

const BYTES: &[Way] = &[
    refused("write", "EBADF", READING_ALONE, |lab| sys(1, &[lab.file, text(c"x"), 1])),
    refused("pwrite64", "EBADF", READING_ALONE, |lab| sys(18, &[lab.file, text(c"x"), 1, 0])),
    refused("writev", "EBADF", READING_ALONE, |lab| sys(20, &[lab.file, address(&[text(c"x"), 1]), 1])),
    refused("pwritev", "EBADF", READING_ALONE, |lab| sys(296, &[lab.file, address(&[text(c"x"), 1]), 1, 0])),
    refused("pwritev2", "EBADF", READING_ALONE, |lab| sys(328, &[lab.file, address(&[text(c"x"), 1]), 1, 0, 0, 0])),
    refused("copy_file_range", "EBADF", READING_ALONE, |lab| sys(326, &[lab.file, NULL, lab.file, NULL, 10, 0])),
    refused("sendfile", "EBADF", READING_ALONE, |lab| sys(40, &[lab.file, lab.file, NULL, 10])),
    refused("splice", "EBADF", READING_ALONE, |lab| {
        let [reader, writer] = pipe()?;
        sys(1, &[writer, text(c"x"), 1])?;
        sys(275, &[reader, NULL, lab.file, NULL, 1, 0])
    }),
    refused("splice, then write to the pipe", "EACCES", "the pipe's page is not the file's", |lab| {
        let [reader, writer] = pipe()?;
        let (mut offset, mut byte) = (0u64, [0u8]);
        sys(275, &[lab.file, address(&mut offset), writer, NULL, 1, 0])?;
        sys(0, &[reader, address(&mut byte), 1])?;
        sys(1, &[writer, text(c"Z"), 1])?;
        sys(17, &[lab.file, address(&mut byte), 1, 0])?;
        if byte == *b"Z" { Ok(0) } else { failed(13) }
    }),
    refused("mmap MAP_SHARED for writing", "EACCES", READING_ALONE, |lab| sys(9, &[0, 4096, 3, 1, lab.file, 0])),
    refused("mprotect a shared mapping", "EACCES", READING_ALONE, |lab| {
        sys(10, &[sys(9, &[0, 4096, 1, 1, lab.file, 0])?, 4096, 3])
    }),
    refused("io_setup", "ENOSYS", "the kernel counts contexts for the whole host", |_| sys(206, &[1000, address(&mut 0u64)])),
    refused("io_submit", "ENOSYS", "as io_setup", |_| sys(209, &[0, 0, NULL])),
    refused("io_uring_setup", "EPERM", "no filter sees its calls", |_| sys(425, &[4, address(&mut [0u64; 32])])),
    refused("io_uring_enter", "EPERM", "no filter sees its calls", |_| sys(426, &[0, 0, 0, 0, NULL])),
    refused("io_uring_register", "EPERM", "no filter sees its calls", |_| sys(427, &[0, 0, NULL, 0])),
];

const OWN_MEMORY: &str = "the app's own memory";
/// Under `kill` and `check` imrun changes nothing of memory and pipes but their lengths.
const NOT_STRICTLY: &str = "EPERM";

const MEMORY: &[Way] = &[
    refused("memfd_create", "ok|EACCES", OWN_MEMORY, |_| sys(319, &[text(c"m"), 0])),
    refused("memfd_create MFD_NOEXEC_SEAL", "ok|EINVAL", OWN_MEMORY, |_| memory()),
    refused("memfd_create MFD_EXEC", "EACCES|EINVAL", "memory files are no programs", |_| sys(319, &[text(c"m"), 0x10])),
    refused("memfd_create MFD_HUGETLB", "ok|EACCES|ENOSYS|EINVAL", OWN_MEMORY, |_| sys(319, &[text(c"m"), 4])),
    refused("memfd_secret", "ENOSYS", "the observer could not read a path in it", |_| sys(447, &[0])),
    allowed("ftruncate memory", OWN_MEMORY, |_| sys(77, &[memory()?, 4096])),
    allowed("fallocate memory", OWN_MEMORY, |_| sys(285, &[memory()?, 0, 0, 4096])).strictly("EOPNOTSUPP"),
    allowed("write memory by its link", OWN_MEMORY, |_| sys(1, &[open(link_to(memory()?), RDWR)?, text(c"abc"), 3])),
    refused("ftruncate memory that is open to be read", "EINVAL", OWN_MEMORY, |_| {
        sys(77, &[open(link_to(memory()?), RDONLY)?, 10])
    }),
    refused("execute memory", "EACCES", "memory files are no programs", |_| {
        let memory = memory()?;
        sys(1, &[memory, text(c"#!/x\n"), 5])?;
        in_child(|| sys(322, &[memory, text(c""), address(&EMPTY_LIST), address(&EMPTY_LIST), EMPTY_PATH]))
    }),
    refused("fchmod memory to be executed", "EPERM", "it is sealed", |_| sys(91, &[memory()?, 0o777])),
    allowed("fchmod memory", OWN_MEMORY, |_| sys(91, &[memory()?, 0o600])).strictly(NOT_STRICTLY),
    refused("fsetxattr memory", "ok|EOPNOTSUPP", OWN_MEMORY, |_| sys(190, &[memory()?, text(c"user.a"), text(c"b"), 1, 0]))
        .strictly(NOT_STRICTLY),
    allowed("futimens memory", OWN_MEMORY, |_| sys(280, &[memory()?, NULL, NULL, 0])).strictly(NOT_STRICTLY),
    refused("ioctl FS_IOC_SETFLAGS on memory", "EPERM|ENOTTY|EOPNOTSUPP", OWN_MEMORY, |_| on(memory()?, 0x4008_6602, &[0x10]))
        .strictly("ENOTTY"),
    allowed("mmap memory for writing", OWN_MEMORY, |_| {
        let memory = memory()?;
        sys(77, &[memory, 4096])?;
        sys(9, &[0, 4096, 3, 1, memory, 0])
    }),
    allowed("mmap memory to be executed", "a process can execute its own memory", |_| {
        let memory = memory()?;
        sys(77, &[memory, 4096])?;
        sys(9, &[0, 4096, 7, 1, memory, 0])
    }),
];

const OWN_PIPE: &str = "the app's own pipe";

const PIPES: &[Way] = &[
    allowed("fcntl F_SETPIPE_SZ of stdout", "within /proc/sys/fs/pipe-max-size", |_| sys(72, &[1, 1031, 65536])),
    allowed("fcntl O_NONBLOCK of stdout", OWN_PIPE, |_| {
        let flags = sys(72, &[1, 3])?;
        let set = sys(72, &[1, 4, flags | 0o4000]);
        sys(72, &[1, 4, flags])?;
        set
    }),
    refused("fchmod stdout", "ok|EPERM", OWN_PIPE, |_| sys(91, &[1, 0o600])).strictly(NOT_STRICTLY),
    refused("fchown stdout", "ok|EPERM", OWN_PIPE, |_| sys(93, &[1, -1, -1])).strictly(NOT_STRICTLY),
    refused("futimens stdout", "ok|EPERM|EACCES", OWN_PIPE, |_| sys(280, &[1, NULL, NULL, 0])).strictly(NOT_STRICTLY),
    refused("fsetxattr stdout", "EPERM|EOPNOTSUPP", OWN_PIPE, |_| sys(190, &[1, text(c"user.a"), text(c"b"), 1, 0]))
        .strictly(NOT_STRICTLY),
    refused("ftruncate stdout", "EINVAL", OWN_PIPE, |_| sys(77, &[1, 0])),
    allowed("fchmod a pipe", OWN_PIPE, |_| sys(91, &[pipe()?[0], 0o600])).strictly(NOT_STRICTLY),
    allowed("open a pipe by its link", OWN_PIPE, |_| open(link_to(pipe()?[1]), WRONLY)),
];

const NO_FILE: &str = "it changes no file: others can see it, as on any system";

const LOCKS: &[Way] = &[
    allowed("flock LOCK_EX of a file", NO_FILE, |lab| sys(73, &[lab.file, 6])),
    allowed("fcntl F_SETLK, F_RDLCK", NO_FILE, |lab| sys(72, &[lab.file, 6, address(&[0u64; 4])])),
    refused("fcntl F_OFD_SETLK, F_WRLCK", "EBADF", READING_ALONE, |lab| sys(72, &[lab.file, 37, address(&[1u64, 0, 0, 0])])),
    refused("fcntl F_SETLEASE, F_RDLCK", "ok|EACCES|EINVAL|EAGAIN", NO_FILE, |lab| sys(72, &[lab.file, 1024, 0])),
    allowed("flock /", NO_FILE, |_| lock(c"/")),
    allowed("flock /dev/null", NO_FILE, |_| lock(c"/dev/null")),
    allowed("flock /proc/version", NO_FILE, |_| lock(c"/proc/version")),
    allowed("flock /sys/fs/cgroup", NO_FILE, |_| lock(c"/sys/fs/cgroup")),
    refused("flock stdout", "ok|EAGAIN", NO_FILE, |_| sys(73, &[1, 6])),
    refused("fcntl F_SET_RW_HINT", "ok|EPERM|EACCES|EBADF", "a hint in memory", |lab| sys(72, &[lab.file, 1036, address(&2u64)])),
];

fn lock(path: &CStr) -> Attempt {
    let file = open(path, RDONLY)?;
    let locked = sys(73, &[file, 6]);
    sys(3, &[file])?;
    locked
}

const WATCHES: &[Way] = &[
    allowed("fcntl F_NOTIFY", "it reads", |lab| sys(72, &[lab.home, 1026, 2])),
    refused("inotify_add_watch", "ok|EMFILE|ENOSPC", "it reads", |_| {
        sys(254, &[sys(253, &[])?, text(c"/home"), 0xfff])
    }),
    refused("fanotify_init", "EPERM", "it listens to whole mounts", |_| sys(300, &[0, 0])),
    allowed("sync", "it writes what others changed", |_| sys(162, &[])),
    allowed("syncfs", "as sync", |lab| sys(306, &[lab.file])),
    refused("fsync", "EINVAL|ok", "as sync", |lab| sys(74, &[lab.file])),
    allowed("fadvise64 POSIX_FADV_DONTNEED", "it drops what can be read again", |lab| sys(221, &[lab.file, 0, 0, 4])),
    allowed("readahead", "it reads", |lab| sys(187, &[lab.file, 0, 4096])),
    allowed("landlock_create_ruleset, version", "it can only take rights away", |_| sys(444, &[NULL, 0, 1])),
];

const DEVICES: &[Way] = &[
    allowed("write /dev/urandom", "it mixes into the pool and adds no entropy", |_| {
        sys(1, &[open(c"/dev/urandom", WRONLY)?, text(c"seed"), 4])
    }),
    refused("ioctl RNDADDTOENTCNT", "EPERM", "no capability", |_| on(open(c"/dev/urandom", RDWR)?, 0x4004_5201, &[8])),
    refused("ioctl RNDRESEEDCRNG", "EPERM", "no capability", |_| on(open(c"/dev/urandom", RDWR)?, 0x5207, &[0])),
    refused("ioctl TIOCSTI", "EPERM", "the filter", |_| sys(16, &[0, 0x5412, text(c"x")])),
    refused("ioctl TIOCLINUX", "EPERM", "the filter", |_| sys(16, &[0, 0x541c, text(c"\x03")])),
    refused("ioctl TIOCSCTTY", "ENOTTY", "a container has no terminal", |_| sys(16, &[0, 0x540e, 1])),
    refused("fchmod of /dev/null's descriptor", "EROFS", "a device that is there to be written to", |_| {
        sys(91, &[open(c"/dev/null", RDONLY)?, 0o600])
    }).strictly("EACCES"),
];
