//! Sysctls of the container's namespaces, set before the app runs.

use super::child::Step;
use crate::base::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Maximum number of bytes read of a value: no sysctl is as long as a page.
const MAX: usize = 4096;

/// A sysctl that a bundle sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name, as in the bundle.
    pub name: String,
    /// Path beneath /proc.
    pub path: CString,
    /// Value to write.
    pub value: Vec<u8>,
}

impl Setting {
    /// Returns the config.json field that sets it, for errors.
    pub fn field(name: &str) -> String {
        format!("config.json `linux.sysctl {name:?}`")
    }
}

/// A sysctl that imrun sets, beneath /proc.
pub(super) struct Sysctl {
    /// Step to report if it cannot be set.
    pub step: Step,
    path: &'static CStr,
    value: &'static [u8],
}

const fn sysctl(step: Step, path: &'static CStr, value: &'static [u8]) -> Sysctl {
    Sysctl { step, path, value }
}

/// Sysctl of the guard's pid namespace, set by a member that is root on the host: memory file descriptors
/// cannot be executed there, nor in any nested namespace.
pub(super) const HOST_USER: [Sysctl; 1] = [sysctl(Step::SysctlMemfd, c"sys/vm/memfd_noexec", b"2")];

/// Sysctls of the ipc namespace, set as its root: no object can be kept in the kernel.
pub(super) const IPC: [Sysctl; 5] = [
    sysctl(Step::SysctlShmmni, c"sys/kernel/shmmni", b"0"),
    sysctl(Step::SysctlShmall, c"sys/kernel/shmall", b"0"),
    sysctl(Step::SysctlMsgmni, c"sys/kernel/msgmni", b"0"),
    sysctl(Step::SysctlSem, c"sys/kernel/sem", b"0 0 0 0"),
    sysctl(Step::SysctlQueues, c"sys/fs/mqueue/queues_max", b"0"),
];

/// Sysctl of the user namespace: the app cannot create a user namespace, in which it could mount file
/// systems.
pub(super) const USER: [Sysctl; 1] = [sysctl(
    Step::SysctlUserNamespaces,
    c"sys/user/max_user_namespaces",
    b"0",
)];

/// Sysctls of a user namespace whose owner has other processes: a share of the limits that the kernel
/// applies to that user (user_namespaces(7), /proc/sys/user).
pub(super) const SHARED_USER: [Sysctl; 2] = [
    sysctl(
        Step::SysctlInotifyInstances,
        c"sys/user/max_inotify_instances",
        b"32",
    ),
    sysctl(
        Step::SysctlInotifyWatches,
        c"sys/user/max_inotify_watches",
        b"8192",
    ),
];

/// Sysctl of a network namespace of the container's own: the app can listen on port 80 without
/// privileges.
pub(super) const NETWORK: [Sysctl; 1] = [sysctl(
    Step::SysctlPorts,
    c"sys/net/ipv4/ip_unprivileged_port_start",
    b"0",
)];

impl Sysctl {
    /// Writes the value; see [`set`].
    pub fn set(&self, proc: BorrowedFd<'_>) -> nix::Result<()> {
        set(proc, self.path, self.value)
    }
}

/// Sets the limits of this process's ipc namespace to 0. Its procfs is the host's.
pub fn close_ipc() -> Result<()> {
    let proc = host_proc()?;
    let set = |sysctl: &Sysctl| sysctl.set(proc.as_fd()).context(|| sysctl.step.call());
    IPC.iter().try_for_each(set)
}

/// Writes a sysctl of this thread's namespaces through the host's procfs, and reads it back.
pub(super) fn set_here(setting: &Setting) -> Result<()> {
    let Setting { name, path, value } = setting;
    let proc = host_proc()?;
    let what = |call| format!("{}: {call}({path:?})", Setting::field(name));
    set(proc.as_fd(), path, value).context(|| what("write"))?;
    if holds(proc.as_fd(), path, value).context(|| what("read"))? {
        Ok(())
    } else {
        Err(Error::system(Setting::field(name), NOT_KEPT))
    }
}

/// Error for a sysctl that does not keep its value.
pub(super) const NOT_KEPT: &str = "the kernel did not keep the value: a different one reads back";

fn host_proc() -> Result<OwnedFd> {
    open("/proc", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| "open(\"/proc\", O_PATH)")
}

/// Writes a sysctl through a procfs that nobody else has open. No mount or link in it can redirect the
/// write.
pub(super) fn set(proc: BorrowedFd<'_>, path: &CStr, value: &[u8]) -> nix::Result<()> {
    let file = open_in(proc, path, OFlag::O_WRONLY)?;
    match nix::unistd::write(&file, value)? {
        length if length == value.len() => Ok(()),
        _ => Err(Errno::EIO),
    }
}

/// Returns true if a sysctl reads as `value`. Allocates nothing.
pub(super) fn holds(proc: BorrowedFd<'_>, path: &CStr, value: &[u8]) -> nix::Result<bool> {
    let file = open_in(proc, path, OFlag::O_RDONLY)?;
    let mut buffer = [0; MAX];
    let length = nix::unistd::read(&file, &mut buffer)?;
    Ok(is_same(value, &buffer[..length]))
}

fn open_in(proc: BorrowedFd<'_>, path: &CStr, access: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(access | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    openat2(proc, path, how)
}

/// Returns true if two texts are the same value. The kernel formats white space, decimal numbers and
/// lists of ranges in its own way (`80,81` reads as `80-81`).
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let words = |text| <[u8]>::split(text, u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (mut ones, mut others) = (words(one), words(other));
    let same_words = loop {
        match (ones.next(), others.next()) {
            (None, None) => break true,
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) if number(one).is_some_and(|n| number(other) == Some(n)) => {}
            _ => break false,
        }
    };
    same_words || (covers(one, other) && covers(other, one))
}

/// Parses an integer as the kernel does: decimal, `0x` hexadecimal, or octal after a 0.
fn number(word: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(word).ok()?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let number = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
        (Some(hex), _) => i64::from_str_radix(hex, 16),
        (None, Some(octal)) if !octal.is_empty() => i64::from_str_radix(octal, 8),
        _ => digits.parse(),
    };
    number.ok().map(|number| sign * number)
}

/// Returns true if the list `outer` contains every number of the list `inner`.
fn covers(outer: &[u8], inner: &[u8]) -> bool {
    let ranges = |list| {
        <[u8]>::split(list, |byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .map(range)
    };
    ranges(inner).all(|range| {
        let Some((mut next, last)) = range else {
            return false;
        };
        while next <= last {
            let holds_next = |(first, last): &(i64, i64)| (*first..=*last).contains(&next);
            match ranges(outer).flatten().find(holds_next) {
                Some((_, end)) => next = end + 1,
                None => return false,
            }
        }
        true
    })
}

/// Parses `FIRST` or `FIRST-LAST`.
fn range(word: &[u8]) -> Option<(i64, i64)> {
    let mut ends = word.splitn(2, |byte| *byte == b'-').map(number);
    let first = ends.next()??;
    let last = ends.next().unwrap_or(Some(first))?;
    (last < i64::MAX).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_same_however_the_kernel_writes_it() {
        for (written, read) in [
            ("1024", "1024\n"),
            ("0 2147483647", "0\t2147483647\n"),
            ("0x10", "16"),
            ("010", "8"),
            ("-1", "-1\n"),
            ("cubic", "cubic\n"),
            ("", "\n"),
            ("80,81,90", "80-81,90\n"),
            ("1-3,2-9", "1-9\n"),
        ] {
            assert!(is_same(written.as_bytes(), read.as_bytes()), "{written:?}");
        }
        for (written, read) in [
            ("1024", "0\n"),
            ("1", "1\t2\n"),
            ("cubic", "reno\n"),
            ("80,82", "80-82\n"),
            ("80-82", "80,82\n"),
            ("", "80\n"),
            ("80", "\n"),
            ("0x", "0"),
        ] {
            assert!(!is_same(written.as_bytes(), read.as_bytes()), "{written:?}");
        }
    }
}
