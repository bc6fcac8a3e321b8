//! Existing namespaces, given by path.

use crate::base::error::{Context, Error, Result};
use crate::base::sys::network;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Opens the namespace at `path`, which must be of `kind`. Checks the inode before opening it: opening a
/// device or a fifo can have effects.
///
/// # Errors
/// The path is not a namespace of that kind; `what` names it.
pub fn open_namespace(what: &str, path: &Path, kind: CloneFlags) -> Result<File> {
    let refuse = |why: &str| Error::usage(what, why);
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let handle = open(path, flags, Mode::empty()).map_err(|errno| refuse(errno.desc()))?;
    let filesystem = fstatfs(handle.as_fd()).context(|| format!("fstatfs({path:?})"))?;
    if filesystem.filesystem_type() != NSFS_MAGIC {
        return Err(refuse("is not a namespace"));
    }
    let file = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
        .context(|| format!("open({path:?})"))?;
    match network::namespace_type(file.as_fd()).context(|| "ioctl(NS_GET_NSTYPE)")? {
        found if found == kind.bits() => Ok(file),
        _ => Err(refuse("is a namespace of another kind")),
    }
}

/// Returns the host name of a uts namespace.
pub fn host_name_of(namespace: &File) -> Result<String> {
    let path = "/proc/thread-self/ns/uts";
    let home = File::open(path).context(|| format!("open({path:?})"))?;
    setns(namespace, CloneFlags::CLONE_NEWUTS).context(|| "setns(CLONE_NEWUTS)")?;
    let name = nix::unistd::gethostname().context(|| "gethostname()");
    setns(&home, CloneFlags::CLONE_NEWUTS).context(|| "setns(CLONE_NEWUTS)")?;
    Ok(name?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_network(path: &str) -> Result<File> {
        open_namespace(path, Path::new(path), CloneFlags::CLONE_NEWNET)
    }

    #[test]
    fn only_a_network_namespace_is_accepted() {
        open_network("/proc/self/ns/net").unwrap();
        for (wrong, why) in [
            ("/proc/self/ns/mnt", "another kind"),
            ("/proc/self/status", "not a namespace"),
            ("/dev/null", "not a namespace"),
            ("/nowhere", "No such file"),
        ] {
            let error = open_network(wrong).unwrap_err();
            assert!(error.what.contains(wrong), "{error}");
            assert!(error.why.contains(why), "{error}");
        }
    }
}
