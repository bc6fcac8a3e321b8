//! ioctl(2) requests that change files and file systems.

use super::caller::{Caller, Found, ReadResult, Target};
use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, fstatfs};
use std::os::fd::AsFd;

/// Magic number of the file system of tree images (linux/magic.h).
pub const EROFS_SUPER_MAGIC: FsType = FsType(0xe0f5_e1e2);

/// An ioctl(2) request.
#[derive(Debug)]
pub struct Request {
    /// Number of the request.
    pub number: u32,
    /// Name, as in its header.
    pub name: &'static str,
    fails: Fails,
}

/// First check of the kernel, which decides the errno (Linux, fs/ioctl.c).
#[derive(Debug, Clone, Copy)]
enum Fails {
    /// Read-only mount: EROFS.
    Mount,
    /// Capabilities of the caller: EPERM.
    Capabilities,
    /// The other descriptor, then the request's own, which is open for reading only: EBADF.
    Share,
    /// Like `Share`, with the other descriptor in a structure.
    ShareRange,
    /// Support by the file system, then each file's mount.
    Dedupe,
    /// The range, then the descriptor.
    Allocate,
    /// Support by the file system.
    Known,
    /// Support by the kernel: a 64-bit kernel does not know this one, ENOTTY.
    Foreign,
}

const fn request(number: u32, name: &'static str, fails: Fails) -> Request {
    Request {
        number,
        name,
        fails,
    }
}

use Fails::{Allocate, Capabilities, Dedupe, Foreign, Known, Mount, Share, ShareRange};

/// Requests that change something. Source: linux/fs.h, linux/falloc.h, linux/fscrypt.h, linux/fsverity.h
/// and linux/msdos_fs.h.
pub const REQUESTS: &[Request] = &[
    request(0x4008_6602, "FS_IOC_SETFLAGS", Mount),
    request(0x401c_5820, "FS_IOC_FSSETXATTR", Mount),
    request(0x4008_7602, "FS_IOC_SETVERSION", Known),
    request(0x4004_6602, "FS_IOC32_SETFLAGS", Foreign),
    request(0x4004_7602, "FS_IOC32_SETVERSION", Foreign),
    request(0x4100_9432, "FS_IOC_SETFSLABEL", Known),
    request(0x4004_9409, "FICLONE", Share),
    request(0x4020_940d, "FICLONERANGE", ShareRange),
    request(0xc018_9436, "FIDEDUPERANGE", Dedupe),
    request(0xc018_5879, "FITRIM", Known),
    request(0xc004_5877, "FIFREEZE", Capabilities),
    request(0xc004_5878, "FITHAW", Capabilities),
    request(0x4030_5828, "FS_IOC_RESVSP", Allocate),
    request(0x4030_5829, "FS_IOC_UNRESVSP", Allocate),
    request(0x4030_582a, "FS_IOC_RESVSP64", Allocate),
    request(0x4030_582b, "FS_IOC_UNRESVSP64", Allocate),
    request(0x4030_5839, "FS_IOC_ZERO_RANGE", Allocate),
    request(0x4080_6685, "FS_IOC_ENABLE_VERITY", Known),
    request(0x800c_6613, "FS_IOC_SET_ENCRYPTION_POLICY", Known),
    request(0xc050_6617, "FS_IOC_ADD_ENCRYPTION_KEY", Known),
    request(0xc040_6618, "FS_IOC_REMOVE_ENCRYPTION_KEY", Known),
    request(0xc040_6619, "FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS", Known),
    request(0x4004_7211, "FAT_IOCTL_SET_ATTRIBUTES", Known),
];

/// Returns the request with a number, of which the kernel uses the lower half.
pub fn of(number: u64) -> Option<&'static Request> {
    let number = number as u32;
    REQUESTS.iter().find(|request| request.number == number)
}

impl Request {
    /// Returns the errno of the request on an object of a file system. `argument` is the call's third
    /// argument.
    pub fn errno(&self, caller: &Caller, target: &Target, argument: u64) -> ReadResult<Errno> {
        let found = target.place.found;
        Ok(match self.fails {
            Mount => Errno::EROFS,
            Capabilities => Errno::EPERM,
            Foreign => Errno::ENOTTY,
            Known => unknown(target),
            Share => share(caller, target, argument as i32),
            ShareRange => {
                let other = i64::from_ne_bytes(caller.array(argument)?);
                share(caller, target, other as i32)
            }
            Dedupe if found == Found::Directory => Errno::EISDIR,
            Dedupe if found != Found::File => Errno::EINVAL,
            Dedupe if is_on(target, OVERLAYFS_SUPER_MAGIC) => Errno::EROFS,
            Dedupe => Errno::EOPNOTSUPP,
            Allocate if found != Found::File => Errno::ENOTTY,
            Allocate => {
                // struct space_resv: type and whence in one word, start, length.
                let words: [u8; 24] = caller.array(argument)?;
                let length = words.last_chunk().copied().map(i64::from_ne_bytes);
                match length {
                    Some(1..) => Errno::EBADF,
                    _ => Errno::EINVAL,
                }
            }
        })
    }
}

/// Returns the errno of a request that only some file systems support, those of images not among them.
fn unknown(target: &Target) -> Errno {
    let images = [EROFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC];
    if images.iter().any(|kind| is_on(target, *kind)) {
        Errno::ENOTTY
    } else {
        Errno::EROFS
    }
}

fn is_on(target: &Target, kind: FsType) -> bool {
    let status = target.handle.as_ref().map(fstatfs);
    status.is_some_and(|status| status.is_ok_and(|status| status.filesystem_type() == kind))
}

fn share(caller: &Caller, target: &Target, other: i32) -> Errno {
    let device = |target: &Target| {
        let handle = target.handle.as_ref()?;
        fstat(handle.as_fd()).ok().map(|status| status.st_dev)
    };
    match caller.descriptor(other) {
        Err(_) => Errno::EBADF,
        Ok(other) if device(&other) != device(target) => Errno::EXDEV,
        Ok(other) if [other.place.found, target.place.found].contains(&Found::Directory) => {
            Errno::EISDIR
        }
        Ok(_) if target.place.found != Found::File => Errno::EINVAL,
        Ok(_) => Errno::EBADF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_listed_once_and_found_by_its_lower_half() {
        for (index, request) in REQUESTS.iter().enumerate() {
            let number = u64::from(request.number) | 1 << 40;
            assert_eq!(of(number).unwrap().name, request.name);
            let again = REQUESTS[..index]
                .iter()
                .find(|one| one.number == request.number);
            assert!(again.is_none(), "{}", request.name);
        }
        assert!(of(libc::TCGETS).is_none());
    }
}
