//! Landlock: access control that a process applies to itself (landlock(7), linux/landlock.h).

use super::check;
use nix::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null;

/// Kinds of access to files: `LANDLOCK_ACCESS_FS_*`.
pub type Access = u64;

/// Access that a ruleset denies unless a rule allows it (struct landlock_ruleset_attr).
#[repr(C)]
pub struct Handled {
    /// Kinds of access to files.
    pub files: Access,
    /// Kinds of access to the network (interface version 4 and later).
    pub network: u64,
    /// Kinds of access outside the domain: `LANDLOCK_SCOPE_*` (interface version 6 and later).
    pub scopes: u64,
}

/// struct landlock_path_beneath_attr
#[repr(C, packed)]
struct PathBeneath {
    allowed: Access,
    parent: RawFd,
}

/// Returns the version of the kernel's interface; an error if there is none.
pub fn version() -> Result<u32> {
    const VERSION: u32 = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let none = null::<Handled>();
    // SAFETY: the version query takes neither attributes nor a size.
    let version =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) })?;
    Ok(version as u32)
}

/// Creates a ruleset without rules. The kernel need not know fields of `handled` that are 0.
pub fn create(handled: &Handled) -> Result<OwnedFd> {
    let size = size_of::<Handled>();
    // SAFETY: the structure has the length `size`; an older kernel accepts it if its unknown fields are 0.
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

/// Allows `access` to the file or directory `parent` and to everything below it.
pub fn allow(ruleset: BorrowedFd<'_>, parent: BorrowedFd<'_>, access: Access) -> Result<()> {
    const PATH_BENEATH: u32 = 1; // LANDLOCK_RULE_PATH_BENEATH
    let rule = PathBeneath {
        allowed: access,
        parent: parent.as_raw_fd(),
    };
    let (ruleset, rule) = (ruleset.as_raw_fd(), &raw const rule);
    // SAFETY: the rule's type determines its size.
    check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, PATH_BENEATH, rule, 0) })
        .map(drop)
}

/// Applies the ruleset to this thread, its future programs and its children.
pub fn restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
        .map(drop)
}
