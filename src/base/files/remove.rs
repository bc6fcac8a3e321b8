//! Removal of directories, which never crosses into a mount.

use crate::base::error::{Context, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const READ: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Removes a directory with its content, if it exists.
///
/// # Errors
/// A file system is mounted on it or inside it. Mounted content is never removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    match try_remove(path) {
        Err(Errno::ENOENT) => Ok(()),
        removed => removed.context(|| format!("openat2, rmdir({path:?})")),
    }
}

fn try_remove(path: &Path) -> nix::Result<()> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = open(parent.unwrap_or(Path::new(".")), READ, Mode::empty())?;
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    remove(parent.as_fd(), &name)
}

fn remove(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let how = OpenHow::new()
        .flags(READ | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV);
    let directory = match openat2(parent, name, how) {
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            return unlinkat(parent, name, UnlinkatFlags::NoRemoveDir);
        }
        directory => directory?,
    };
    let mut list = Dir::openat(&directory, c".", READ, Mode::empty())?;
    let names: nix::Result<Vec<CString>> = list
        .iter()
        .map(|entry| Ok(entry?.file_name().to_owned()))
        .collect();
    for name in names? {
        if [c".", c".."].contains(&&*name) {
            continue;
        }
        match remove(directory.as_fd(), &name) {
            // Another process removes the same directory.
            Err(Errno::ENOENT) => {}
            removed => removed?,
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, unshare};
    use std::fs;

    #[test]
    fn a_directory_is_removed_with_its_content_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        for file in [top.join("a/file"), other.join("file")] {
            fs::write(file, "").unwrap();
        }
        std::os::unix::fs::symlink(&other, top.join("a/link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists() && other.join("file").exists());
        remove_tree(&top).unwrap();
        remove_tree(&dir.path().join("no/such")).unwrap();
    }

    #[test]
    fn mounted_content_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        for path in [&top, &top.join("below"), &other] {
            fs::create_dir(path).unwrap();
        }
        fs::write(other.join("file"), "").unwrap();
        // Mounts are visible to this thread only.
        let thread = std::thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
                return println!("skipped: {errno}");
            }
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).unwrap();
            for place in [top.join("below"), top.clone()] {
                mount(Some(&other), &place, none, MsFlags::MS_BIND, none).unwrap();
                let error = remove_tree(&top).unwrap_err();
                assert!(error.why.contains("ross-device"), "{error}");
                umount2(&place, MntFlags::MNT_DETACH).unwrap();
            }
            assert!(other.join("file").exists());
            remove_tree(&top).unwrap();
        });
        thread.join().unwrap();
    }
}
