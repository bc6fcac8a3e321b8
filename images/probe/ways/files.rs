//! Ways that name a file: opening for writing, making, renaming and removing, attributes.

use super::*;

pub const WAYS: &[&[Way]] = &[
    OPENS, NEW, LINKS, ELSEWHERE, NOT_WRITING, MAKES, MOVES, REMOVES, MODES, OWNERS, TIMES, XATTRS, DIRECTORIES, SOCKETS,
];

const P: &str = "/probe";
const N: &str = "/home/new";
const PROBE: &CStr = c"/probe";
const NEWFILE: &CStr = c"/home/new";

const OPENS: &[Way] = &[
    told("open O_WRONLY", "EROFS", "open", P, |_| open(PROBE, WRONLY)),
    told("open O_RDWR", "EROFS", "open", P, |_| open(PROBE, RDWR)),
    told("open O_RDWR|O_APPEND", "EROFS", "open", P, |_| open(PROBE, RDWR | APPEND)),
    told("open O_WRONLY|O_APPEND", "EROFS", "open", P, |_| open(PROBE, WRONLY | APPEND)),
    told("open O_RDONLY|O_TRUNC", "EROFS", "open", P, |_| open(PROBE, TRUNC)),
    told("open access mode 3", "EROFS", "open", P, |_| open(PROBE, 3)),
    told("open O_WRONLY|O_CREAT, it is there", "EROFS", "open", P, |_| open(PROBE, WRONLY | CREAT)),
    told("open O_WRONLY|O_NOFOLLOW", "EROFS", "open", P, |_| open(PROBE, WRONLY | NOFOLLOW)),
    told("open through a link", "EROFS", "open", P, |_| open(c"/link", WRONLY)),
    told("openat O_WRONLY", "EROFS", "openat", P, |_| sys(257, &[HERE, text(PROBE), WRONLY])),
    told("openat O_RDWR|O_TRUNC", "EROFS", "openat", P, |_| sys(257, &[HERE, text(PROBE), RDWR | TRUNC])),
    told("creat, it is there", "EROFS", "creat", P, |_| sys(85, &[text(PROBE), MODE])),
];

const NEW: &[Way] = &[
    told("open O_WRONLY|O_CREAT", "EROFS", "open", N, |_| open(NEWFILE, WRONLY | CREAT)),
    told("open O_RDONLY|O_CREAT", "EROFS", "open", N, |_| open(NEWFILE, CREAT)),
    told("open O_RDWR|O_CREAT|O_EXCL", "EROFS", "open", N, |_| open(NEWFILE, RDWR | CREAT | EXCL)),
    told("open O_TMPFILE in a directory", "EROFS", "open", "/home", |_| open(c"/home", RDWR | TMPFILE)),
    told("open O_TMPFILE in the root", "EROFS", "open", "/", |_| open(c"/", WRONLY | TMPFILE)),
    told("open in no directory", "ENOENT", "open", "/none/new", |_| open(c"/none/new", WRONLY | CREAT)),
    told("open below a file", "ENOTDIR", "open", "/probe/new", |_| open(c"/probe/new", WRONLY | CREAT)),
    told("open O_WRONLY, it is not there", "ENOENT", "open", N, |_| open(NEWFILE, WRONLY)),
    told("openat O_WRONLY|O_CREAT", "EROFS", "openat", N, |_| sys(257, &[HERE, text(NEWFILE), WRONLY | CREAT, MODE])),
    told("openat from a directory's descriptor", "EROFS", "openat", N, |lab| {
        sys(257, &[lab.home, text(c"new"), WRONLY | CREAT, MODE])
    }),
    told("openat with dots and slashes", "EROFS", "openat", N, |_| {
        sys(257, &[HERE, text(c"home/../home//./new"), WRONLY | CREAT, MODE])
    }),
    told("openat O_TMPFILE", "EROFS", "openat", "/home", |_| sys(257, &[HERE, text(c"/home"), WRONLY | TMPFILE, MODE])),
    told("creat", "EROFS", "creat", N, |_| sys(85, &[text(NEWFILE), MODE])),
];

/// Through the links of /proc.
const LINKS: &[Way] = &[
    told("open a file's descriptor for writing", "EROFS", "open", P, |lab| open(link_to(lab.file), RDWR)),
    told("open it by /dev/fd", "EROFS", "open", P, |lab| {
        let path = CString::new(format!("/dev/fd/{}", lab.file)).unwrap();
        open(&path, WRONLY | APPEND)
    }),
    told("open O_PATH, then its descriptor", "EROFS", "open", P, |_| open(link_to(open(PROBE, PATH)?), WRONLY)),
    told("open below /proc/self/root", "EROFS", "open", P, |_| open(c"/proc/self/root/probe", WRONLY)),
    told("open below /proc/1/root", "EROFS", "open", P, |_| open(c"/proc/1/root/probe", RDWR)),
    told("open below /proc/self/cwd", "EROFS", "open", "/zz", |_| open(c"/proc/self/cwd/zz", WRONLY | CREAT)),
    told("open below a directory's descriptor", "EROFS", "open", N, |lab| {
        let path = CString::new(format!("/proc/self/fd/{}/new", lab.home)).unwrap();
        open(&path, WRONLY | CREAT)
    }),
    told("open /proc/self/exe", "EROFS", "open", P, |_| open(c"/proc/self/exe", WRONLY)),
    told("open a descriptor that is none", "ENOENT", "open", "/proc/1/fd/999", |_| open(c"/proc/self/fd/999", WRONLY)),
];

/// Directories and devices that programs can write to on other systems.
const ELSEWHERE: &[Way] = &[
    told("open in /tmp", "ENOENT", "openat", "/tmp/x", |_| sys(257, &[HERE, text(c"/tmp/x"), WRONLY | CREAT, MODE])),
    told("open in /var/tmp", "ENOENT", "open", "/var/tmp/x", |_| open(c"/var/tmp/x", WRONLY | CREAT)),
    told("open in /run", "ENOENT", "open", "/run/x", |_| open(c"/run/x", WRONLY | CREAT)),
    told("open in /dev", "EROFS", "open", "/dev/new", |_| open(c"/dev/new", WRONLY | CREAT)),
    told("open in /dev/shm", "EROFS|ENOENT", "open", "/dev/shm/x", |_| open(c"/dev/shm/x", WRONLY | CREAT)),
    told("open in /dev/mqueue", "EROFS|ENOENT", "open", "/dev/mqueue/x", |_| open(c"/dev/mqueue/x", WRONLY | CREAT)),
    told("open /dev/ptmx", "ENOENT", "open", "/dev/ptmx", |_| open(c"/dev/ptmx", RDWR)),
    told("open /dev/pts/0", "ENOENT", "open", "/dev/pts/0", |_| open(c"/dev/pts/0", RDWR)),
    told("open /dev/console", "ENOENT", "open", "/dev/console", |_| open(c"/dev/console", RDWR)),
    told("open /dev/kmsg", "ENOENT", "open", "/dev/kmsg", |_| open(c"/dev/kmsg", WRONLY)),
    told("open /dev/mem", "ENOENT", "open", "/dev/mem", |_| open(c"/dev/mem", RDWR)),
    told("open /dev/port", "ENOENT", "open", "/dev/port", |_| open(c"/dev/port", RDWR)),
    told("open /dev/sda", "ENOENT", "open", "/dev/sda", |_| open(c"/dev/sda", RDWR)),
    told("open /dev/loop-control", "ENOENT", "open", "/dev/loop-control", |_| open(c"/dev/loop-control", RDWR)),
    told("open /dev/fuse", "ENOENT", "open", "/dev/fuse", |_| open(c"/dev/fuse", RDWR)),
    told("open /dev/net/tun", "ENOENT", "open", "/dev/net/tun", |_| open(c"/dev/net/tun", RDWR)),
    told("open /dev/userfaultfd", "ENOENT", "open", "/dev/userfaultfd", |_| open(c"/dev/userfaultfd", RDWR)),
    told("open /dev/kvm", "ENOENT", "open", "/dev/kvm", |_| open(c"/dev/kvm", RDWR)),
    told("open /dev/vhost-net", "ENOENT", "open", "/dev/vhost-net", |_| open(c"/dev/vhost-net", RDWR)),
    told("open /dev/rtc0", "ENOENT", "open", "/dev/rtc0", |_| open(c"/dev/rtc0", RDWR)),
];

const NOTHING_ANYWHERE: &str = "it would change nothing anywhere";
const DEVICE: &str = "a device that is there to be written to";

const NOT_WRITING: &[Way] = &[
    allowed("open O_RDONLY|O_CREAT, it is there", "it opens what is there, to be read", |_| open(PROBE, CREAT)),
    refused("open O_CREAT|O_EXCL, it is there", "EEXIST", NOTHING_ANYWHERE, |_| open(PROBE, RDWR | CREAT | EXCL)),
    refused("open a directory for writing", "EISDIR", NOTHING_ANYWHERE, |_| open(c"/home", WRONLY)),
    refused("open a link with O_NOFOLLOW", "ELOOP", NOTHING_ANYWHERE, |_| open(c"/link", WRONLY | NOFOLLOW)),
    refused("open a file with O_DIRECTORY", "ENOTDIR", NOTHING_ANYWHERE, |_| open(PROBE, WRONLY | DIRECTORY)),
    refused("open an empty name", "ENOENT", NOTHING_ANYWHERE, |_| open(c"", WRONLY | CREAT)),
    allowed("open O_PATH|O_WRONLY", "O_PATH opens nothing", |_| open(PROBE, PATH | WRONLY | CREAT)),
    refused("openat2 O_WRONLY", "ENOSYS", "its flags are behind a pointer", |_| {
        sys(437, &[HERE, text(PROBE), address(&[WRONLY as u64, 0, 0]), 24])
    }),
    allowed("open /dev/null", DEVICE, |_| open(c"/dev/null", WRONLY | CREAT | TRUNC)),
    allowed("open /dev/zero", DEVICE, |_| open(c"/dev/zero", RDWR)),
    allowed("open /dev/full", DEVICE, |_| open(c"/dev/full", WRONLY | APPEND)),
    allowed("open /dev/random", DEVICE, |_| open(c"/dev/random", RDWR)),
    allowed("open /dev/urandom", DEVICE, |_| open(c"/dev/urandom", WRONLY)),
    refused("open /dev/tty", "ENXIO", "a container has no terminal", |_| open(c"/dev/tty", RDWR)),
    allowed("open /dev/null by a relative name", DEVICE, |_| open(c"dev/../dev/null", WRONLY)),
    allowed("open /dev/null by /proc/self/root", DEVICE, |_| open(c"/proc/self/root/dev/null", WRONLY)),
    allowed("open /dev/null by its descriptor", DEVICE, |_| open(link_to(open(c"/dev/null", RDONLY)?), RDWR)),
    allowed("open /dev/stdout", "the app's own pipe", |_| open(c"/dev/stdout", WRONLY | CREAT | APPEND)),
    allowed("open /dev/stderr", "the app's own pipe", |_| open(c"/dev/stderr", WRONLY)),
    allowed("open /dev/fd/1", "the app's own pipe", |_| open(c"/dev/fd/1", WRONLY)),
    allowed("open memory by its descriptor", "memory that memfd_create(2) made", |_| open(link_to(memory()?), RDWR | TRUNC)),
    refused("open a socket by its descriptor", "ENXIO", NOTHING_ANYWHERE, |_| open(link_to(sys(41, &[1, 1, 0])?), RDWR)),
];

const MAKES: &[Way] = &[
    told("mkdir", "EROFS", "mkdir", N, |_| sys(83, &[text(NEWFILE), MODE])),
    told("mkdir by a relative name", "EROFS", "mkdir", "/new", |_| sys(83, &[text(c"new"), MODE])),
    told("mkdir in /proc", "ENOENT", "mkdir", "/proc/new", |_| sys(83, &[text(c"/proc/new"), MODE])),
    told("mkdir in /sys/fs/cgroup", "EROFS", "mkdir", "/sys/fs/cgroup/new", |_| {
        sys(83, &[text(c"/sys/fs/cgroup/new"), MODE])
    }),
    told("mkdirat", "EROFS", "mkdirat", N, |lab| sys(258, &[lab.home, text(c"new"), MODE])),
    refused("mkdir, it is there", "EEXIST", NOTHING_ANYWHERE, |_| sys(83, &[text(c"/home"), MODE])),
    told("mknod a file", "EROFS", "mknod", N, |_| sys(133, &[text(NEWFILE), 0o100_644])),
    told("mknod a fifo", "EROFS", "mknod", "/home/fifo", |_| sys(133, &[text(c"/home/fifo"), 0o10_644])),
    told("mknod a socket", "EROFS", "mknod", "/home/socket", |_| sys(133, &[text(c"/home/socket"), 0o140_644])),
    told("mknod a character device", "EROFS", "mknod", "/dev/kmsg", |_| sys(133, &[text(c"/dev/kmsg"), 0o20_600, 0x10b])),
    told("mknod a block device", "EROFS", "mknod", "/dev/sda", |_| sys(133, &[text(c"/dev/sda"), 0o60_600, 0x800])),
    told("mknodat", "EROFS", "mknodat", N, |_| sys(259, &[HERE, text(NEWFILE), 0o100_644])),
    told("mknodat a whiteout", "EROFS", "mknodat", "/home/probe", |lab| {
        sys(259, &[lab.home, text(c"probe"), 0o20_000])
    }),
    told("symlink", "EROFS", "symlink", N, |_| sys(88, &[text(PROBE), text(NEWFILE)])).with("/probe"),
    told("symlinkat", "EROFS", "symlinkat", N, |lab| sys(266, &[text(PROBE), lab.home, text(c"new")])).with("/probe"),
    refused("symlink, it is there", "EEXIST", NOTHING_ANYWHERE, |_| sys(88, &[text(PROBE), text(c"/link")])),
    told("link", "EROFS", "link", N, |_| sys(86, &[text(PROBE), text(NEWFILE)])),
    told("link to what is not there", "ENOENT", "link", N, |_| sys(86, &[text(c"/none"), text(NEWFILE)])),
    told("linkat", "EROFS", "linkat", N, |lab| sys(265, &[HERE, text(PROBE), lab.home, text(c"new"), 0])),
    told("linkat AT_SYMLINK_FOLLOW", "EROFS", "linkat", "/home/link", |lab| {
        sys(265, &[HERE, text(c"/link"), lab.home, text(c"link"), 0x400])
    }),
    told("linkat AT_EMPTY_PATH", "EROFS|ENOENT", "linkat", "/home/empty", |lab| {
        sys(265, &[lab.file, text(c""), HERE, text(c"/home/empty"), EMPTY_PATH])
    }),
    told("linkat memory into the root", "EROFS|EINVAL", "linkat", "/home/memory", |_| {
        sys(265, &[HERE, text(link_to(memory()?)), HERE, text(c"/home/memory"), 0x400])
    }),
];

const MOVES: &[Way] = &[
    told("rename", "EROFS", "rename", P, |_| sys(82, &[text(PROBE), text(NEWFILE)])),
    told("rename to another name", "EROFS", "rename", P, |_| sys(82, &[text(PROBE), text(c"/home/other")])),
    told("rename a directory", "EROFS", "rename", "/home", |_| sys(82, &[text(c"/home"), text(c"/elsewhere")])),
    told("rename to another file system", "EXDEV", "rename", P, |_| sys(82, &[text(PROBE), text(c"/proc/x")])),
    told("rename to no directory", "ENOENT", "rename", P, |_| sys(82, &[text(PROBE), text(c"/none/x")])),
    told("renameat", "EROFS", "renameat", P, |lab| sys(264, &[HERE, text(PROBE), lab.home, text(c"new")])),
    told("renameat2", "EROFS", "renameat2", P, |_| sys(316, &[HERE, text(PROBE), HERE, text(NEWFILE), 0])),
    told("renameat2 RENAME_NOREPLACE", "EROFS", "renameat2", P, |_| {
        sys(316, &[HERE, text(PROBE), HERE, text(c"/home/noreplace"), 1])
    }),
    told("renameat2 RENAME_EXCHANGE", "EROFS", "renameat2", P, |_| sys(316, &[HERE, text(PROBE), HERE, text(c"/link"), 2])),
    told("renameat2 RENAME_WHITEOUT", "EROFS", "renameat2", P, |_| {
        sys(316, &[HERE, text(PROBE), HERE, text(c"/home/whiteout"), 4])
    }),
];

const REMOVES: &[Way] = &[
    told("unlink", "EROFS", "unlink", P, |_| sys(87, &[text(PROBE)])),
    told("unlink a link", "EROFS", "unlink", "/link", |_| sys(87, &[text(c"/link")])),
    told("unlink what is not there", "EROFS", "unlink", N, |_| sys(87, &[text(NEWFILE)])),
    told("unlink /dev/stdout", "EROFS", "unlink", "/dev/stdout", |_| sys(87, &[text(c"/dev/stdout")])),
    told("unlinkat", "EROFS", "unlinkat", P, |_| sys(263, &[HERE, text(PROBE)])),
    told("unlinkat AT_REMOVEDIR", "EROFS", "unlinkat", "/home", |_| sys(263, &[HERE, text(c"/home"), 0x200])),
    told("rmdir", "EROFS", "rmdir", "/home", |_| sys(84, &[text(c"/home")])),
    refused("unlink /dev/null", "EROFS", DEVICE, |_| sys(87, &[text(c"/dev/null")])).strictly("EACCES"),
];

const MODES: &[Way] = &[
    told("chmod", "EROFS", "chmod", P, |_| sys(90, &[text(PROBE), 0o777])),
    told("chmod through a link", "EROFS", "chmod", P, |_| sys(90, &[text(c"/link"), 0o777])),
    told("chmod what is not there", "ENOENT", "chmod", N, |_| sys(90, &[text(NEWFILE), 0o777])),
    told("fchmod", "EROFS", "fchmod", P, |lab| sys(91, &[lab.file, 0o777])),
    told("fchmodat", "EROFS", "fchmodat", "/home", |_| sys(268, &[HERE, text(c"home"), 0o777])),
    told("fchmodat2", "EROFS|ENOSYS", "fchmodat2", P, |_| sys(452, &[HERE, text(PROBE), 0o777, 0])),
    told("fchmodat2 AT_EMPTY_PATH", "EROFS|ENOSYS", "fchmodat2", "/home", |lab| {
        sys(452, &[lab.home, text(c""), 0o777, EMPTY_PATH])
    }),
    refused("chmod /dev/null", "EROFS", DEVICE, |_| sys(90, &[text(c"/dev/null"), 0o666])).strictly("EACCES"),
    told("file_setattr", "EROFS|ENOSYS", "file_setattr", P, |_| {
        sys(469, &[HERE, text(PROBE), address(&[0u64; 3]), 24, 0])
    }),
];

const OWNERS: &[Way] = &[
    told("chown", "EROFS", "chown", P, |_| sys(92, &[text(PROBE), 1, 1])),
    told("chown to the same", "EROFS", "chown", "/home", |_| sys(92, &[text(c"/home"), -1, -1])),
    told("lchown", "EROFS", "lchown", "/link", |_| sys(94, &[text(c"/link"), 1, 1])),
    told("fchown", "EROFS", "fchown", P, |lab| sys(93, &[lab.file, 1, 1])),
    told("fchownat", "EROFS", "fchownat", P, |_| sys(260, &[HERE, text(PROBE), 1, 1, 0])),
    told("fchownat AT_SYMLINK_NOFOLLOW", "EROFS", "fchownat", "/link", |_| {
        sys(260, &[HERE, text(c"/link"), 1, 1, 0x100])
    }),
    told("fchownat AT_EMPTY_PATH", "EROFS", "fchownat", "/home", |lab| {
        sys(260, &[lab.home, text(c""), 1, 1, EMPTY_PATH])
    }),
];

const TIMES: &[Way] = &[
    told("utime", "EROFS", "utime", P, |_| sys(132, &[text(PROBE), NULL])),
    told("utimes", "EROFS", "utimes", P, |_| sys(235, &[text(PROBE), NULL])),
    told("futimesat", "EROFS", "futimesat", P, |_| sys(261, &[HERE, text(PROBE), NULL])),
    told("utimensat", "EROFS", "utimensat", P, |_| sys(280, &[HERE, text(PROBE), NULL, 0])),
    told("utimensat AT_SYMLINK_NOFOLLOW", "EROFS", "utimensat", "/link", |_| {
        sys(280, &[HERE, text(c"/link"), NULL, 0x100])
    }),
    told("futimens", "EROFS", "utimensat", "/home", |lab| sys(280, &[lab.home, NULL, NULL, 0])),
    allowed("utimensat UTIME_OMIT twice", "both times stay as they are", |_| {
        sys(280, &[HERE, text(PROBE), address(&[0u64, 0x3fff_fffe, 0, 0x3fff_fffe]), 0])
    }),
    refused("utimensat /dev/null", "EROFS", DEVICE, |_| sys(280, &[HERE, text(c"/dev/null"), NULL, 0])).strictly("EACCES"),
];

const XATTRS: &[Way] = &[
    told("setxattr user.*", "EROFS", "setxattr", P, |_| sys(188, &[text(PROBE), text(c"user.a"), text(c"b"), 1, 0])),
    told("setxattr security.capability", "EROFS", "setxattr", "/home", |_| {
        sys(188, &[text(c"/home"), text(c"security.capability"), text(c"aaaaaaaaaaaaaaaaaaaa"), 20, 0])
    }),
    told("setxattr system.posix_acl_access", "EROFS", "setxattr", "/", |_| {
        sys(188, &[text(c"/"), text(c"system.posix_acl_access"), text(c"\x02"), 4, 0])
    }),
    told("setxattr trusted.*", "EROFS", "setxattr", "/dev", |_| {
        sys(188, &[text(c"/dev"), text(c"trusted.overlay.opaque"), text(c"y"), 1, 0])
    }),
    told("lsetxattr", "EROFS", "lsetxattr", "/link", |_| sys(189, &[text(c"/link"), text(c"user.a"), text(c"b"), 1, 0])),
    told("fsetxattr", "EROFS", "fsetxattr", P, |lab| sys(190, &[lab.file, text(c"user.a"), text(c"b"), 1, 0])),
    told("setxattrat", "EROFS|ENOSYS", "setxattrat", P, |_| {
        let value = [text(c"b") as u64, 1];
        sys(463, &[HERE, text(PROBE), 0, text(c"user.a"), address(&value), 16])
    }),
    told("removexattr", "EROFS", "removexattr", P, |_| sys(197, &[text(PROBE), text(c"user.a")])),
    told("lremovexattr", "EROFS", "lremovexattr", "/link", |_| sys(198, &[text(c"/link"), text(c"user.a")])),
    told("fremovexattr", "EROFS", "fremovexattr", P, |lab| sys(199, &[lab.file, text(c"user.a")])),
    told("removexattrat", "EROFS|ENOSYS", "removexattrat", P, |_| {
        sys(466, &[HERE, text(PROBE), 0, text(c"user.a")])
    }),
    told("truncate", "EROFS", "truncate", P, |_| sys(76, &[text(PROBE), 0])),
    refused("truncate a directory", "EISDIR", NOTHING_ANYWHERE, |_| sys(76, &[text(c"/home"), 0])),
];

/// One relative name from several directories, and a second name alone that differs.
const DIRECTORIES: &[Way] = &[
    told("mkdir y in /home", "EROFS", "mkdir", "/home/y", |_| from(c"/home", || sys(83, &[text(c"y"), MODE]))),
    told("mkdir y in /dev", "EROFS", "mkdir", "/dev/y", |_| from(c"/dev", || sys(83, &[text(c"y"), MODE]))),
    told("mkdir y in /", "EROFS", "mkdir", "/y", |_| from(c"/", || sys(83, &[text(c"y"), MODE]))),
    told("mkdir y in /proc", "ENOENT", "mkdir", "/proc/y", |_| from(c"/proc", || sys(83, &[text(c"y"), MODE]))),
    told("rename probe to y in /home", "EROFS", "rename", P, |_| from(c"/home", || sys(82, &[text(PROBE), text(c"y")]))),
    told("rename probe to y in /dev", "EROFS", "rename", P, |_| from(c"/dev", || sys(82, &[text(PROBE), text(c"y")]))),
];

fn from(directory: &CStr, attempt: impl FnOnce() -> Attempt) -> Attempt {
    sys(80, &[text(directory)])?;
    let outcome = attempt();
    sys(80, &[text(c"/")])?;
    outcome
}

const SOCKETS: &[Way] = &[
    told("bind a Unix socket", "EROFS", "bind", "/home/socket", |_| bind(1, 1, 0, b"/home/socket\0")),
    told("bind a datagram socket", "EROFS", "bind", "/datagrams", |_| bind(1, 2, 0, b"datagrams\0")),
    told("bind in no directory", "ENOENT", "bind", "/tmp/socket", |_| bind(1, 1, 0, b"/tmp/socket\0")),
    refused("bind, it is there", "EADDRINUSE", NOTHING_ANYWHERE, |_| bind(1, 1, 0, b"/probe\0")),
    allowed("bind an abstract name", "it is in the container's network namespace", |_| bind(1, 1, 0, b"\0abstract")),
    allowed("bind a Unix socket to any name", "it is in the container's network namespace", |_| bind(1, 1, 0, b"")),
    allowed("bind TCP port 80", "it is the container's own network", |_| bind(2, 1, 0, b"\0\x50\0\0\0\0\0\0\0\0\0\0\0\0")),
    allowed("bind UDP port 53", "it is the container's own network", |_| bind(2, 2, 0, b"\0\x35\0\0\0\0\0\0\0\0\0\0\0\0")),
    allowed("bind netlink uevents", "they tell of the container's own network", |_| bind(16, 3, 15, &[0, 0, 0, 0, 0, 0, 1, 0, 0, 0])),
];
