//! Writes of files for callers, which never follow a symbolic link.

use super::PRIVATE;
use crate::base::error::{Context, Error, Result};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Replaces a file atomically: readers see the old or the new content. A symbolic link is replaced, not followed.
///
/// # Errors
/// The existing file is not regular, for example a device.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(Error::usage(
            format_args!("{path:?}"),
            "is not a regular file, and would be replaced by one",
        ));
    }
    let (beside, mut file) = create_beside(path, mode)?;
    let written = file
        .write_all(bytes)
        .context(|| format!("write({beside:?})"))
        .and_then(|()| {
            std::fs::rename(&beside, path).context(|| format!("rename({beside:?}, {path:?})"))
        });
    if written.is_err() {
        // The first error is the one to report.
        return std::fs::remove_file(&beside)
            .context(|| format!("unlink({beside:?})"))
            .and(written);
    }
    written
}

/// Creates a file with a unique name in the directory of `path`.
fn create_beside(path: &Path, mode: u32) -> Result<(PathBuf, File)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let beside = path.with_file_name(format!(".imrun-{}-{number}", std::process::id()));
        match try_create(&beside, mode) {
            // The name is taken: by a killed process of the same id, or by another program.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => {
                let file = created.context(|| call(&beside))?;
                return Ok((beside, file));
            }
        }
    }
}

/// Creates a file that must not exist yet.
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    try_create(path, mode).context(|| call(path))
}

/// Returns the calls of [`try_create`] for errors.
fn call(path: &Path) -> String {
    format!("open, fchmod({path:?}, O_CREAT|O_EXCL)")
}

/// Creates a file. O_EXCL never follows a symbolic link.
pub(super) fn try_create(path: &Path, mode: u32) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    if let Err(error) = file.set_permissions(Permissions::from_mode(mode)) {
        // The first error is the one to report.
        return std::fs::remove_file(path).and(Err(error));
    }
    Ok(file)
}

/// Opens a file for appending. Creates it with mode 0600 if it does not exist. A pipe without a reader does not
/// block.
///
/// # Errors
/// The file is a symbolic link, or neither regular nor a pipe.
pub fn append(path: &Path) -> Result<File> {
    match try_create(path, PRIVATE) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).context(|| call(path)),
        // A new file is opened again, for O_APPEND.
        Ok(_) => {}
    }
    let wrong = |why| Error::usage(format_args!("{path:?}"), why);
    let opened = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(wrong(
                "is a symbolic link, and nothing is written through one",
            ));
        }
        opened => opened.context(|| format!("open({path:?}, O_APPEND|O_NOFOLLOW)"))?,
    };
    let kind = file.metadata().context(|| format!("fstat({path:?})"))?;
    if kind.is_file() || kind.file_type().is_fifo() {
        Ok(file)
    } else {
        Err(wrong("is neither a regular file nor a pipe"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_atomically_with_the_requested_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for (text, wanted) in [("17", 0o644), ("1", 0o600)] {
            replace(&path, text.as_bytes(), wanted).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(mode(&path), wanted);
        }
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "something was left beside it");
    }

    #[test]
    fn nothing_is_written_through_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("victim"), "untouched").unwrap();
        for name in ["pid", "log", "new"] {
            symlink("victim", path(name)).unwrap();
        }
        replace(&path("pid"), b"17", 0o644).unwrap();
        let error = append(&path("log")).unwrap_err();
        assert!(error.why.contains("symbolic link"), "{error}");
        assert!(create_new(&path("new"), 0o644).is_err());
        let text = |name| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!(text("victim"), "untouched");
        assert_eq!(text("pid"), "17");
        assert!(!path("pid").is_symlink());
        // A dangling link creates nothing.
        symlink("nowhere", path("dangling")).unwrap();
        assert!(append(&path("dangling")).is_err());
        assert!(create_new(&path("dangling"), 0o644).is_err());
        assert!(!path("nowhere").exists());
    }

    #[test]
    fn a_device_or_a_directory_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/dev/null", dir.path().join("null")).unwrap();
        for path in [Path::new("/dev/null"), &dir.path().join("null"), dir.path()] {
            let error = replace(path, b"17", 0o644).unwrap_err();
            assert!(error.why.contains("not a regular file"), "{error}");
        }
        assert!(append(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn appended_bytes_follow_existing_ones_and_a_new_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for line in ["one\n", "two\n"] {
            append(&path).unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(mode(&path), 0o600);
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = append(&fifo).unwrap_err();
        assert!(error.what.contains("O_APPEND"), "nobody reads it: {error}");
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&fifo);
        append(&fifo).unwrap().write_all(b"x").unwrap();
        drop(reader);
    }
}
