//! Checks of this host's capabilities: each one is tried for real, nothing is concluded from version
//! numbers.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Error, Result};
use crate::base::ids;
use crate::base::paths;
use crate::base::sys::probe;
use crate::image::erofs;
use crate::image::tree;
use crate::image::verity;
use crate::runtime::cgroup;
use crate::runtime::launch;
use crate::runtime::rootfs::{self, Backing};
use crate::store::Store;
use crate::store::image::Sources;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statfs::{self, FsType, fstatfs};
use serde::Serialize;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name of the check.
    pub name: &'static str,
    /// True if it works.
    pub ok: bool,
    /// Details, or the failing call and its error: one line.
    pub why: String,
}

impl Check {
    fn new(name: &'static str, tried: Result<String>) -> Check {
        match tried {
            Ok(why) => Check {
                name,
                ok: true,
                why,
            },
            Err(error) => Check {
                name,
                ok: false,
                why: error.to_string(),
            },
        }
    }
}

/// Runs all checks; those of file systems in the store's directory, or in its nearest existing parent.
///
/// # Errors
/// The tree image for the checks cannot be written.
pub fn examine(store: &Store) -> Result<Vec<Check>> {
    let directory = nearest_existing(store.path());
    let image = tree_image()?;
    let mut checks = vec![
        Check::new("kernel", kernel()),
        Check::new("root", root()),
        Check::new(
            "store",
            new_file(directory).and_then(|file| place(directory, &file)),
        ),
        Check::new("erofs", mount_file(directory, &image)),
        Check::new("erofs-loop", mount_memory(&image)),
        Check::new("overlay", overlay(directory)),
        Check::new("namespaces", namespaces()),
        Check::new("cgroup2", cgroups().map(|path| path.display().to_string())),
    ];
    for (name, controller) in [
        ("cgroup-memory", "memory"),
        ("cgroup-cpu", "cpu"),
        ("cgroup-pids", "pids"),
    ] {
        checks.push(Check::new(name, has_controller(controller)));
    }
    checks.extend([
        Check::new("landlock", landlock()),
        Check::new("seccomp-notify", seccomp_notification()),
        Check::new("fs-verity", has_verity(directory, &image)),
        Check::new(
            "core-dumps",
            core_pattern().and_then(|text| core_dumps(&text)),
        ),
    ]);
    checks.extend(integrity(directory, &image));
    Ok(checks)
}

/// Checks the requirements of each integrity level.
fn integrity(directory: &Path, image: &[u8]) -> [Check; 4] {
    let hashed = "needs nothing from the host".to_owned();
    [
        Check::new("integrity-sealed", mount_memory(image)),
        Check::new("integrity-verity", has_verity(directory, image)),
        Check::new("integrity-hashed", Ok(hashed)),
        Check::new("integrity-known", lease(directory, image)),
    ]
}

/// Returns the directory, or its nearest existing ancestor.
fn nearest_existing(path: &Path) -> &Path {
    let found = path.ancestors().find(|ancestor| ancestor.is_dir());
    found.unwrap_or(Path::new("."))
}

/// Makes the smallest tree image: an empty root.
fn tree_image() -> Result<Vec<u8>> {
    let mut image = Vec::new();
    erofs::write(&tree::merge(Vec::new())?, &[], &mut image)?;
    Ok(image)
}

fn kernel() -> Result<String> {
    let name = nix::sys::utsname::uname().context(|| "uname()")?;
    Ok(name.release().to_string_lossy().into_owned())
}

fn root() -> Result<String> {
    if ids::is_ordinary()? {
        Err(Error::unsupported(
            format_args!("user id {}", nix::unistd::geteuid()),
            "uses the driver overlay, in a user namespace",
        ))
    } else {
        Ok("user id 0".to_owned())
    }
}

/// Mounts two directories as a container's root is mounted. An ordinary user can only do that in a user
/// namespace, which this process does not enter.
fn overlay(directory: &Path) -> Result<String> {
    if !ids::is_ordinary()? {
        launch::try_overlay(directory)?;
        return Ok(
            "two directories were mounted as an overlay, and nothing was written".to_owned(),
        );
    }
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
    probe::try_overlay(flags as u64)
        .context(|| format!("clone3({flags:#x}), fsopen(\"overlay\")"))?;
    Ok("in a user namespace".to_owned())
}

fn new_file(directory: &Path) -> Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    open(directory, flags, Mode::S_IRUSR)
        .map(File::from)
        .context(|| format!("open({directory:?}, O_TMPFILE)"))
}

/// Writes the image to a file without a name, which nobody has open for writing.
fn image_file(directory: &Path, image: &[u8]) -> Result<File> {
    let file = new_file(directory)?;
    file.write_all_at(image, 0)
        .and_then(|()| file.sync_all())
        .context(|| format!("write({directory:?}, O_TMPFILE)"))?;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .context(|| format!("open({directory:?}, O_TMPFILE) again"))
}

fn place(directory: &Path, file: &File) -> Result<String> {
    let filesystem = fstatfs(file.as_fd()).context(|| format!("fstatfs({directory:?})"))?;
    let kind = filesystem_name(filesystem.filesystem_type());
    Ok(format!("{} on {kind}", directory.display()))
}

fn filesystem_name(kind: FsType) -> String {
    let known = [
        (statfs::EXT4_SUPER_MAGIC, "ext4"),
        (statfs::XFS_SUPER_MAGIC, "XFS"),
        (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
        (statfs::F2FS_SUPER_MAGIC, "F2FS"),
        (statfs::TMPFS_MAGIC, "tmpfs"),
        (statfs::OVERLAYFS_SUPER_MAGIC, "overlayfs"),
        (statfs::NFS_SUPER_MAGIC, "NFS"),
    ];
    let name = known.into_iter().find(|(magic, _)| *magic == kind);
    name.map_or_else(
        || format!("a filesystem of type {:#x}", kind.0),
        |(_, name)| name.to_owned(),
    )
}

fn mount_file(directory: &Path, image: &[u8]) -> Result<String> {
    let file = image_file(directory, image)?;
    match rootfs::mount(&sources(file))?.backing {
        Backing::File => Ok("mounted from a file".to_owned()),
        Backing::Loop => Ok("mounted through a loop device: a kernel before 6.12 or the store's filesystem does not support file-backed mounts".to_owned()),
    }
}

/// Makes the sources of a tree image without layers.
fn sources(tree: File) -> Sources {
    Sources {
        tree,
        tars: Vec::new(),
    }
}

/// Mounts a sealed memory file, which needs a loop device.
fn mount_memory(image: &[u8]) -> Result<String> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let memory = File::from(memfd_create(c"doctor", flags).context(|| "memfd_create()")?);
    memory.write_all_at(image, 0).context(|| "write(memfd)")?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).context(|| "fcntl(memfd, F_ADD_SEALS)")?;
    rootfs::mount(&sources(memory))?;
    Ok("a sealed memory file was mounted through a loop device".to_owned())
}

fn namespaces() -> Result<String> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    probe::try_namespaces(flags as u64).context(|| format!("clone3({flags:#x})"))?;
    Ok("user, mount, pid, ipc, uts, net, cgroup".to_owned())
}

/// Returns the parent of the containers' cgroups.
fn cgroups() -> Result<PathBuf> {
    if !ids::is_ordinary()? {
        return cgroup::hierarchy();
    }
    let missing = || {
        let why = "delegates no cgroup to this user: its containers have no limits, and end with the first process of their pid namespace";
        Error::unsupported("this host", why)
    };
    let place = cgroup::delegated()?.ok_or_else(missing)?;
    Ok(cgroup::hierarchy()?.join(place))
}

fn has_controller(name: &str) -> Result<String> {
    let root = cgroups()?;
    if cgroup::controllers(&root)?.iter().any(|one| one == name) {
        Ok(root.display().to_string())
    } else {
        Err(Error::unsupported(
            root.display(),
            format_args!("has no {name} controller; cgroup version 1 may have it"),
        ))
    }
}

fn landlock() -> Result<String> {
    let version =
        crate::base::sys::landlock::version().context(|| "landlock_create_ruleset(VERSION)")?;
    Ok(format!("ABI {version}"))
}

fn seccomp_notification() -> Result<String> {
    probe::seccomp_notification().context(|| "seccomp(SECCOMP_GET_NOTIF_SIZES)")?;
    Ok("SECCOMP_FILTER_FLAG_NEW_LISTENER".to_owned())
}

/// Returns the host's core dump destination (core(5)).
fn core_pattern() -> Result<String> {
    const FILE: &str = "/proc/sys/kernel/core_pattern";
    std::fs::read_to_string(FILE).context(|| format!("read({FILE:?})"))
}

/// Checks that no content of an app leaves its container in a core dump.
fn core_dumps(pattern: &str) -> Result<String> {
    let pattern = pattern.trim_end();
    let program = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    match pattern.strip_prefix('|') {
        _ if pattern.starts_with('@') => {
            let why = "is a socket, which no limit stops: it receives registers, names and the first arguments of an app that crashes, but no memory";
            Err(Error::unsupported(
                format_args!("core_pattern {pattern:?}"),
                why,
            ))
        }
        Some(line) => Ok(format!(
            "the host's go to {:?}; containers produce none",
            program(line)
        )),
        None => Ok(format!(
            "the host's are files {pattern:?}; containers produce none"
        )),
    }
}

fn has_verity(directory: &Path, image: &[u8]) -> Result<String> {
    let file = image_file(directory, image)?;
    crate::base::sys::verity::enable(file.as_fd()).context(|| "ioctl(FS_IOC_ENABLE_VERITY)")?;
    let mut computed = verity::Hasher::default();
    computed.update(image);
    match verity::measure(&file)? {
        Some(measured) if measured == computed.finish() => {
            Ok("enabled for a file in the store's directory, and measured".to_owned())
        }
        measured => Err(Error::unsupported(
            "ioctl(FS_IOC_MEASURE_VERITY)",
            format_args!("gives {measured:?}"),
        )),
    }
}

fn lease(directory: &Path, image: &[u8]) -> Result<String> {
    if ids::is_ordinary()? && paths::private_runtime().is_none() {
        let why = "names no directory for memos";
        return Err(Error::unsupported("XDG_RUNTIME_DIR", why));
    }
    let file = image_file(directory, image)?;
    crate::runtime::integrity::take_lease(&file).map_err(|why| Error::unsupported("store", why))?;
    Ok("inodes of the store's filesystem reveal every write".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(checks: &[Check], name: &str) -> Check {
        checks
            .iter()
            .find(|check| check.name == name)
            .unwrap()
            .clone()
    }

    #[test]
    fn every_check_has_a_unique_name_and_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let checks = examine(&Store::new(dir.path())).unwrap();
        let mut names: Vec<_> = checks.iter().map(|check| check.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), checks.len());
        for Check { name, why, .. } in checks {
            assert!(!why.is_empty() && !why.contains('\n'), "{name}: {why:?}");
        }
    }

    #[test]
    fn a_store_that_does_not_exist_yet_is_judged_by_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("not/there");
        let checks = examine(&Store::new(&store)).unwrap();
        let place = check(&checks, "store");
        assert!(
            place.ok && place.why.starts_with(dir.path().to_str().unwrap()),
            "{place:?}"
        );
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing was made"
        );
    }

    #[test]
    fn a_store_in_which_no_file_can_be_created_fails_with_the_call() {
        let checks = examine(&Store::new("/proc/self")).unwrap();
        for name in ["store", "erofs", "fs-verity", "integrity-known"] {
            let check = check(&checks, name);
            assert!(!check.ok && check.why.contains("O_TMPFILE"), "{check:?}");
        }
        assert!(check(&checks, "integrity-hashed").ok);
    }

    #[test]
    fn a_core_pattern_is_shown_and_only_a_socket_fails_the_check() {
        let file = core_dumps("core.%p\n").unwrap();
        assert!(file.contains("files \"core.%p\""), "{file}");
        let piped = core_dumps("|/usr/lib/systemd/systemd-coredump %P %u\n").unwrap();
        assert!(
            piped.contains("\"/usr/lib/systemd/systemd-coredump\""),
            "{piped}"
        );
        for socket in ["@/run/dumps", "@@/run/dumps"] {
            let error = core_dumps(socket).unwrap_err().to_string();
            assert!(
                error.contains(socket) && error.contains("no memory"),
                "{error}"
            );
        }
    }

    #[test]
    fn filesystems_are_named_or_numbered() {
        assert_eq!(filesystem_name(statfs::EXT4_SUPER_MAGIC), "ext4");
        assert_eq!(
            filesystem_name(FsType(0x1234)),
            "a filesystem of type 0x1234"
        );
    }
}
