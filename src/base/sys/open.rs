//! Opening of files below a directory while other processes change the host.

use nix::errno::Errno;
use nix::fcntl::OpenHow;
use nix::{NixPath, Result};
use std::os::fd::{AsFd, OwnedFd};

/// Number of attempts. Each fails only if there is a mount or a rename at the same moment.
const ATTEMPTS: u32 = 128;

/// Makes openat2(2), and retries on EAGAIN.
///
/// With `RESOLVE_BENEATH` and `RESOLVE_IN_ROOT` the kernel returns EAGAIN at a `..`, in the path or in a link, during
/// a mount or a rename anywhere on the host, because it cannot determine whether the path leads out.
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
            // The longer the path, the more often a rename happens meanwhile.
            let path = format!("a/{}file", "b/../".repeat(20));
            let opened = (0..20_000).try_for_each(|_| openat2(&root, &*path, how).map(drop));
            is_over.store(true, Ordering::Relaxed);
            opened.unwrap();
        });
    }
}
