//! Opening files beneath a directory, whoever changes the host meanwhile.

use nix::errno::Errno;
use nix::fcntl::OpenHow;
use nix::{NixPath, Result};
use std::os::fd::{AsFd, OwnedFd};

/// How often the kernel is asked; each time anew it takes a mount or a rename at the very moment.
const ATTEMPTS: u32 = 128;

/// openat2(2) for paths with `..` in them or in a link that they lead through.
///
/// With `RESOLVE_BENEATH` and `RESOLVE_IN_ROOT` the kernel answers EAGAIN at a `..` while anything is
/// mounted or renamed anywhere on the host, for then it cannot tell whether that leads out.
pub fn openat2<P: NixPath + ?Sized>(
    directory: impl AsFd,
    path: &P,
    how: OpenHow,
) -> Result<OwnedFd> {
    for _ in 1..ATTEMPTS {
        match nix::fcntl::openat2(directory.as_fd(), path, how) {
            Err(Errno::EAGAIN) => {}
            decided => return decided,
        }
    }
    nix::fcntl::openat2(directory.as_fd(), path, how)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{OFlag, ResolveFlag};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_path_through_the_parent_is_opened_while_others_rename_files() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(place("a/b")).unwrap();
        std::fs::write(place("a/file"), "").unwrap();
        std::fs::write(place("x"), "").unwrap();
        let root = std::fs::File::open(directory.path()).unwrap();
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::fs::rename(place("x"), place("y")).unwrap();
                    std::fs::rename(place("y"), place("x")).unwrap();
                }
            });
            // The longer the way, the more often somebody renames something meanwhile.
            let path = format!("a/{}file", "b/../".repeat(20));
            let opened = (0..20_000).try_for_each(|_| openat2(&root, &*path, how).map(drop));
            is_over.store(true, Ordering::Relaxed);
            opened.unwrap();
        });
    }
}
