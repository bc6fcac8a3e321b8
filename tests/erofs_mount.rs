//! The tree image, mounted by the kernel over the layers' tars, equals an independent merge.
//!
//! Needs root and file-backed EROFS (Linux ≥ 6.12, a disk filesystem); else it says what is
//! missing and counts as skipped.
#![allow(unsafe_code, clippy::unwrap_used)]

use imrun::base::digest::Algorithm;
use imrun::image::erofs::{self, Device};
use imrun::image::layer::{Layer, Limits, Tee, scan};
use imrun::image::tree::{Tree, merge, synthesise};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

const FSCONFIG_SET_FLAG: i32 = 0;
const FSCONFIG_SET_STRING: i32 = 1;
const FSCONFIG_CMD_CREATE: i32 = 6;

/// A file descriptor from a system call of the new mount API.
fn descriptor(result: i64) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the call returned this descriptor just now, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn configure(
    context: &OwnedFd,
    command: i32,
    key: Option<&str>,
    value: Option<&str>,
) -> io::Result<()> {
    let [key, value] = [key, value].map(|text| text.map(|text| CString::new(text).unwrap()));
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
    // SAFETY: both strings outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(&key),
            pointer(&value),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A detached mount of the image over its tars, usable as `/proc/self/fd/N`, in children too.
fn mount(image: &File, tars: &[File]) -> io::Result<OwnedFd> {
    let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the string is a constant.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"erofs".as_ptr(), 0) })?;
    configure(&context, FSCONFIG_SET_FLAG, Some("ro"), None)?;
    configure(
        &context,
        FSCONFIG_SET_STRING,
        Some("source"),
        Some(&path(image)),
    )?;
    for tar in tars {
        configure(
            &context,
            FSCONFIG_SET_STRING,
            Some("device"),
            Some(&path(tar)),
        )?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: no pointers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0) })
}

/// Says, and counts, why this host cannot mount, if it cannot.
fn skips(scratch: &Path) -> bool {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let Some(reason) = missing(scratch) else {
        return false;
    };
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Not by a macro, whose output the harness keeps to itself.
    let line = format!("skipped: {count} of the mount tests: {reason}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
    true
}

fn missing(scratch: &Path) -> Option<String> {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        return Some("not root".to_string());
    }
    let image = write_image(scratch, &merge([]).unwrap(), &[]);
    mount(&image, &[])
        .err()
        .map(|error| format!("no file-backed EROFS: {error}"))
}

fn write_image(scratch: &Path, tree: &Tree, devices: &[Device]) -> File {
    let path = scratch.join("tree.erofs");
    erofs::write(tree, devices, &mut File::create(&path).unwrap()).unwrap();
    File::open(path).unwrap()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn model(command: &str, argument: &Path) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/erofs_mount/model.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(command)
        .arg(argument)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(String::from)
        .collect()
}

fn read(tar: &File) -> (Layer, Device) {
    let mut tee = Tee::new(tar, Algorithm::Sha256, None);
    let layer = scan(&mut tee, &Limits::default()).unwrap();
    let (digest, size) = tee.finish();
    assert_eq!(size, layer.size);
    (layer, Device { digest, size })
}

fn tars(directory: &Path) -> Vec<File> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    paths.sort();
    paths.iter().map(|path| File::open(path).unwrap()).collect()
}

/// Makes a mount's descriptor one that a child inherits, and names it.
fn inheritable(mount: &OwnedFd) -> PathBuf {
    // SAFETY: no pointers.
    let result = unsafe { libc::fcntl(mount.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(result, 0);
    PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()))
}

#[test]
fn the_mounted_tree_equals_an_independent_merge_of_the_layers() {
    let scratch = scratch();
    if skips(scratch.path()) {
        return;
    }
    model("make", scratch.path());
    let tars = tars(scratch.path());
    let (layers, devices): (Vec<_>, Vec<_>) = tars.iter().map(read).unzip();
    let tree = merge(layers).unwrap();
    let mount = mount(&write_image(scratch.path(), &tree, &devices), &tars).unwrap();

    let expected = model("merge", scratch.path());
    let mounted = model("list", &inheritable(&mount));
    for (expected, mounted) in expected.iter().zip(&mounted) {
        assert_eq!(mounted, expected);
    }
    assert_eq!(mounted.len(), expected.len());
    assert!(mounted.len() > 3000);
}

#[test]
fn the_runtimes_own_devices_work_in_the_mounted_tree() {
    use std::io::Read;
    let scratch = scratch();
    if skips(scratch.path()) {
        return;
    }
    let mut tree = merge([]).unwrap();
    synthesise(&mut tree).unwrap();
    let mount = mount(&write_image(scratch.path(), &tree, &[]), &[]).unwrap();
    let root = inheritable(&mount);

    std::fs::write(root.join("dev/null"), "gone").unwrap();
    let mut zeros = [1; 16];
    File::open(root.join("dev/zero"))
        .unwrap()
        .read_exact(&mut zeros)
        .unwrap();
    assert_eq!(zeros, [0; 16]);
    assert_eq!(
        std::fs::read_link(root.join("dev/stdout")).unwrap(),
        Path::new("/proc/self/fd/1")
    );
    assert!(root.join("sys/fs/cgroup").is_dir() && root.join("proc").is_dir());
    assert_eq!(std::fs::read(root.join("etc/hosts")).unwrap(), b"");
    let refused = std::fs::write(root.join("etc/hosts"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn a_file_over_4_gib_is_read_to_its_end() {
    use std::io::BufReader;
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = (5 << 30) + 3;
    let scratch = scratch();
    if skips(scratch.path()) {
        return;
    }
    let path = scratch.path().join("0.tar");
    let mut tar = File::create(&path).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(SIZE);
    header.set_mode(0o644);
    header.set_cksum();
    tar.write_all(header.as_bytes()).unwrap();
    tar.write_all_at(b"end", 512 + SIZE - 3).unwrap();
    tar.set_len(512 + SIZE.next_multiple_of(512) + 1024)
        .unwrap();

    let tar = File::open(path).unwrap();
    let layer = scan(BufReader::with_capacity(1 << 20, &tar), &Limits::default()).unwrap();
    let device = Device {
        digest: imrun::base::digest::Digest::sha256(b"not hashed here"),
        size: layer.size,
    };
    let image = write_image(scratch.path(), &merge([layer]).unwrap(), &[device]);
    let mount = mount(&image, &[tar]).unwrap();
    let large = File::open(inheritable(&mount).join("large")).unwrap();
    assert_eq!(large.metadata().unwrap().len(), SIZE);
    let mut end = [1; 6];
    assert_eq!(large.read_at(&mut end, SIZE - 5).unwrap(), 5);
    assert_eq!(&end[..5], b"\0\0end");
}

#[test]
fn six_hundred_layers_are_six_hundred_devices_of_one_mount() {
    let scratch = scratch();
    if skips(scratch.path()) {
        return;
    }
    let tars: Vec<File> = (0..600)
        .map(|number| {
            let path = scratch.path().join(format!("{number}.tar"));
            let mut tar = tar::Builder::new(File::create(&path).unwrap());
            let text = number.to_string();
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, &text, text.as_bytes())
                .unwrap();
            tar.into_inner().unwrap();
            File::open(path).unwrap()
        })
        .collect();
    let (layers, devices): (Vec<_>, Vec<_>) = tars.iter().map(read).unzip();
    let tree = merge(layers).unwrap();
    let mount = mount(&write_image(scratch.path(), &tree, &devices), &tars).unwrap();
    let root = inheritable(&mount);
    for number in 0..600 {
        let text = number.to_string();
        assert_eq!(std::fs::read_to_string(root.join(&text)).unwrap(), text);
    }
}
