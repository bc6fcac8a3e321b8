//! Search for the store: a directory of the initramfs, or a file system on a block device, which is mounted
//! read-only.

use super::cmdline::StoreLocation;
use super::machine;
use super::superblock::{self, Superblock};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Mount point of the store.
const STORE: &str = "/run/store";
/// Time limit for a device to appear.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between two searches.
const INTERVAL: Duration = Duration::from_millis(20);

/// Finds the store, and mounts it if it is on a block device. Returns its directory.
pub fn find(place: &StoreLocation) -> Result<PathBuf> {
    let (device, found) = match place {
        StoreLocation::Path(path) if !path.starts_with("/dev") => {
            let named = format_args!("imrun.store={}", path.display()).to_string();
            return if path.is_dir() { Ok(path.clone()) } else { Err(Error::usage(named, "the initramfs has no such directory")) };
        }
        StoreLocation::Path(path) => poll_until(|| at(path))?.ok_or_else(|| {
            Error::system(path.display(), format_args!("the device did not appear within {TIMEOUT:?}"))
                .hint("the initramfs needs the modules of its bus and driver: docs/appliance.md")
        })?,
        StoreLocation::Label(label) => poll_until(|| labelled(label))?.ok_or_else(|| {
            Error::system(format_args!("LABEL={label}"), format_args!("no block device with it appeared within {TIMEOUT:?}"))
                .hint("e2label or mkfs.erofs -L give a file system one, sgdisk a partition; the initramfs needs the disk's modules")
        })?,
    };
    attach(&device, &found)
}

/// Calls `look` until it finds something; `None` after the time limit.
fn poll_until<T>(look: impl Fn() -> Result<Option<T>>) -> Result<Option<T>> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = look()?;
        if found.is_some() || Instant::now() >= deadline {
            return Ok(found);
        }
        std::thread::sleep(INTERVAL);
    }
}

fn at(path: &Path) -> Result<Option<(PathBuf, Superblock)>> {
    let Ok(metadata) = std::fs::metadata(path) else {
        return Ok(None);
    };
    if !metadata.file_type().is_block_device() {
        return Err(Error::usage(path.display(), "is not a block device"));
    }
    let found = examine(path).context(|| format!("read({path:?})"))?;
    let found = found.ok_or_else(|| {
        Error::unsupported(
            path.display(),
            "has no known file system: expected ext4, EROFS or squashfs",
        )
    })?;
    Ok(Some((path.into(), found)))
}

fn labelled(label: &str) -> Result<Option<(PathBuf, Superblock)>> {
    const DEVICES: &str = "/sys/class/block";
    let mut matches = Vec::new();
    for name in files::names(Path::new(DEVICES))? {
        let path = Path::new("/dev").join(&name);
        // Drives without a medium and loop devices without a file cannot be read.
        let Ok(Some(found)) = examine(&path) else {
            continue;
        };
        if found.label == label
            || partition_name(&Path::new(DEVICES).join(&name)).as_deref() == Some(label)
        {
            matches.push((path, found));
        }
    }
    if let [(one, _), (other, _), ..] = &matches[..] {
        return Err(Error::usage(
            format_args!("LABEL={label}"),
            format_args!("is on {} and on {}", one.display(), other.display()),
        ));
    }
    Ok(matches.pop())
}

fn examine(path: &Path) -> std::io::Result<Option<Superblock>> {
    let mut bytes = Vec::with_capacity(superblock::SIZE);
    let device = File::open(path)?.take(superblock::SIZE as u64);
    { device }.read_to_end(&mut bytes)?;
    Ok(superblock::read(&bytes))
}

/// Returns the name of a GPT partition (Linux, block/partitions/core.c).
fn partition_name(directory: &Path) -> Option<String> {
    let text = std::fs::read_to_string(directory.join("uevent")).ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("PARTNAME=").map(String::from))
}

fn attach(device: &Path, found: &Superblock) -> Result<PathBuf> {
    let kind = found.kind.to_string_lossy();
    machine::directory(STORE)?;
    let flags = MsFlags::MS_RDONLY
        .union(MsFlags::MS_NOSUID)
        .union(MsFlags::MS_NODEV)
        .union(MsFlags::MS_NOEXEC);
    // Read-only applies to the device, too: the journal is not replayed.
    let data = (found.kind == c"ext4").then_some("noload");
    mount(Some(device), STORE, Some(found.kind), flags, data).map_err(|errno| {
        let error = Error::system(format_args!("mount({device:?}, {kind:?})"), errno.desc());
        match errno {
            nix::errno::Errno::ENODEV => {
                error.hint("the initramfs needs the file system's module: docs/appliance.md")
            }
            _ => error,
        }
    })?;
    Ok(STORE.into())
}
