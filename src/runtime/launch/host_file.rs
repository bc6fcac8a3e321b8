//! Copies of the host's name files (/etc/hosts and the like), bound read-only over placeholders of the
//! image.
//!
//! The host's own file is never mounted: an app could lock it, and would see later edits, which the
//! launch record does not cover.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result, reason_of};
use crate::base::files;
use crate::base::sys::mount;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Maximum size of a file, in bytes; larger than any resolver reads.
const MAX_SIZE: u64 = 1 << 20;

/// Content of a host file, or of one that imrun makes instead.
pub(super) struct HostFile {
    bytes: Vec<u8>,
    /// Digest of the content.
    pub digest: Digest,
}

/// A detached mount and its target.
pub(super) struct Bind {
    pub mount: OwnedFd,
    /// Target path, relative to the root.
    pub target: &'static CStr,
}

impl HostFile {
    /// Reads a file of the host, following symbolic links.
    ///
    /// # Errors
    /// The file is not a regular file, or its length is not its size. `hint` is the remedy to show.
    pub fn open(path: &Path, hint: &str) -> Result<HostFile> {
        let refuse = |why: &dyn std::fmt::Display| {
            Error::unsupported(format_args!("{path:?}"), why).hint(hint)
        };
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let handle = open(path, flags, Mode::empty()).map_err(|errno| refuse(&errno.desc()))?;
        // Only a checked inode is opened: opening a device or a fifo can have effects.
        let filesystem = fstatfs(&handle).context(|| format!("fstatfs({path:?})"))?;
        let handle = File::from(handle);
        let metadata = handle.metadata().context(|| format!("fstat({path:?})"))?;
        if !metadata.is_file() {
            return Err(refuse(&"is not a regular file"));
        }
        let size = metadata.len();
        if size > MAX_SIZE {
            return Err(refuse(&format_args!("is larger than {MAX_SIZE} bytes")));
        }
        // The kernel generates its content on read, which may never end.
        if filesystem.filesystem_type() == PROC_SUPER_MAGIC {
            return Err(refuse(&"has no stored content"));
        }
        let mut bytes = Vec::new();
        File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
            .and_then(|file| file.take(size + 1).read_to_end(&mut bytes))
            .map_err(|error| refuse(&reason_of(&error)))?;
        if bytes.len() as u64 != size {
            return Err(refuse(&"its length differs from its size"));
        }
        Ok(HostFile::made(bytes))
    }

    /// Makes a file from `bytes`.
    pub fn made(bytes: Vec<u8>) -> HostFile {
        HostFile {
            digest: Digest::sha256(&bytes),
            bytes,
        }
    }

    /// Makes a read-only mount of a copy, for `target`. The copy is made in the directory `stage`, which
    /// belongs to imrun alone and is removed with it.
    pub fn bind(&self, target: &'static CStr, stage: &Path) -> Result<Bind> {
        /// Readable by every user of the container.
        const MODE: u32 = 0o444;
        let name = Path::new(OsStr::from_bytes(target.to_bytes()));
        let path = stage.join(name.file_name().expect("a target is a file"));
        let mut file = files::create_new(&path, MODE)?;
        file.write_all(&self.bytes)
            .context(|| format!("write({path:?})"))?;
        let mount = mount::open_tree_clone_of(file.as_fd())
            .context(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))?;
        let attributes = mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC;
        mount::set_attributes(mount.as_fd(), attributes)
            .context(|| format!("mount_setattr({path:?}, MOUNT_ATTR_RDONLY)"))?;
        Ok(Bind { mount, target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Reason;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_opened_through_its_links_and_hashed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stub"), "nameserver 192.0.2.1\n").unwrap();
        symlink("stub", dir.path().join("link")).unwrap();
        let file = HostFile::open(&dir.path().join("link"), "hint").unwrap();
        assert_eq!(file.digest, Digest::sha256(b"nameserver 192.0.2.1\n"));
    }

    #[test]
    fn anything_but_a_regular_file_is_refused_by_name_and_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("nowhere", path("dangling")).unwrap();
        symlink("/dev/zero", path("device")).unwrap();
        // Opening it for reading would wait for a writer.
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRUSR).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        for name in ["dangling", "device", "fifo", "directory", "missing"] {
            let error = HostFile::open(&path(name), "--dns").err().unwrap();
            assert_eq!(error.reason, Reason::Unsupported, "{error}");
            assert!(error.what.contains(name), "{error}");
            assert_eq!(error.hint.as_deref(), Some("--dns"));
        }
    }

    #[test]
    fn a_file_that_no_resolver_would_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let file = File::create(&path).unwrap();
        file.set_len(MAX_SIZE).unwrap();
        HostFile::open(&path, "hint").unwrap();
        file.set_len(MAX_SIZE + 1).unwrap();
        assert!(HostFile::open(&path, "hint").is_err());
    }

    #[test]
    fn a_file_that_the_kernel_generates_is_refused_and_never_read() {
        // Reading the first would wait for messages, and take them from other readers.
        for path in [
            "/proc/kmsg",
            "/proc/self/mounts",
            "/sys/kernel/uevent_seqnum",
        ] {
            let error = HostFile::open(Path::new(path), "hint").err().unwrap();
            assert!(error.what.contains(path), "{error}");
        }
    }
}
