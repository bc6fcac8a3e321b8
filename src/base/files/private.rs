//! imrun's own files and directories, which only their owner can access.

use super::write::try_create;
use super::{DIRECTORY, PRIVATE};
use crate::base::error::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode bits of the group and of others.
const OTHERS: u32 = 0o077;

/// Makes a directory with its missing parents, mode 0700. An existing one keeps its mode.
pub fn make_directory(path: &Path) -> Result<()> {
    try_make_directory(path).context(|| format!("mkdir({path:?})"))
}

/// Makes a directory with mode 0700. Returns false if the path exists.
pub fn create_directory(path: &Path) -> Result<bool> {
    match try_create_directory(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        created => created
            .context(|| format!("mkdir({path:?})"))
            .map(|()| true),
    }
}

fn try_create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY).create(path)?;
    // The umask may have removed permissions of the owner.
    Handle::open(path, OFlag::O_NOFOLLOW)?.set_mode(DIRECTORY)
}

fn try_make_directory(path: &Path) -> io::Result<()> {
    match try_create_directory(path) {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                try_make_directory(parent)?;
                try_make_directory(path)
            }
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Opens a file for reading and appending. Creates it with mode 0600 if it does not exist.
pub fn open_private(path: &Path) -> Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .append(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
    };
    let opened = match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => match try_create(path, PRIVATE) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => open(),
        },
        opened => opened,
    };
    opened.context(|| format!("open({path:?}, O_CREAT)"))
}

/// Removes the permissions of others from a directory of this user and its content, and logs it in one line.
/// `depth` returns how many levels of an entry belong to imrun; `None` if the entry does not. A directory with
/// foreign entries keeps its mode: only imrun's entries are closed.
///
/// # Errors
/// The mode cannot be changed, for example on a read-only medium.
pub fn close_to_others(directory: &Path, depth: fn(&str) -> Option<u32>) -> Result<()> {
    let what = || format!("chmod({directory:?}, {DIRECTORY:o})");
    let top = match Handle::open(directory, OFlag::empty()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        top => top.context(what)?,
    };
    if !top.is_open_to_others() || !top.metadata.is_dir() {
        return Ok(());
    }
    let entries = top.entries().context(what)?;
    let depths = entries.iter().map(|(name, _)| depth(name));
    let mut closed = false;
    // An empty directory may belong to another program.
    if !entries.is_empty() && depths.clone().all(|depth| depth.is_some()) {
        closed = top.close().context(what)?;
    }
    for ((_, path), depth) in entries.iter().zip(depths) {
        if let Some(depth) = depth {
            closed |= close_tree(path, depth).context(what)?;
        }
    }
    if closed {
        let mode = top.metadata.mode() & 0o777;
        log::warn!(
            "{directory:?}: others could access its content (mode {mode:04o}): permissions of others removed"
        );
    }
    Ok(())
}

/// Removes the permissions of others down to `depth`. Returns true if anything changed.
fn close_tree(path: &Path, depth: u32) -> io::Result<bool> {
    let handle = match Handle::open(path, OFlag::O_NOFOLLOW) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        handle => handle?,
    };
    let mut closed = handle.close()?;
    if depth > 0 && handle.metadata.is_dir() {
        for (_, path) in handle.entries()? {
            closed |= close_tree(&path, depth - 1)?;
        }
    }
    Ok(closed)
}

/// Reference to an inode that stays valid when its name changes.
struct Handle {
    file: File,
    metadata: Metadata,
}

impl Handle {
    fn open(path: &Path, flags: OFlag) -> io::Result<Handle> {
        let flags = flags | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let file = File::from(open(path, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        Ok(Handle { file, metadata })
    }

    /// Returns a path to the inode that does not contain its name.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    fn is_open_to_others(&self) -> bool {
        self.metadata.uid() == geteuid().as_raw() && self.metadata.mode() & OTHERS != 0
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        std::fs::set_permissions(self.path(), Permissions::from_mode(mode))
    }

    /// Removes the permissions of others. Returns false if there were none.
    fn close(&self) -> io::Result<bool> {
        let mode = match &self.metadata {
            _ if !self.is_open_to_others() => return Ok(false),
            directory if directory.is_dir() => DIRECTORY,
            file if file.is_file() => PRIVATE,
            _ => return Ok(false),
        };
        self.set_mode(mode).map(|()| true)
    }

    /// Returns names and paths of a directory's entries.
    fn entries(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let entries = std::fs::read_dir(self.path())?;
        let named = entries.map(|entry| {
            let entry = entry?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ))
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn depth(name: &str) -> Option<u32> {
        match name {
            "blobs" => Some(1),
            "roots" | "log" => Some(0),
            _ => None,
        }
    }

    /// Returns a directory as an older imrun made it, whose modes followed the umask.
    fn open_to_all() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("store");
        for path in ["blobs/deep", "roots/image"] {
            fs::create_dir_all(top.join(path)).unwrap();
        }
        for path in ["blobs/one", "blobs/deep/two", "log", "roots/image/file"] {
            fs::write(top.join(path), "").unwrap();
            set(&top.join(path), 0o644);
        }
        for path in ["", "blobs", "blobs/deep", "roots", "roots/image"] {
            set(&top.join(path), 0o755);
        }
        (dir, top)
    }

    #[test]
    fn a_directory_of_imrun_is_closed_with_its_content_down_to_the_given_depth() {
        let (_dir, top) = open_to_all();
        close_to_others(&top, depth).unwrap();
        for (path, expected) in [
            ("", 0o700),
            ("blobs", 0o700),
            ("blobs/one", 0o600),
            ("blobs/deep", 0o700),
            ("blobs/deep/two", 0o644),
            ("roots", 0o700),
            // The image defines the modes of these.
            ("roots/image", 0o755),
            ("roots/image/file", 0o644),
            ("log", 0o600),
        ] {
            assert_eq!(mode(&top.join(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_shared_directory_stays_open_except_imruns_entries() {
        let (_dir, top) = open_to_all();
        fs::write(top.join("passwd"), "").unwrap();
        set(&top.join("passwd"), 0o644);
        close_to_others(&top, depth).unwrap();
        for (path, expected) in [
            ("", 0o755),
            ("passwd", 0o644),
            ("blobs", 0o700),
            ("log", 0o600),
        ] {
            assert_eq!(mode(&top.join(path)), expected, "{path}");
        }
    }

    #[test]
    fn closed_and_missing_directories_are_left_alone() {
        let (dir, top) = open_to_all();
        set(&top, 0o700);
        close_to_others(&top, depth).unwrap();
        assert_eq!(mode(&top.join("log")), 0o644, "nobody else reaches it");
        close_to_others(&dir.path().join("missing"), depth).unwrap();
    }

    #[test]
    fn symbolic_links_are_not_followed_when_closing() {
        let (dir, top) = open_to_all();
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        set(&other, 0o755);
        fs::remove_dir_all(top.join("blobs")).unwrap();
        std::os::unix::fs::symlink(&other, top.join("blobs")).unwrap();
        close_to_others(&top, depth).unwrap();
        assert_eq!(mode(&other), 0o755);
        assert_eq!(mode(&top), 0o700);
    }

    #[test]
    fn all_missing_directories_are_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        make_directory(&path).unwrap();
        for part in ["a", "a/b", "a/b/c"] {
            assert_eq!(mode(&dir.path().join(part)), 0o700, "{part}");
        }
        set(&path, 0o755);
        make_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o755, "it was there");
        fs::write(path.join("file"), "").unwrap();
        assert!(make_directory(&path.join("file")).is_err());
        assert!(make_directory(&path.join("file/below")).is_err());
    }

    #[test]
    fn a_private_file_is_created_once_and_appended_to() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for line in ["one\n", "two\n"] {
            open_private(&path)
                .unwrap()
                .write_all(line.as_bytes())
                .unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(mode(&path), PRIVATE);
        std::os::unix::fs::symlink("log", dir.path().join("link")).unwrap();
        assert!(open_private(&dir.path().join("link")).is_err());
    }
}
