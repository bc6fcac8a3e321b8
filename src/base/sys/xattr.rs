//! Extended attributes by path, without following a link at its end (xattr(7)).

use super::check;
use nix::Result;
use nix::errno::Errno;
use std::ffi::{CStr, c_void};

/// Maximum length of a value and of the list of names (linux/limits.h: XATTR_SIZE_MAX, XATTR_LIST_MAX).
const LIMIT: usize = 65_536;

/// Returns the names, in the kernel's order; an empty list if the file system does not support attributes.
pub fn list(path: &CStr) -> Result<Vec<Vec<u8>>> {
    let mut names = vec![0u8; 1024];
    let length = loop {
        let pointer = names.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most as many bytes as there are.
        match check(unsafe { libc::llistxattr(path.as_ptr(), pointer, names.len()) } as _) {
            Err(Errno::ERANGE) if names.len() < LIMIT => names.resize(LIMIT, 0),
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            length => break length?,
        }
    };
    let names = names[..length as usize].split(|byte| *byte == 0);
    Ok(names
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// Returns the value of an attribute.
pub fn get(path: &CStr, name: &CStr) -> Result<Vec<u8>> {
    let mut value = vec![0u8; LIMIT];
    let pointer: *mut c_void = value.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most as many bytes as there are.
    let length =
        check(unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), pointer, LIMIT) } as _)?;
    value.truncate(length as usize);
    Ok(value)
}

/// Sets an attribute.
pub fn set(path: &CStr, name: &CStr, value: &[u8]) -> Result<()> {
    let (pointer, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: the kernel reads as many bytes as there are.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), pointer, size, 0) };
    check(result.into()).map(drop)
}
