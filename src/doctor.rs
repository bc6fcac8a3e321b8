//! What this host can do, each thing tried for real: nothing is concluded from version numbers.
#![forbid(unsafe_code)]

use crate::cgroup;
use crate::error::{Context, Error, Result};
use crate::ids;
use crate::launch;
use crate::paths;
use crate::rootfs::{self, Backing};
use crate::store::Store;
use crate::store::image::Sources;
use crate::sys::probe;
use crate::{erofs, tree, verity};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statfs::{self, FsType, fstatfs};
use serde::Serialize;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One thing that this host can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// How, or why not: the call and its error, one line.
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

/// Tries everything; what concerns files, where the store is or would be.
///
/// # Errors
/// Only where nothing can be said: no tree image can be written.
pub fn examine(store: &Store) -> Result<Vec<Check>> {
    let directory = existing(store.path());
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

/// What each level asks of the host.
fn integrity(directory: &Path, image: &[u8]) -> [Check; 4] {
    let hashed = "asks nothing of the host".to_owned();
    [
        Check::new("integrity-sealed", mount_memory(image)),
        Check::new("integrity-verity", has_verity(directory, image)),
        Check::new("integrity-hashed", Ok(hashed)),
        Check::new("integrity-known", lease(directory, image)),
    ]
}

/// The directory itself, or the nearest one above it that is there.
fn existing(path: &Path) -> &Path {
    let found = path.ancestors().find(|ancestor| ancestor.is_dir());
    found.unwrap_or(Path::new("."))
}

/// The smallest tree image: an empty root.
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
    match ids::is_ordinary()? {
        false => Ok("user id 0".to_owned()),
        true => Err(Error::unsupported(
            format_args!("user id {}", nix::unistd::geteuid()),
            "launches by the driver overlay, in a user namespace of its own",
        )),
    }
}

/// A tree without layers, unpacked and laid as a container's root is. An ordinary user can only do that
/// in a namespace, which this process does not enter.
fn overlay(directory: &Path) -> Result<String> {
    if !ids::is_ordinary()? {
        launch::try_overlay(directory)?;
        return Ok("two directories were laid over each other, and nothing was written".to_owned());
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

/// The image in a file without a name, which nobody has open for writing.
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
        Backing::Loop => Ok("mounted by a loop device: the store's filesystem, or a kernel before 6.12, backs no mount itself".to_owned()),
    }
}

/// A tree image without layers.
fn sources(tree: File) -> Sources {
    Sources {
        tree,
        tars: Vec::new(),
    }
}

/// A sealed memory file can be mounted by a loop device alone.
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
    Ok("a sealed memory file was mounted by a loop device".to_owned())
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

/// Beneath which containers have their cgroups.
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
    match cgroup::controllers(&root)?.iter().any(|one| one == name) {
        true => Ok(root.display().to_string()),
        false => Err(Error::unsupported(
            root.display(),
            format_args!("has no {name} controller; version 1 may have it"),
        )),
    }
}

fn landlock() -> Result<String> {
    let version = crate::sys::landlock::version().context(|| "landlock_create_ruleset(VERSION)")?;
    Ok(format!("ABI {version}"))
}

fn seccomp_notification() -> Result<String> {
    probe::seccomp_notification().context(|| "seccomp(SECCOMP_GET_NOTIF_SIZES)")?;
    Ok("SECCOMP_FILTER_FLAG_NEW_LISTENER".to_owned())
}

/// Where the host sends core dumps (core(5)).
fn core_pattern() -> Result<String> {
    const FILE: &str = "/proc/sys/kernel/core_pattern";
    std::fs::read_to_string(FILE).context(|| format!("read({FILE:?})"))
}

/// Whether nothing of an app's leaves its container by that way.
fn core_dumps(pattern: &str) -> Result<String> {
    let pattern = pattern.trim_end();
    let program = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    match pattern.strip_prefix('|') {
        _ if pattern.starts_with('@') => {
            let why = "is a socket, which no limit stops: it gets registers, names and the first arguments of an app that crashes, and no memory";
            Err(Error::unsupported(
                format_args!("core_pattern {pattern:?}"),
                why,
            ))
        }
        Some(line) => Ok(format!(
            "the host's go to {:?}; containers make none",
            program(line)
        )),
        None => Ok(format!(
            "the host's are files {pattern:?}; containers make none"
        )),
    }
}

fn has_verity(directory: &Path, image: &[u8]) -> Result<String> {
    let file = image_file(directory, image)?;
    crate::sys::verity::enable(file.as_fd()).context(|| "ioctl(FS_IOC_ENABLE_VERITY)")?;
    let mut computed = verity::Hasher::default();
    computed.update(image);
    match verity::measure(&file)? {
        Some(measured) if measured == computed.finish() => {
            Ok("turned on for a file beside the store's, and measured".to_owned())
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
    crate::integrity::still(&file).map_err(|why| Error::unsupported("store", why))?;
    Ok("an inode of the store's filesystem tells of every write".to_owned())
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
    fn every_check_has_a_name_of_its_own_and_one_line() {
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
    fn a_store_that_is_not_there_yet_is_judged_by_the_directory_above() {
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
    fn a_store_where_no_file_can_be_is_told_with_the_call() {
        let checks = examine(&Store::new("/proc/self")).unwrap();
        for name in ["store", "erofs", "fs-verity", "integrity-known"] {
            let check = check(&checks, name);
            assert!(!check.ok && check.why.contains("O_TMPFILE"), "{check:?}");
        }
        assert!(check(&checks, "integrity-hashed").ok);
    }

    #[test]
    fn a_core_pattern_is_told_and_only_a_socket_gets_anything() {
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
