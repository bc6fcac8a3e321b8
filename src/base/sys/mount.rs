//! The file-descriptor based mount interface (Linux 5.2 and later; fsopen(2), move_mount(2), …).

use super::check;
use nix::Result;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null;

/// Attributes of a mount: `MOUNT_ATTR_*` of mount_setattr(2).
pub type Attributes = u64;
/// The mount is read-only.
pub const RDONLY: Attributes = libc::MOUNT_ATTR_RDONLY;
/// Set-user-ID bits and file capabilities have no effect.
pub const NOSUID: Attributes = libc::MOUNT_ATTR_NOSUID;
/// Device nodes cannot be opened.
pub const NODEV: Attributes = libc::MOUNT_ATTR_NODEV;
/// Programs cannot be executed.
pub const NOEXEC: Attributes = libc::MOUNT_ATTR_NOEXEC;

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the caller.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Opens a file system context.
pub fn fsopen(fstype: &CStr) -> Result<OwnedFd> {
    // SAFETY: the pointer is a valid C string for the length of the call.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), 1) };
    check(fd).map(owned)
}

fn fsconfig(
    context: BorrowedFd<'_>,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> Result<()> {
    let key = key.map_or(null(), CStr::as_ptr);
    let value = value.map_or(null(), CStr::as_ptr);
    let context = context.as_raw_fd();
    // SAFETY: the pointers are null or valid C strings for the length of the call.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0) };
    check(result).map(drop)
}

/// Sets a parameter of a file system context to a string of at most 255 bytes.
pub fn fsconfig_string(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    fsconfig(context, libc::FSCONFIG_SET_STRING, Some(key), Some(value))
}

/// Sets a flag of a file system context.
pub fn fsconfig_flag(context: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    fsconfig(context, libc::FSCONFIG_SET_FLAG, Some(key), None)
}

/// Creates a new, unshared superblock from the context.
pub fn fsconfig_create(context: BorrowedFd<'_>) -> Result<()> {
    fsconfig(context, libc::FSCONFIG_CMD_CREATE, None, None)
}

/// Returns a detached mount of the context's superblock.
pub fn fsmount(context: BorrowedFd<'_>, attributes: Attributes) -> Result<OwnedFd> {
    let flags = libc::FSMOUNT_CLOEXEC;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), flags, attributes) };
    check(fd).map(owned)
}

/// Returns a detached copy of the mount at `file`.
pub fn open_tree_clone_of(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    open_tree(file, libc::OPEN_TREE_CLONE)
}

/// Returns a detached copy of the mount at `file`, with all mounts below it.
pub fn open_tree_clone_all(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    open_tree(
        file,
        libc::OPEN_TREE_CLONE | libc::AT_RECURSIVE as libc::c_uint,
    )
}

fn open_tree(file: BorrowedFd<'_>, flags: libc::c_uint) -> Result<OwnedFd> {
    let flags = flags | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the path is a valid C string for the length of the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags) };
    check(fd).map(owned)
}

/// Attaches a detached mount at `path`, relative to `directory` (AT_FDCWD with an absolute path).
pub fn move_mount(mount: BorrowedFd<'_>, directory: RawFd, path: &CStr) -> Result<()> {
    move_mount_with(mount, directory, path, libc::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches a detached mount at the open file `target`.
pub fn move_mount_onto(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount_with(mount, target.as_raw_fd(), c"", flags)
}

fn move_mount_with(mount: BorrowedFd<'_>, to: RawFd, path: &CStr, flags: u32) -> Result<()> {
    let from = mount.as_raw_fd();
    // SAFETY: both paths are valid C strings for the length of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from,
            c"".as_ptr(),
            to,
            path.as_ptr(),
            flags,
        )
    };
    check(result).map(drop)
}

fn mount_setattr(mount: BorrowedFd<'_>, attributes: &libc::mount_attr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH;
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is a valid C string, and the structure has the length `size`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes,
            size,
        )
    };
    check(result).map(drop)
}

/// Adds attributes to a mount.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes) -> Result<()> {
    let change = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    mount_setattr(mount, &change)
}

/// Maps the owners of a detached mount through a user namespace. Possible once per mount.
pub fn idmap(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    mount_setattr(mount, &change)
}
