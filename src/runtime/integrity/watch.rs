//! Watch over files while they are hashed, and stamps that reveal a later change.

use crate::base::sys::lease;
use crate::store::image::Sources;
use nix::errno::Errno;
use nix::sys::statfs::{FsType, fstatfs};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since the last change that makes a file quiet. A later change might otherwise get the same ctime:
/// inode clocks are coarse (git, "racy git").
const QUIET: Duration = Duration::from_secs(2);

/// File systems that update an inode's ctime on every write, also through a mapping (linux/magic.h): ext2
/// to ext4, XFS, btrfs; each was tested. Not tmpfs: a write to a shared page that was read before goes
/// unnoticed there. Not network and stacked file systems: there a lease does not cover other ways to the
/// same bytes.
const TRUSTED_FILESYSTEMS: [FsType; 3] = [FsType(0xEF53), FsType(0x5846_5342), FsType(0x9123_683E)];

/// State of an inode. Its bytes have not changed while the stamp stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Seconds and nanoseconds.
    pub ctime: (i64, i64),
}

impl Stamp {
    pub fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns true if the last change is longer than [`QUIET`] ago; a change in the future never is.
    fn is_quiet(&self, now: Duration) -> bool {
        let (seconds, nanoseconds) = self.ctime;
        let changed = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        now.as_nanos() as i128 - changed > QUIET.as_nanos() as i128
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mtime, ctime) = (self.mtime, self.ctime);
        write!(
            f,
            "{:x}:{} {} {}.{:09} {}.{:09}",
            self.device, self.inode, self.size, mtime.0, mtime.1, ctime.0, ctime.1
        )
    }
}

/// Files under a lease, taken before they are hashed.
pub(super) struct Watch<'a> {
    files: Vec<(&'a File, Stamp)>,
}

/// Starts to watch. The error is the reason why a memo of these files would be worthless.
pub(super) fn begin(sources: &Sources) -> Result<Watch<'_>, String> {
    lease::ignore_signal().map_err(|errno| format!("signal(SIGIO, SIG_IGN): {errno}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(|_| "the clock is before 1970")?;
    let files = named(sources).map(|(name, file)| {
        let stamp = lease(file, now).map_err(|why| format!("{name}: {why}"))?;
        Ok((file, stamp))
    });
    Ok(Watch {
        files: files.collect::<Result<_, String>>()?,
    })
}

/// Returns the files with their names, the tree image first.
pub(super) fn named(sources: &Sources) -> impl Iterator<Item = (String, &File)> {
    let tars = sources.tars.iter().enumerate();
    let tars = tars.map(|(number, file)| (format!("layer {}", number + 1), file));
    [("tree image".to_owned(), &sources.tree)]
        .into_iter()
        .chain(tars)
}

/// Takes a lease, so that nobody can write to the file without changing its inode; the error is the
/// reason why not.
///
/// The order matters. A page that is already dirty is written through a mapping without a new ctime;
/// fsync(2) ends that. The lease is refused while anybody has the file open or mapped for writing, and a
/// later writer breaks it.
pub fn take_lease(file: &File) -> Result<(), String> {
    take_lease_after(file, || {
        file.sync_all().map_err(|error| format!("fsync: {error}"))
    })
}

/// Like [`take_lease`], for one file of many: the data need not be on disk.
pub fn take_lease_unsynced(file: &File) -> Result<(), String> {
    let write_back = || lease::write_back(file.as_fd());
    take_lease_after(file, || {
        write_back().map_err(|errno| format!("sync_file_range: {errno}"))
    })
}

fn take_lease_after(file: &File, clean: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let kind = fstatfs(file).map_err(|errno| format!("fstatfs: {errno}"))?;
    if !TRUSTED_FILESYSTEMS.contains(&kind.filesystem_type()) {
        return Err("its file system is not ext4, XFS or btrfs".into());
    }
    clean()?;
    lease::take(file.as_fd()).map_err(|errno| match errno {
        Errno::EAGAIN => "somebody has it open for writing".into(),
        errno => format!("fcntl(F_SETLEASE): {errno}"),
    })
}

fn lease(file: &File, now: Duration) -> Result<Stamp, String> {
    take_lease(file)?;
    let stamp = Stamp::of(file).map_err(|error| format!("fstat: {error}"))?;
    if stamp.is_quiet(now) {
        Ok(stamp)
    } else {
        Err("it was changed in the last 2 seconds".into())
    }
}

impl Watch<'_> {
    /// Returns the stamps of the files, the tree image's first, if nobody has changed them meanwhile.
    ///
    /// The leases end with the descriptors, after the mount. Holding them so long is harmless and
    /// unnecessary: a writer of today cannot get a ctime of 2 seconds ago.
    pub fn end(self) -> Result<Vec<Stamp>, String> {
        let unchanged = |(file, before): (&File, Stamp)| {
            let held = lease::is_held(file.as_fd());
            if !held.map_err(|errno| format!("fcntl(F_GETLEASE): {errno}"))? {
                return Err("a file was opened for writing while it was hashed".to_owned());
            }
            let after = Stamp::of(file).map_err(|error| format!("fstat: {error}"))?;
            if after == before {
                Ok(after)
            } else {
                Err("a file was changed while it was hashed".to_owned())
            }
        };
        self.files.into_iter().map(unchanged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed_at(seconds: i64) -> Stamp {
        Stamp {
            device: 0xfe00,
            inode: 7,
            size: 512,
            mtime: (1, 5),
            ctime: (seconds, 900_000_000),
        }
    }

    #[test]
    fn a_file_is_quiet_two_seconds_after_its_last_change_and_never_before_it() {
        let now = Duration::from_secs(1000);
        assert!(changed_at(997).is_quiet(now));
        for seconds in [998, 999, 1000, i64::MAX] {
            assert!(!changed_at(seconds).is_quiet(now), "{seconds}");
        }
        assert!(changed_at(i64::MIN).is_quiet(now));
    }

    #[test]
    fn a_stamp_shows_nanoseconds() {
        let text = changed_at(997).to_string();
        assert_eq!(text, "fe00:7 512 1.000000005 997.900000000");
    }
}
