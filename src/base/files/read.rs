//! Bounded reads of files whose names come from outside.

use crate::base::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a file that the caller named. Reading a pipe blocks, so signals must not be blocked: they end the wait.
///
/// # Errors
/// The file is a directory, or larger than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).context(|| format!("open({path:?})"))?;
    bounded(path, file, limit)
}

/// Reads a file as [`read`] does; `None` if it does not exist.
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match File::open(path) {
        Ok(file) => bounded(path, file, limit).map(Some),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).context(|| format!("open({path:?})")),
    }
}

/// Reads a regular file. It never blocks, so signals may be blocked.
///
/// # Errors
/// The file is not regular, or larger than `limit` bytes.
pub fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .context(|| format!("open({path:?})"))?;
    let metadata = file.metadata().context(|| format!("fstat({path:?})"))?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(Error::usage(
            format_args!("{path:?}"),
            "is not a regular file",
        ));
    }
    bounded(path, file, limit)
}

fn bounded(path: &Path, file: File, limit: u64) -> Result<Vec<u8>> {
    let wrong = |why: &dyn std::fmt::Display| Error::usage(format_args!("{path:?}"), why);
    let metadata = file.metadata().context(|| format!("fstat({path:?})"))?;
    if metadata.is_dir() {
        return Err(wrong(&"is a directory"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("read({path:?})"))?;
    if bytes.len() as u64 > limit {
        return Err(wrong(&format_args!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Opens a file by `open`, which gets additional flags, so that reading does not change its access time. Only the
/// owner may do so: a file of another user is opened without.
pub fn quietly<T>(open: impl Fn(OFlag) -> nix::Result<T>) -> nix::Result<T> {
    match open(OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open(OFlag::empty()),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    #[test]
    fn a_file_above_the_limit_is_refused_by_name_without_reading_it_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "12345678").unwrap();
        assert_eq!(read(&path, 8).unwrap(), b"12345678");
        for (path, why) in [
            (path.as_path(), "is larger than 7 bytes"),
            (Path::new("/dev/zero"), "is larger than 7 bytes"),
            (dir.path(), "is a directory"),
        ] {
            let error = read(path, 7).unwrap_err();
            assert_eq!(error.to_string(), format!("{path:?}: {why}"));
        }
        assert_eq!(read(Path::new("/dev/null"), 7).unwrap(), b"");
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let fifo = path.clone();
        let writer = std::thread::spawn(move || std::fs::write(fifo, "A=1\n"));
        assert_eq!(read(&path, 8).unwrap(), b"A=1\n");
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn read_regular_never_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        std::fs::write(path("file"), "key").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        assert_eq!(read_regular(&path("link"), 3).unwrap(), b"key");
        for (path, why) in [
            (path("fifo"), "is not a regular file"),
            ("/dev/zero".into(), "is not a regular file"),
            (dir.path().to_owned(), "is a directory"),
            (path("file"), "is larger than 2 bytes"),
        ] {
            let error = read_regular(&path, 2).unwrap_err();
            assert!(error.to_string().ends_with(why), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_none_and_an_unreadable_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read_if_there(&path, 8).unwrap(), None);
        assert!(read_if_there(dir.path(), 8).is_err());
        std::fs::write(&path, "x").unwrap();
        assert_eq!(read_if_there(&path.join("below"), 8).unwrap(), None);
        assert_eq!(read_if_there(&path, 8).unwrap().unwrap(), b"x");
    }

    #[test]
    fn reading_quietly_keeps_the_access_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "bytes").unwrap();
        // Older than the last change: a read would update it even under relatime.
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let times = std::fs::FileTimes::new().set_accessed(long_ago);
        file.as_file().set_times(times).unwrap();
        let opened =
            quietly(|flags| nix::fcntl::open(file.path(), OFlag::O_RDONLY | flags, Mode::empty()));
        let mut bytes = Vec::new();
        let mut opened = File::from(opened.unwrap());
        opened.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"bytes");
        assert_eq!(opened.metadata().unwrap().atime(), 1);
    }
}
