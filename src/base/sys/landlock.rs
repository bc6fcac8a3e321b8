//! Landlock, the access control that a process puts on itself (landlock(7), linux/landlock.h).

use super::check;
use nix::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null;

/// Kinds of access to files: `LANDLOCK_ACCESS_FS_*`.
pub type Access = u64;

/// What a ruleset denies unless a rule allows it (struct landlock_ruleset_attr).
#[repr(C)]
pub struct Handled {
    /// Kinds of access to files.
    pub files: Access,
    /// Kinds of access to the network; from version 4 of the interface.
    pub network: u64,
    /// What may not be reached outside the domain: `LANDLOCK_SCOPE_*`; from version 6.
    pub scopes: u64,
}

/// struct landlock_path_beneath_attr
#[repr(C, packed)]
struct PathBeneath {
    allowed: Access,
    parent: RawFd,
}

/// The version of the kernel's interface; an error where there is none.
pub fn version() -> Result<u32> {
    const VERSION: u32 = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let none = null::<Handled>();
    // SAFETY: the version is asked for with neither attributes nor size.
    let version =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) })?;
    Ok(version as u32)
}

/// A ruleset without rules. What is 0 in `handled` may be unknown to the kernel.
pub fn create(handled: &Handled) -> Result<OwnedFd> {
    let size = size_of::<Handled>();
    // SAFETY: the structure is as large as `size` says; an older kernel takes it as long as what
    // it does not know is 0.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const *handled,
            size,
            0,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Allows `access` to what `parent` is open on, and to all beneath it.
pub fn allow(ruleset: BorrowedFd<'_>, parent: BorrowedFd<'_>, access: Access) -> Result<()> {
    const PATH_BENEATH: u32 = 1; // LANDLOCK_RULE_PATH_BENEATH
    let rule = PathBeneath {
        allowed: access,
        parent: parent.as_raw_fd(),
    };
    let (ruleset, rule) = (ruleset.as_raw_fd(), &raw const rule);
    // SAFETY: the rule's type says how large it is.
    check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, PATH_BENEATH, rule, 0) })
        .map(drop)
}

/// Puts this thread, and what it becomes and makes, under the ruleset.
pub fn restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
        .map(drop)
}
