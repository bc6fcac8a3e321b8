//! Every way to change a file system, and what the kernel keeps beside them.
//!
//! What exists is /probe and /home, a directory; /link leads to /probe.

use super::{call, text};
use std::ffi::{CStr, c_long};
use std::io::Error;

const HERE: c_long = -100; // AT_FDCWD
const ROOT: &CStr = c"/";
const FILE: &CStr = c"/probe";
const LINK: &CStr = c"/link";
const HOME: &CStr = c"/home";
const NEW: &CStr = c"/home/new";
const MODE: c_long = 0o644;
const WRONLY: c_long = 0o1;
const RDWR: c_long = 0o2;
const CREAT: c_long = 0o100;
const EXCL: c_long = 0o200;
const TRUNC: c_long = 0o1000;
const APPEND: c_long = 0o2000;
const TMPFILE: c_long = 0o20_200_000;
const NULL: c_long = 0;

/// A call by its name, and what it would change; both as a report should have them.
type Change = (&'static str, Option<&'static CStr>, c_long, [c_long; 6]);

fn changes(file: c_long, home: c_long, socket: c_long) -> Vec<Change> {
    static ZERO: u64 = 0;
    let word = &raw const ZERO as c_long;
    let address = b"\x01\0/home/socket\0"; // AF_UNIX in two bytes, then the path
    let (bytes, length) = (address.as_ptr() as c_long, address.len() as c_long);
    let (root, path, link, new, dir) = (text(ROOT), text(FILE), text(LINK), text(NEW), text(HOME));
    let name = text(c"user.name");
    let one = |change: &'static str, what, number, a: &[c_long]| {
        let mut arguments = [0; 6];
        arguments[..a.len()].copy_from_slice(a);
        (change, what, number, arguments)
    };
    let (f, n, h, some) = (Some(FILE), Some(NEW), Some(HOME), |path| Some(path));
    vec![
        one("open", f, 2, &[path, WRONLY]),
        one("open", f, 2, &[path, RDWR | APPEND]),
        one("open", f, 2, &[path, TRUNC]),
        one("open", f, 2, &[link, WRONLY]),
        one("open", n, 2, &[new, WRONLY | CREAT, MODE]),
        one("open", n, 2, &[new, CREAT, MODE]),
        one("open", n, 2, &[new, RDWR | CREAT | EXCL, MODE]),
        one("open", h, 2, &[dir, RDWR | TMPFILE, MODE]),
        one("open", some(c"/none/new"), 2, &[text(c"/none/new"), WRONLY | CREAT, MODE]),
        one("open", some(c"/probe/new"), 2, &[text(c"/probe/new"), WRONLY | CREAT, MODE]),
        one("openat", f, 257, &[HERE, path, WRONLY]),
        one("openat", f, 257, &[HERE, path, RDWR | TRUNC]),
        one("openat", n, 257, &[HERE, new, WRONLY | CREAT, MODE]),
        one("openat", n, 257, &[home, text(c"new"), WRONLY | CREAT, MODE]),
        one("openat", n, 257, &[HERE, text(c"home/../home//new"), WRONLY | CREAT, MODE]),
        one("openat", h, 257, &[HERE, dir, WRONLY | TMPFILE, MODE]),
        one("openat", some(c"/dev/new"), 257, &[HERE, text(c"/dev/new"), WRONLY | CREAT, MODE]),
        one("openat", some(c"/dev/shm/new"), 257, &[HERE, text(c"/dev/shm/new"), WRONLY | CREAT, MODE]),
        one("openat", some(c"/proc/sys/kernel/hostname"), 257, &[HERE, text(c"/proc/sys/kernel/hostname"), WRONLY]),
        one("openat", some(c"/proc/1/comm"), 257, &[HERE, text(c"/proc/self/comm"), WRONLY]),
        one("openat", some(c"/proc/1/oom_score_adj"), 257, &[HERE, text(c"/proc/1/oom_score_adj"), WRONLY]),
        one("openat", some(c"/proc/1/mem"), 257, &[HERE, text(c"/proc/self/mem"), RDWR]),
        one("openat", some(c"/sys/fs/cgroup/cgroup.procs"), 257, &[HERE, text(c"/sys/fs/cgroup/cgroup.procs"), WRONLY]),
        one("creat", n, 85, &[new, MODE]),
        one("creat", f, 85, &[path, MODE]),
        one("mkdir", n, 83, &[new, MODE]),
        one("mkdir", some(c"/new"), 83, &[text(c"new"), MODE]),
        one("mkdir", some(c"/proc/new"), 83, &[text(c"/proc/new"), MODE]),
        one("mkdir", some(c"/sys/fs/cgroup/new"), 83, &[text(c"/sys/fs/cgroup/new"), MODE]),
        one("mkdirat", n, 258, &[home, text(c"new"), MODE]),
        one("mknod", n, 133, &[new, 0o100_644]),
        one("mknod", n, 133, &[new, 0o10_644]),
        one("mknod", some(c"/dev/kmsg"), 133, &[text(c"/dev/kmsg"), 0o20_600, 0x10b]),
        one("mknodat", n, 259, &[HERE, new, 0o100_644]),
        one("symlink", n, 88, &[path, new]),
        one("symlinkat", n, 266, &[path, HERE, new]),
        one("link", n, 86, &[path, new]),
        one("linkat", n, 265, &[HERE, path, HERE, new]),
        one("rename", f, 82, &[path, new]),
        one("rename", h, 82, &[dir, text(c"/elsewhere")]),
        one("renameat", f, 264, &[HERE, path, HERE, new]),
        one("renameat2", f, 316, &[HERE, path, HERE, new, 1]), // RENAME_NOREPLACE
        one("renameat2", f, 316, &[HERE, path, HERE, link, 2]), // RENAME_EXCHANGE
        one("unlink", f, 87, &[path]),
        one("unlink", some(LINK), 87, &[link]),
        one("unlinkat", f, 263, &[HERE, path]),
        one("unlinkat", h, 263, &[HERE, dir, 0x200]), // AT_REMOVEDIR
        one("rmdir", h, 84, &[dir]),
        one("truncate", f, 76, &[path]),
        one("chmod", f, 90, &[path, 0o777]),
        one("chmod", f, 90, &[link, 0o777]),
        one("fchmod", f, 91, &[file, 0o777]),
        one("fchmodat", f, 268, &[HERE, path, 0o777]),
        one("fchmodat2", f, 452, &[HERE, path, 0o777, 0]),
        one("chown", f, 92, &[path, 1, 1]),
        one("lchown", some(LINK), 94, &[link, 1, 1]),
        one("fchown", f, 93, &[file, 1, 1]),
        one("fchownat", some(LINK), 260, &[HERE, link, 1, 1, 0x100]), // AT_SYMLINK_NOFOLLOW
        one("fchownat", h, 260, &[home, text(c""), 1, 1, 0x1000]), // AT_EMPTY_PATH
        one("utime", f, 132, &[path, NULL]),
        one("utimes", f, 235, &[path, NULL]),
        one("futimesat", f, 261, &[HERE, path, NULL]),
        one("utimensat", f, 280, &[HERE, path, NULL, 0]),
        one("utimensat", f, 280, &[file, NULL, NULL, 0]),
        one("setxattr", f, 188, &[path, name, word, 1, 0]),
        one("lsetxattr", f, 189, &[path, name, word, 1, 0]),
        one("fsetxattr", f, 190, &[file, name, word, 1, 0]),
        one("removexattr", f, 197, &[path, name]),
        one("lremovexattr", f, 198, &[path, name]),
        one("fremovexattr", f, 199, &[file, name]),
        one("ioctl", f, 16, &[file, 0x4008_6602, word]), // FS_IOC_SETFLAGS
        one("fallocate", f, 285, &[file, 0, 0, 1]),
        one("ftruncate", f, 77, &[file, 0]),
        one("bind", some(c"/home/socket"), 49, &[socket, bytes, length]),
        one("mount", h, 165, &[text(c"none"), dir, text(c"tmpfs"), 0, NULL]),
        one("mount", some(ROOT), 165, &[NULL, root, NULL, 0x20, NULL]), // MS_REMOUNT
        one("mount", h, 165, &[root, dir, NULL, 0x1000, NULL]), // MS_BIND
        one("umount2", some(c"/proc"), 166, &[text(c"/proc"), 2]),
        one("pivot_root", some(ROOT), 155, &[root, root]),
        one("move_mount", h, 429, &[home, text(c""), HERE, dir, 4]),
        one("open_tree", some(ROOT), 428, &[HERE, root, 1]),
        one("mount_setattr", some(ROOT), 442, &[HERE, root, 0, NULL, 0]),
        one("fspick", some(ROOT), 433, &[HERE, root, 0]),
        one("fsopen", None, 430, &[text(c"tmpfs"), 0]),
        one("fsconfig", None, 431, &[0, 6, NULL, NULL, 0]),
        one("fsmount", None, 432, &[0, 0, 0]),
        one("swapon", f, 167, &[path, 0]),
        one("swapoff", f, 168, &[path]),
        one("acct", n, 163, &[new]),
        one("shmget", None, 29, &[0, 4096, 0o1600]),
        one("msgget", None, 68, &[0, 0o1600]),
        one("semget", None, 64, &[0, 1, 0o1600]),
        one("mq_open", Some(c"queue"), 240, &[text(c"queue"), CREAT | RDWR, 0o600, NULL]),
    ]
}

/// Tries them all; a line `CALL ERRNO PATH` for each.
pub fn try_all() {
    let open = |path: &CStr| call(2, [text(path), 0, 0, 0, 0, 0]).unwrap();
    let socket = call(41, [1, 1, 0, 0, 0, 0]).unwrap();
    for (name, what, number, arguments) in changes(open(FILE), open(HOME), socket) {
        let errno = match call(number, arguments) {
            Ok(_) => 0,
            Err(error) => Error::raw_os_error(&error).unwrap(),
        };
        println!("{name} {errno} {}", what.map_or("-", |path| path.to_str().unwrap()));
    }
}
