//! Calls that change a file system, and the arguments that name their objects.
//!
//! Source: Linux, include/linux/syscalls.h, and the manual page of each call. openat2 and io_uring, whose
//! arguments a filter cannot see, are denied to every container (runtime/seccomp/calls.rs).

use super::ioctls;
use super::privilege::Ids;
use crate::base::sys::probe;
use crate::runtime::seccomp::{Condition, Watch, numbers};
use libc::{c_int, c_long};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A call, and the positions of its arguments, counted from 0.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    number: c_long,
    /// Name, as in its manual page.
    pub name: &'static str,
    /// Effect on the object that it names.
    pub action: Action,
    /// Object that it would change.
    pub object: ObjectArgument,
    /// Second object, if it names two.
    pub other: Option<ObjectArgument>,
}

/// Way in which a call names its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectArgument {
    /// Path from the working directory.
    Path(usize),
    /// Path from the directory of a descriptor.
    At(usize, usize),
    /// Descriptor.
    Descriptor(usize),
    /// Socket address and its length.
    Address(usize, usize),
    /// Name of a message queue.
    Queue(usize),
    /// The call names nothing.
    Nothing,
}

/// Effect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Opens a file, depending on its flags.
    Open(Flags),
    /// Creates a name.
    Make,
    /// Removes or moves a name.
    Remove,
    /// Changes attributes of an existing object.
    Change,
    /// Changes the content of an open file.
    Write,
    /// No container may do it: fails with EPERM, independently of the root.
    Forbidden,
    /// Creates or removes a System V object or a message queue, whose number is limited to 0: fails with
    /// this errno.
    KernelObject(Errno),
    /// Changes the process's user or groups: refused, though it changes no file system.
    ChangeIds(Ids),
    /// Changes the process's root directory: refused, though it changes no file system.
    ChangeRoot,
}

/// Position of the flags of an open(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// In this argument.
    Argument(usize),
    /// Implied, as for creat(2).
    Creat,
}

const fn call(number: c_long, name: &'static str, action: Action, object: ObjectArgument) -> Call {
    Call {
        number,
        name,
        action,
        object,
        other: None,
    }
}

const fn of_two(
    number: c_long,
    name: &'static str,
    action: Action,
    object: ObjectArgument,
    other: ObjectArgument,
) -> Call {
    Call {
        number,
        name,
        action,
        object,
        other: Some(other),
    }
}

use Action::{Change, ChangeIds, ChangeRoot, Forbidden, KernelObject, Make, Open, Remove, Write};
use ObjectArgument::{Address, At, Descriptor, Nothing, Path, Queue};

const CALLS: &[Call] = &[
    call(
        libc::SYS_openat,
        "openat",
        Open(Flags::Argument(2)),
        At(0, 1),
    ),
    call(libc::SYS_mkdirat, "mkdirat", Make, At(0, 1)),
    call(libc::SYS_mknodat, "mknodat", Make, At(0, 1)),
    call(libc::SYS_symlinkat, "symlinkat", Make, At(1, 2)),
    of_two(libc::SYS_linkat, "linkat", Make, At(2, 3), At(0, 1)),
    of_two(
        numbers::SYS_renameat,
        "renameat",
        Remove,
        At(0, 1),
        At(2, 3),
    ),
    of_two(libc::SYS_renameat2, "renameat2", Remove, At(0, 1), At(2, 3)),
    call(libc::SYS_unlinkat, "unlinkat", Remove, At(0, 1)),
    call(libc::SYS_fchmodat, "fchmodat", Change, At(0, 1)),
    call(numbers::SYS_fchmodat2, "fchmodat2", Change, At(0, 1)),
    call(libc::SYS_fchownat, "fchownat", Change, At(0, 1)),
    call(libc::SYS_utimensat, "utimensat", Change, At(0, 1)),
    call(libc::SYS_setxattr, "setxattr", Change, Path(0)),
    call(libc::SYS_lsetxattr, "lsetxattr", Change, Path(0)),
    call(463, "setxattrat", Change, At(0, 1)),
    call(libc::SYS_removexattr, "removexattr", Change, Path(0)),
    call(libc::SYS_lremovexattr, "lremovexattr", Change, Path(0)),
    call(466, "removexattrat", Change, At(0, 1)),
    call(469, "file_setattr", Change, At(0, 1)),
    call(libc::SYS_truncate, "truncate", Change, Path(0)),
    call(libc::SYS_fchmod, "fchmod", Change, Descriptor(0)),
    call(libc::SYS_fchown, "fchown", Change, Descriptor(0)),
    call(libc::SYS_fsetxattr, "fsetxattr", Change, Descriptor(0)),
    call(
        libc::SYS_fremovexattr,
        "fremovexattr",
        Change,
        Descriptor(0),
    ),
    call(libc::SYS_ioctl, "ioctl", Change, Descriptor(0)),
    call(libc::SYS_ftruncate, "ftruncate", Write, Descriptor(0)),
    call(libc::SYS_fallocate, "fallocate", Write, Descriptor(0)),
    call(libc::SYS_bind, "bind", Make, Address(1, 2)),
    call(libc::SYS_mount, "mount", Forbidden, Path(1)),
    call(libc::SYS_umount2, "umount2", Forbidden, Path(0)),
    call(libc::SYS_pivot_root, "pivot_root", Forbidden, Path(0)),
    call(libc::SYS_move_mount, "move_mount", Forbidden, At(2, 3)),
    call(libc::SYS_open_tree, "open_tree", Forbidden, At(0, 1)),
    call(
        libc::SYS_mount_setattr,
        "mount_setattr",
        Forbidden,
        At(0, 1),
    ),
    call(467, "open_tree_attr", Forbidden, At(0, 1)),
    call(libc::SYS_fspick, "fspick", Forbidden, At(0, 1)),
    call(libc::SYS_fsopen, "fsopen", Forbidden, Nothing),
    call(libc::SYS_fsconfig, "fsconfig", Forbidden, Nothing),
    call(libc::SYS_fsmount, "fsmount", Forbidden, Nothing),
    call(libc::SYS_swapon, "swapon", Forbidden, Path(0)),
    call(libc::SYS_swapoff, "swapoff", Forbidden, Path(0)),
    call(libc::SYS_acct, "acct", Forbidden, Path(0)),
    call(libc::SYS_quotactl, "quotactl", Forbidden, Path(1)),
    call(
        libc::SYS_quotactl_fd,
        "quotactl_fd",
        Forbidden,
        Descriptor(0),
    ),
    call(
        libc::SYS_shmget,
        "shmget",
        KernelObject(Errno::ENOSPC),
        Nothing,
    ),
    call(
        libc::SYS_msgget,
        "msgget",
        KernelObject(Errno::ENOSPC),
        Nothing,
    ),
    call(
        libc::SYS_semget,
        "semget",
        KernelObject(Errno::EINVAL),
        Nothing,
    ),
    call(
        libc::SYS_mq_open,
        "mq_open",
        KernelObject(Errno::ENOSPC),
        Queue(0),
    ),
    call(
        libc::SYS_mq_unlink,
        "mq_unlink",
        KernelObject(Errno::ENOENT),
        Queue(0),
    ),
    call(libc::SYS_chroot, "chroot", ChangeRoot, Path(0)),
    call(
        libc::SYS_setuid,
        "setuid",
        ChangeIds(Ids::Users(1)),
        Nothing,
    ),
    call(
        libc::SYS_setreuid,
        "setreuid",
        ChangeIds(Ids::Users(2)),
        Nothing,
    ),
    call(
        libc::SYS_setresuid,
        "setresuid",
        ChangeIds(Ids::Users(3)),
        Nothing,
    ),
    call(
        libc::SYS_setgid,
        "setgid",
        ChangeIds(Ids::Groups(1)),
        Nothing,
    ),
    call(
        libc::SYS_setregid,
        "setregid",
        ChangeIds(Ids::Groups(2)),
        Nothing,
    ),
    call(
        libc::SYS_setresgid,
        "setresgid",
        ChangeIds(Ids::Groups(3)),
        Nothing,
    ),
    call(
        libc::SYS_setgroups,
        "setgroups",
        ChangeIds(Ids::Supplementary),
        Nothing,
    ),
];

/// Calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLD: &[Call] = &[
    call(libc::SYS_open, "open", Open(Flags::Argument(1)), Path(0)),
    call(libc::SYS_creat, "creat", Open(Flags::Creat), Path(0)),
    call(libc::SYS_mkdir, "mkdir", Make, Path(0)),
    call(libc::SYS_mknod, "mknod", Make, Path(0)),
    call(libc::SYS_symlink, "symlink", Make, Path(1)),
    of_two(libc::SYS_link, "link", Make, Path(1), Path(0)),
    of_two(libc::SYS_rename, "rename", Remove, Path(0), Path(1)),
    call(libc::SYS_unlink, "unlink", Remove, Path(0)),
    call(libc::SYS_rmdir, "rmdir", Remove, Path(0)),
    call(libc::SYS_chmod, "chmod", Change, Path(0)),
    call(libc::SYS_chown, "chown", Change, Path(0)),
    call(libc::SYS_lchown, "lchown", Change, Path(0)),
    call(libc::SYS_utime, "utime", Change, Path(0)),
    call(libc::SYS_utimes, "utimes", Change, Path(0)),
    call(libc::SYS_futimesat, "futimesat", Change, At(0, 1)),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[Call] = &[];

/// Returns the call with a number.
pub fn of(number: u32) -> Option<&'static Call> {
    static TABLE: LazyLock<BTreeMap<u32, &Call>> =
        LazyLock::new(|| all().map(|call| (call.number as u32, call)).collect());
    TABLE.get(&number).copied()
}

fn all() -> impl Iterator<Item = &'static Call> {
    CALLS.iter().chain(OLD)
}

/// Number of the call that ends a process. It changes nothing: the filter reports it if the exit has to
/// wait.
pub const EXIT: u32 = libc::SYS_exit_group as u32;

/// Returns the calls that the filter reports, with the conditions.
pub fn watched() -> impl Iterator<Item = (u32, Watch)> {
    all().flat_map(|call| {
        watches(call)
            .into_iter()
            .map(|watch| (call.number as u32, watch))
    })
}

/// Returns the conditions under which the filter reports a call. Other calls with the same number change
/// nothing: an open for reading, another ioctl.
fn watches(call: &Call) -> Vec<Watch> {
    let bits = |argument, mask: c_int, value: c_int| Condition {
        argument,
        mask: mask as u32 as u64,
        value: value as u32 as u64,
    };
    let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
    match (call.action, call.number) {
        (Open(Flags::Argument(flags)), _) => vec![Watch::Unless(bits(flags as u8, writing, 0))],
        (_, libc::SYS_ioctl) => {
            let requests = ioctls::REQUESTS.iter();
            requests
                .map(|request| Watch::Where(bits(1, -1, request.number as c_int)))
                .collect()
        }
        (_, libc::SYS_mq_open) => vec![Watch::Unless(bits(1, libc::O_CREAT, 0))],
        _ => vec![Watch::Always],
    }
}

impl Call {
    /// Returns true for a call that creates a symbolic link, whose text is its first argument.
    pub fn creates_link(&self) -> bool {
        ["symlink", "symlinkat"].contains(&self.name)
    }

    /// Returns its number on this architecture.
    pub fn number(&self) -> c_long {
        self.number
    }

    /// Returns the open flags, if it opens a file; for creat(2), the flags that it stands for.
    pub fn open_flags(&self, arguments: &[u64; 6]) -> Option<c_int> {
        match self.action {
            Open(Flags::Argument(place)) => Some(arguments[place] as c_int),
            Open(Flags::Creat) => Some(libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC),
            _ => None,
        }
    }

    /// Returns true if this kernel does not have the call: it then fails with ENOSYS.
    pub fn is_missing(&self) -> bool {
        static MISSING: LazyLock<Vec<c_long>> = LazyLock::new(|| {
            // The last number of Linux 5.19 is 450; later numbers are the same on all architectures.
            let young = all().filter(|call| call.number > 450 && call.action == Change);
            let missing = young.filter(|call| !probe::has_call(call.number));
            missing.map(|call| call.number).collect()
        });
        MISSING.contains(&self.number)
    }

    /// Returns the `AT_*` flags of a call; 0 if it has none.
    pub fn at_flags(&self, arguments: &[u64; 6]) -> c_int {
        let place = match self.number {
            numbers::SYS_fchmodat2 | libc::SYS_utimensat => 3,
            libc::SYS_fchownat | libc::SYS_linkat | 469 => 4,
            463 | 466 => 2,
            _ => return 0,
        };
        arguments[place] as c_int
    }

    /// Returns true if an empty or missing name means the descriptor beside it.
    pub fn takes_no_name(&self, arguments: &[u64; 6]) -> bool {
        self.action == Forbidden || self.at_flags(arguments) & libc::AT_EMPTY_PATH != 0
    }

    /// Returns true if a null pointer means the descriptor beside it, or nothing.
    pub fn takes_null(&self, arguments: &[u64; 6]) -> bool {
        let touches = self.number == libc::SYS_utimensat || self.name == "futimesat";
        touches || self.takes_no_name(arguments)
    }

    /// Returns true if the call acts on a symbolic link itself, not on its target.
    pub fn acts_on_link(&self, arguments: &[u64; 6]) -> bool {
        if self.at_flags(arguments) & libc::AT_SYMLINK_NOFOLLOW != 0 {
            return true;
        }
        match self.number {
            libc::SYS_lsetxattr | libc::SYS_lremovexattr => true,
            _ if self.name == "lchown" => true,
            _ => match self.open_flags(arguments) {
                Some(flags) => {
                    let exclusive = libc::O_CREAT | libc::O_EXCL;
                    flags & libc::O_NOFOLLOW != 0 || flags & exclusive == exclusive
                }
                None => matches!(self.action, Make | Remove),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_listed_once_and_watched() {
        let mut numbers: Vec<_> = all().map(|call| call.number).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
        for call in all() {
            assert_eq!(of(call.number as u32).unwrap().name, call.name);
            assert!(watched().any(|(number, _)| number == call.number as u32));
        }
        assert!(of(libc::SYS_read as u32).is_none());
    }

    #[test]
    fn a_call_is_missing_where_the_kernel_is_older_than_it() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map(|word| word.parse::<u32>());
        let mut next = || numbers.next().unwrap().unwrap();
        let kernel = (next(), next());
        let calls = [
            (452, (6, 6)),
            (463, (6, 13)),
            (466, (6, 13)),
            (469, (6, 17)),
            (libc::SYS_ftruncate as u32, (0, 0)),
        ];
        for (number, since) in calls {
            assert_eq!(of(number).unwrap().is_missing(), kernel < since, "{number}");
        }
    }

    #[test]
    fn an_open_follows_links_unless_it_says_otherwise() {
        let open = of(libc::SYS_openat as u32).unwrap();
        let with = |flags: c_int| open.acts_on_link(&[0, 0, flags as u64, 0, 0, 0]);
        assert!(!with(libc::O_WRONLY));
        assert!(with(libc::O_WRONLY | libc::O_NOFOLLOW));
        assert!(with(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL));
    }
}
