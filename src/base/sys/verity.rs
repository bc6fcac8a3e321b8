//! fs-verity: the kernel checks every page of a file that it reads (Linux,
//! Documentation/filesystems/fsverity.rst).

use nix::Result;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// FS_VERITY_HASH_ALG_SHA256.
const SHA256: u16 = 1;

/// `struct fsverity_digest` with room for a SHA-256.
#[repr(C)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; 32],
}

/// Enables fs-verity for a file, with SHA-256 over blocks of 4,096 bytes and without a salt. No process may have the
/// file open for writing. It cannot be disabled, and the file can never be written again.
///
/// # Errors
/// ENOTTY, EOPNOTSUPP: the file system does not support it. EEXIST: it is enabled already. ETXTBSY: a process has the
/// file open for writing.
pub fn enable(file: BorrowedFd<'_>) -> Result<()> {
    const FS_IOC_ENABLE_VERITY: libc::Ioctl = 0x4080_6685; // _IOW('f', 133, [u8; 128])
    // struct fsverity_enable_arg: version, hash_algorithm, block_size, then zeros.
    let mut argument = [0u32; 32];
    argument[..3].copy_from_slice(&[1, SHA256.into(), 4096]);
    // SAFETY: the structure has the size in the request's number and lives for the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY, argument.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Returns the fs-verity digest of a file; `None` if it is not a SHA-256.
///
/// # Errors
/// ENODATA: fs-verity is not enabled for this file. ENOTTY, EOPNOTSUPP: the file system does not support it.
pub fn measure(file: BorrowedFd<'_>) -> Result<Option<[u8; 32]>> {
    const FS_IOC_MEASURE_VERITY: libc::Ioctl = 0xC004_6686u32 as libc::Ioctl; // _IOWR('f', 134, [u8; 4])
    let mut measured = Measured {
        algorithm: 0,
        size: 32,
        digest: [0; 32],
    };
    // SAFETY: the kernel writes at most `size` bytes of the digest.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY, &raw mut measured) };
    match Errno::result(result) {
        Ok(_) if (measured.algorithm, measured.size) == (SHA256, 32) => Ok(Some(measured.digest)),
        // A longer digest, of another algorithm, does not fit.
        Ok(_) | Err(Errno::EOVERFLOW) => Ok(None),
        Err(errno) => Err(errno),
    }
}
