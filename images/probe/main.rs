//! An app that tries what a container must not do: each argument names an attempt, and what became
//! of it is a line `NAME: ok` or `NAME: ERRNO`.
//!
//! The numbers of the calls are those of x86-64, as the test's are.

mod race;
mod ways;

use std::ffi::{CStr, c_char, c_int, c_long};
use std::fs::{self, OpenOptions};
use std::io::Write as _;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

type Attempt = Result<c_long, std::io::Error>;

/// What the kernel says to a call whose arguments are words and pointers of this process.
fn call(number: c_long, arguments: [c_long; 6]) -> Attempt {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the callers pass pointers that are valid, or null.
    match unsafe { syscall(number, a, b, c, d, e, f) } {
        -1 => Err(std::io::Error::last_os_error()),
        value => Ok(value),
    }
}

fn text(text: &CStr) -> c_long {
    text.as_ptr() as c_long
}

const CREATE: c_long = 0o1600; // IPC_CREAT | 0600
const NEWUSER: c_long = 0x1000_0000;
const NEWNS: c_long = 0x0002_0000;
const SIGCHLD: c_long = 17;
const ROOT: &CStr = c"/";

fn attempt(name: &str) -> Attempt {
    let here = -100; // AT_FDCWD
    let null = 0;
    match name {
        // What is kept in the kernel, or in memory file systems.
        "shmget" => call(29, [0, 4096, CREATE, 0, 0, 0]),
        "msgget" => call(68, [0, CREATE, 0, 0, 0, 0]),
        "semget" => call(64, [0, 1, CREATE, 0, 0, 0]),
        "mq_open" => call(240, [text(c"queue"), 0o102, 0o600, null, 0, 0]),
        "add_key" => call(248, [text(c"user"), text(c"key"), text(c"value"), 5, -2, 0]),
        "keyctl" => call(250, [0, -3, 1, 0, 0, 0]), // the session keyring, made when there is none
        "request_key" => call(249, [text(c"user"), text(c"key"), null, 0, 0, 0]),
        "memfd" => call(319, [text(c"memory"), 0, 0, 0, 0, 0]),
        "memfd_noexec" => call(319, [text(c"memory"), 0x8, 0, 0, 0, 0]), // MFD_NOEXEC_SEAL
        "memfd_exec" => call(319, [text(c"memory"), 0x10, 0, 0, 0, 0]), // MFD_EXEC
        "memfd_run" => memfd_run(),
        // Mounts and namespaces.
        "mount" => call(165, [text(c"none"), text(c"/proc"), text(c"tmpfs"), 0, null, 0]),
        "remount" => call(165, [null, text(ROOT), null, 0x20, null, 0]), // MS_REMOUNT
        "remount_bind" => call(165, [null, text(ROOT), null, 0x1020, null, 0]), // and MS_BIND
        "umount" => call(166, [text(c"/proc"), 2, 0, 0, 0, 0]),
        "fsopen" => call(430, [text(c"tmpfs"), 0, 0, 0, 0, 0]),
        "open_tree" => call(428, [here, text(ROOT), 1, 0, 0, 0]), // OPEN_TREE_CLONE
        "mount_setattr" => call(442, [here, text(ROOT), 0, null, 0, 0]),
        "pivot_root" => call(155, [text(ROOT), text(ROOT), 0, 0, 0, 0]),
        "unshare_user" => call(272, [NEWUSER, 0, 0, 0, 0, 0]),
        "unshare_mount" => call(272, [NEWNS, 0, 0, 0, 0, 0]),
        "clone_user" => call(56, [NEWUSER | SIGCHLD, null, null, null, 0, 0]),
        "clone3" => call(435, [null, 0, 0, 0, 0, 0]),
        "setns" => call(308, [open("/proc/self/ns/mnt", false)?, 0, 0, 0, 0, 0]),
        "chroot" => call(161, [text(c"/dev"), 0, 0, 0, 0, 0]),
        // Other processes and the kernel.
        "ptrace" => call(101, [0, 0, 0, 0, 0, 0]), // PTRACE_TRACEME
        "process_vm_readv" => call(310, [1, null, 0, null, 0, 0]),
        "bpf" => call(321, [0, null, 0, 0, 0, 0]),
        "userfaultfd" => call(323, [1, 0, 0, 0, 0, 0]), // UFFD_USER_MODE_ONLY
        "perf_event_open" => call(298, [null, 0, -1, -1, 0, 0]),
        "io_uring_setup" => call(425, [1, null, 0, 0, 0, 0]),
        "openat2" => call(437, [here, text(ROOT), null, 0, 0, 0]),
        "syslog" => call(103, [10, null, 0, 0, 0, 0]), // the size of the log
        "personality" => call(135, [0x0004_0000, 0, 0, 0, 0, 0]), // ADDR_NO_RANDOMIZE
        "tiocsti" => call(16, [0, 0x5412, text(c"x"), 0, 0, 0]),
        "core_limit" => call(160, [4, [1u64, 1].as_ptr() as c_long, 0, 0, 0, 0]),
        "settimeofday" => call(164, [null, null, 0, 0, 0, 0]),
        "sethostname" => call(170, [text(c"x"), 1, 0, 0, 0, 0]),
        // Names, files and sockets.
        "mkdir" => call(83, [text(c"/new"), 0o777, 0, 0, 0, 0]),
        "mknod" => call(133, [text(c"/dev/sda"), 0o60600, 8 << 8, 0, 0, 0]),
        "vsock" => call(41, [40, 1, 0, 0, 0, 0]),
        "alg" => call(41, [38, 5, 0, 0, 0, 0]),
        "packet" => call(41, [17, 3, 0, 0, 0, 0]),
        // The signal that ends the app with imrun.
        "clear_pdeathsig" => call(157, [1, 0, 0, 0, 0, 0]),
        "setuid" => call(105, [1, 0, 0, 0, 0, 0]),
        // Ways to make a call that an observer could miss.
        "mkdir_in_threads" => mkdir_in_threads(),
        "mkdir_among_signals" => mkdir_among_signals(),
        "mkdir_in_child" => std::process::Command::new("/probe").arg("mkdir").status().map(|_| 0),
        "mkdir_behind_a_filter" => filter(0).and_then(|_| attempt("mkdir")),
        "second_listener" => filter(8), // SECCOMP_FILTER_FLAG_NEW_LISTENER
        _ => named(name),
    }
}

/// Attempts on something that the argument names: `WHAT:NAME`.
fn named(name: &str) -> Attempt {
    match name.split_once(':') {
        Some(("write", path)) => open(path, true),
        Some(("read", path)) => fs::read(path).map(|bytes| bytes.len() as c_long),
        Some(("abstract", socket)) => abstract_socket(socket),
        Some(("way", way)) => ways::try_one(way),
        _ => panic!("{name:?} is no attempt"),
    }
}

fn open(path: &str, write: bool) -> Attempt {
    use std::os::fd::IntoRawFd as _;
    // As a shell redirects: an unprivileged one would get EACCES first without the last two.
    let mut options = OpenOptions::new();
    let options = options.read(!write).write(write).create(write).truncate(write);
    let file = options.open(path)?;
    Ok(file.into_raw_fd().into())
}

/// A program in memory, executed by its descriptor.
fn memfd_run() -> Attempt {
    use std::os::fd::FromRawFd as _;
    let fd = attempt("memfd")?;
    // SAFETY: the kernel has just made this descriptor.
    let mut file = unsafe { fs::File::from_raw_fd(fd as c_int) };
    file.write_all(&fs::read("/probe")?)?;
    let none: [*const c_char; 1] = [std::ptr::null()];
    let list = none.as_ptr() as c_long;
    call(322, [fd, text(c""), list, list, 0x1000, 0]) // execveat, AT_EMPTY_PATH
}

fn abstract_socket(name: &str) -> Attempt {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    std::os::unix::net::UnixStream::connect_addr(&address).map(|_| 0)
}

/// A hundred in each of four threads.
fn mkdir_in_threads() -> Attempt {
    let some = || (0..100).for_each(|_| drop(attempt("mkdir")));
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(some))));
    Ok(0)
}

extern "C" fn interrupted(_: c_int) {}

/// Five hundred, with a signal every 100 microseconds.
fn mkdir_among_signals() -> Attempt {
    let restorer: extern "C" fn() -> ! = restore;
    // struct kernel_sigaction: handler, flags (SA_RESTART, SA_RESTORER), restorer, mask.
    let action = [interrupted as extern "C" fn(c_int) as u64, 0x1400_0000, restorer as u64, 0];
    call(13, [14, action.as_ptr() as c_long, 0, 8, 0, 0])?; // SIGALRM
    let every = [0u64, 100, 0, 100]; // struct itimerval
    call(38, [0, every.as_ptr() as c_long, 0, 0, 0, 0])?;
    (0..500).for_each(|_| drop(attempt("mkdir")));
    call(38, [0, [0u64; 4].as_ptr() as c_long, 0, 0, 0, 0])
}

/// Where a signal's handler returns to.
#[unsafe(naked)]
extern "C" fn restore() -> ! {
    std::arch::naked_asm!("mov eax, 15", "syscall") // rt_sigreturn
}

/// A filter of the app's own that lets mkdir(2) fail with EACCES.
fn filter(flags: c_long) -> Attempt {
    let instruction = |code: u64, jumps: u64, k: u64| code | jumps << 16 | k << 32;
    let program = [
        instruction(0x20, 0, 0), // the call's number
        instruction(0x15, 0x0100, 83), // no mkdir: skip one
        instruction(0x06, 0, 0x0005_000d), // SECCOMP_RET_ERRNO
        instruction(0x06, 0, 0x7fff_0000), // SECCOMP_RET_ALLOW
    ];
    let header = [program.len() as u64, program.as_ptr() as u64];
    call(317, [1, flags, header.as_ptr() as c_long, 0, 0, 0])
}

fn errno(error: &std::io::Error) -> String {
    let known = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (3, "ESRCH"),
        (6, "ENXIO"),
        (9, "EBADF"),
        (11, "EAGAIN"),
        (12, "ENOMEM"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (16, "EBUSY"),
        (17, "EEXIST"),
        (18, "EXDEV"),
        (19, "ENODEV"),
        (20, "ENOTDIR"),
        (21, "EISDIR"),
        (22, "EINVAL"),
        (24, "EMFILE"),
        (25, "ENOTTY"),
        (28, "ENOSPC"),
        (30, "EROFS"),
        (36, "ENAMETOOLONG"),
        (38, "ENOSYS"),
        (40, "ELOOP"),
        (95, "EOPNOTSUPP"),
        (97, "EAFNOSUPPORT"),
        (98, "EADDRINUSE"),
        (111, "ECONNREFUSED"),
    ];
    let name = known.iter().find(|(code, _)| error.raw_os_error() == Some(*code));
    name.map_or_else(|| error.to_string(), |(_, name)| name.to_string())
}

/// Looks at something, where an answer says more than an errno.
fn look(name: &str) -> Option<String> {
    let (what, path) = name.split_once(':')?;
    match what {
        "ls" => {
            let entries = fs::read_dir(path).map_err(|error| errno(&error));
            let entries = entries.map(|list| {
                let names = list.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                let mut names: Vec<_> = names.collect();
                names.sort();
                names.join(" ")
            });
            Some(entries.unwrap_or_else(|errno| errno))
        }
        "link" => Some(fs::read_link(path).map_or_else(|error| errno(&error), |to| to.display().to_string())),
        "cat" => Some(fs::read_to_string(path).map_or_else(|error| errno(&error), |text| text.trim().to_owned())),
        "time" => Some(nanoseconds_per_call(path, || drop(call(110, [0; 6])))), // getppid
        "race" => Some(race::refusals(path).to_string()),
        "refused" => Some(nanoseconds_per_call(path, || drop(attempt("mkdir")))),
        _ => None,
    }
}

/// What one call takes, for measuring the filter and the observer.
fn nanoseconds_per_call(count: &str, make: impl Fn()) -> String {
    let count: u32 = count.parse().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..count {
        make();
    }
    (start.elapsed().as_nanos() / u128::from(count)).to_string()
}

fn main() {
    for name in std::env::args().skip(1) {
        if name == "wait" {
            println!("waiting");
            loop {
                std::thread::park();
            }
        }
        match name.as_str() {
            // Another thread than the first executes a program: the kernel forgets what the first has asked for.
            "exec_in_thread" => {
                let exec = || std::os::unix::process::CommandExt::exec(std::process::Command::new("/probe").arg("wait"));
                panic!("{:?}", std::thread::spawn(exec).join());
            }
            "ways" | "harmless" => {
                ways::try_all(name == "harmless");
                continue;
            }
            "changes" => {
                ways::try_changes();
                continue;
            }
            _ => {}
        }
        let outcome = look(&name).unwrap_or_else(|| match attempt(&name) {
            Ok(_) => "ok".into(),
            Err(error) => errno(&error),
        });
        println!("{name}: {outcome}");
    }
}
