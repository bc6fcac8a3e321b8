//! A file with the host's names, bound read-only over a placeholder of the image.

use crate::digest::Digest;
use crate::error::{Context, Error, Result, reason_of};
use crate::sys::mount;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::{CStr, OsStr};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// More than any resolver reads.
const MAX_SIZE: u64 = 1 << 20;

/// A file of the host, or one that is made in its place.
pub(super) struct HostFile {
    origin: Origin,
    /// Of its bytes, when it was opened.
    pub digest: Digest,
}

enum Origin {
    /// Open as O_PATH: what was checked is what is bound, whatever happens to its name.
    Host(OwnedFd, PathBuf),
    /// Its bytes.
    Made(String),
}

/// A detached mount and where it goes.
pub(super) struct Bind {
    pub mount: OwnedFd,
    /// Relative to the root.
    pub target: &'static CStr,
}

impl HostFile {
    /// Opens a file of the host, through the links that lead to it, and hashes it.
    ///
    /// # Errors
    /// Anything but a regular file; `hint` says what can be done instead.
    pub fn open(path: &Path, hint: &str) -> Result<HostFile> {
        let refuse = |why: &dyn std::fmt::Display| {
            Error::unsupported(format_args!("{path:?}"), why).hint(hint)
        };
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let handle = open(path, flags, Mode::empty()).map_err(|errno| refuse(&errno.desc()))?;
        // Only an inode that was looked at is opened: to open a device or a fifo can do things.
        let metadata = File::from(handle.try_clone().context(|| "dup()")?)
            .metadata()
            .context(|| format!("fstat({path:?})"))?;
        if !metadata.is_file() {
            return Err(refuse(&"is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes))
            .map_err(|error| refuse(&reason_of(&error)))?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(refuse(&format_args!("is larger than {MAX_SIZE} bytes")));
        }
        Ok(HostFile {
            digest: Digest::sha256(&bytes),
            origin: Origin::Host(handle, path.to_owned()),
        })
    }

    /// A file with that text.
    pub fn made(text: String) -> HostFile {
        HostFile {
            digest: Digest::sha256(text.as_bytes()),
            origin: Origin::Made(text),
        }
    }

    /// A read-only mount of it, for `target`; a file that is made goes into the directory `stage`.
    pub fn bind(&self, target: &'static CStr, stage: &Path) -> Result<Bind> {
        let written;
        let (handle, path) = match &self.origin {
            Origin::Host(handle, path) => (handle, path.clone()),
            Origin::Made(text) => {
                let name = Path::new(OsStr::from_bytes(target.to_bytes()));
                let path = stage.join(name.file_name().expect("a target is a file"));
                written = write(&path, text)?;
                (&written, path)
            }
        };
        let mount = mount::open_tree_clone_of(handle.as_fd())
            .context(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))?;
        let attributes = mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC;
        mount::set_attributes(mount.as_fd(), attributes)
            .context(|| format!("mount_setattr({path:?}, MOUNT_ATTR_RDONLY)"))?;
        Ok(Bind { mount, target })
    }
}

/// Makes a file that everybody may read; it is there for nobody but this container.
fn write(path: &Path, text: &str) -> Result<OwnedFd> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .context(|| format!("open({path:?}, O_CREAT|O_EXCL)"))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o444)))
        .context(|| format!("write({path:?})"))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
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
    fn what_is_no_regular_file_is_refused_by_name_and_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("nowhere", path("dangling")).unwrap();
        symlink("/dev/zero", path("device")).unwrap();
        // To open it for reading would wait for a writer.
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
}
