//! Both drivers show the same root, unpacking never touches anything outside the image's directory, and
//! changes in it are found.
//!
//! The tests of both drivers need root and EROFS; otherwise they report this and are skipped.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support"]
mod support {
    pub mod host;
    pub mod launch;
    pub mod layout;
    pub mod outcome;
    pub mod server;
    pub mod skip;
}

use imrun::base::digest::Digest;
use imrun::base::ids::Owners;
use imrun::base::sys::{mount, xattr};
use imrun::image::erofs::{self, Device};
use imrun::image::layer::{Limits, scan};
use imrun::image::tree::{Tree, merge, synthesise};
use imrun::image::unpacked::{Model, compare, write};
use imrun::runtime::rootfs;
use imrun::store::image::Sources;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

/// An entry of a generated tar.
#[derive(Debug, Clone)]
enum Entry {
    Directory,
    File(Vec<u8>),
    Symlink(&'static str),
    HardLink(String),
    Fifo,
}

#[derive(Debug, Clone)]
struct Named {
    path: String,
    entry: Entry,
    mode: u32,
    owner: u64,
    mtime: u64,
    xattr: Option<Vec<u8>>,
}

/// Generates a name from a few, so that layers overlap, including unusual ones.
fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a",
        "b",
        "c",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        "with space",
        "ümlaut",
        "new\nline",
        "-rf",
        "...",
    ])
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"))
}

fn entry() -> impl Strategy<Value = Entry> {
    let targets = vec!["a", "b/c", "..", "../../..", "/", "/etc/passwd", "nowhere"];
    prop_oneof![
        3 => Just(Entry::Directory),
        4 => prop::collection::vec(any::<u8>(), 0..1500).prop_map(Entry::File),
        2 => prop::sample::select(targets).prop_map(Entry::Symlink),
        2 => path().prop_map(Entry::HardLink),
        1 => Just(Entry::Fifo),
    ]
}

fn named() -> impl Strategy<Value = Named> {
    let modes = prop::sample::select(vec![0o755, 0o644, 0, 0o4755, 0o1777, 0o2711, 0o600]);
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let owner = prop::sample::select(vec![0u64, 1, 1000, 70_000]);
    (path(), entry(), modes, owner, 0..2_000_000_000u64, value).prop_map(
        |(path, entry, mode, owner, mtime, xattr)| Named {
            path,
            entry,
            mode,
            owner,
            mtime,
            xattr,
        },
    )
}

fn tar_of(entries: &[Named]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for named in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(named.mode);
        header.set_uid(named.owner);
        header.set_gid(named.owner / 2);
        header.set_mtime(named.mtime);
        header.set_size(0);
        let kind = match &named.entry {
            Entry::Directory => tar::EntryType::Directory,
            Entry::File(_) => tar::EntryType::Regular,
            Entry::Symlink(_) => tar::EntryType::Symlink,
            Entry::HardLink(_) => tar::EntryType::Link,
            Entry::Fifo => tar::EntryType::Fifo,
        };
        header.set_entry_type(kind);
        // The kernel supports `user.*` only for files and directories (xattr(7)).
        let plain = matches!(named.entry, Entry::Directory | Entry::File(_));
        if let Some(value) = named.xattr.as_ref().filter(|_| plain) {
            let extensions = [("SCHILY.xattr.user.overlay.opaque", &**value)];
            tar.append_pax_extensions(extensions).unwrap();
        }
        match &named.entry {
            Entry::Symlink(target) => tar.append_link(&mut header, &named.path, target),
            Entry::HardLink(target) => tar.append_link(&mut header, &named.path, target),
            Entry::File(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, &named.path, &**bytes)
            }
            _ => tar.append_data(&mut header, &named.path, &[][..]),
        }
        .unwrap();
    }
    tar.into_inner().unwrap()
}

/// A scratch directory on a disk with tars and their merged tree.
struct Image {
    directory: tempfile::TempDir,
    tars: Vec<File>,
    tree: Tree,
    devices: Vec<Device>,
}

impl Image {
    /// Creates an image from tars; `None` if the layers are refused.
    fn new(tars: &[Vec<u8>]) -> Option<Image> {
        let directory = tempfile::Builder::new()
            .prefix("imrun-test-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let mut layers = Vec::new();
        for tar in tars {
            layers.push(scan(&**tar, &Limits::default()).ok()?);
        }
        let devices = layers.iter().zip(tars).map(|(layer, tar)| Device {
            digest: Digest::sha256(tar),
            size: layer.size,
        });
        let devices = devices.collect();
        let mut tree = merge(layers).ok()?;
        synthesise(&mut tree).ok()?;
        let files = tars.iter().enumerate().map(|(number, tar)| {
            let path = directory.path().join(format!("{number}.tar"));
            fs::write(&path, tar).unwrap();
            File::open(path).unwrap()
        });
        let tars = files.collect();
        fs::create_dir(directory.path().join("root")).unwrap();
        fs::create_dir(directory.path().join("empty")).unwrap();
        Some(Image {
            directory,
            tars,
            tree,
            devices,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn model(&self) -> Model<'_> {
        Model {
            tree: &self.tree,
            tars: &self.tars,
            owners: Owners::ALL,
        }
    }

    fn top(&self) -> File {
        File::open(self.path("root")).unwrap()
    }

    fn unpack(&self) -> imrun::base::error::Result<()> {
        write(&self.model(), self.top().as_fd())
    }

    fn erofs(&self) -> OwnedFd {
        let path = self.path("tree.erofs");
        let mut file = File::create(&path).unwrap();
        erofs::write(&self.tree, &self.devices, &mut file).unwrap();
        let tars = self.tars.iter().map(|tar| tar.try_clone().unwrap());
        let sources = Sources {
            tree: File::open(path).unwrap(),
            tars: tars.collect(),
        };
        rootfs::mount(&sources).unwrap().mount
    }

    fn overlay(&self) -> OwnedFd {
        let context = mount::fsopen(c"overlay").unwrap();
        let layers = [self.path("root"), self.path("empty")].map(|path| path.display().to_string());
        let layers = CString::new(layers.join(":")).unwrap();
        mount::fsconfig_string(context.as_fd(), c"lowerdir", &layers).unwrap();
        mount::fsconfig_create(context.as_fd()).unwrap();
        mount::fsmount(context.as_fd(), mount::RDONLY).unwrap()
    }
}

/// Returns each path with everything that a process can find out about it. A symlink's mode is left out: the
/// kernel ignores it, and on a disk it is always 0777.
fn walk(top: &OwnedFd) -> BTreeMap<Vec<u8>, String> {
    let top = PathBuf::from(format!("/proc/self/fd/{}/.", top.as_raw_fd()));
    let (mut found, mut pending) = (BTreeMap::new(), vec![top.clone()]);
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    while let Some(path) = pending.pop() {
        let status = fs::symlink_metadata(&path).unwrap();
        let shown = path.as_os_str().as_bytes()[top.as_os_str().len()..].to_vec();
        let kind = status.file_type();
        if kind.is_dir() {
            let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap());
            pending.extend(entries.map(|entry| path.join(entry.file_name())));
        } else {
            let name = first.entry(status.ino()).or_insert_with(|| shown.clone());
            *name = (*name).clone().min(shown.clone());
        }
        found.insert(shown, (status, path));
    }
    let describe = |(shown, (status, path)): (Vec<u8>, (fs::Metadata, PathBuf))| {
        let text = describe(&status, &path, first.get(&status.ino()));
        (shown, text)
    };
    found.into_iter().map(describe).collect()
}

fn describe(status: &fs::Metadata, path: &Path, first: Option<&Vec<u8>>) -> String {
    let kind = status.file_type();
    let content = match () {
        _ if kind.is_dir() => String::new(),
        _ if kind.is_symlink() => format!("{:?}", fs::read_link(path).unwrap()),
        _ if kind.is_file() => Digest::sha256(&fs::read(path).unwrap()).to_string(),
        _ => format!("{:x}", status.rdev()),
    };
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut xattrs: Vec<_> = xattr::list(&path)
        .unwrap()
        .into_iter()
        .map(|name| {
            let value = xattr::get(&path, &CString::new(name.clone()).unwrap()).unwrap();
            (name, value)
        })
        .collect();
    xattrs.sort();
    let mode = if kind.is_symlink() {
        status.mode() | 0o7777
    } else {
        status.mode()
    };
    let owner = (status.uid(), status.gid());
    let time = (status.mtime(), status.mtime_nsec());
    let names = if kind.is_dir() { 0 } else { status.nlink() };
    format!("{mode:o} {owner:?} {time:?} {names} {first:?} {content} {xattrs:?}")
}

fn skips() -> bool {
    let why = match support::skip::missing() {
        Some(why) => Some(why),
        None if support::skip::is_unpacked() => Some("images are unpacked"),
        None => None,
    };
    static SAID: Once = Once::new();
    if let Some(why) = why {
        SAID.call_once(|| support::skip::skip(why));
    }
    why.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_drivers_show_the_same_root(layers in prop::collection::vec(prop::collection::vec(named(), 0..25), 1..4)) {
        if skips() {
            return Ok(());
        }
        // An entry that makes imrun refuse the image is left out.
        let mut taken: Vec<Vec<Named>> = Vec::new();
        for layer in layers {
            taken.push(Vec::new());
            for named in layer {
                taken.last_mut().unwrap().push(named);
                let tars: Vec<_> = taken.iter().map(|layer| tar_of(layer)).collect();
                if Image::new(&tars).is_none() {
                    taken.last_mut().unwrap().pop();
                }
            }
        }
        let tars: Vec<_> = taken.iter().map(|layer| tar_of(layer)).collect();
        let image = Image::new(&tars).unwrap();
        image.unpack().unwrap();
        compare(&image.model(), image.top().as_fd(), None).map(drop).unwrap();
        prop_assert_eq!(walk(&image.overlay()), walk(&image.erofs()));
        let mut around: Vec<_> = fs::read_dir(image.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        around.retain(|name| !name.to_string_lossy().ends_with(".tar"));
        around.sort();
        prop_assert_eq!(around, ["empty", "root", "tree.erofs"], "nothing is created elsewhere");
    }
}

fn plain(path: &str, entry: Entry) -> Named {
    Named {
        path: path.into(),
        entry,
        mode: 0o755,
        owner: 0,
        mtime: 1,
        xattr: None,
    }
}

#[test]
fn nothing_is_created_through_a_foreign_file_in_the_directory() {
    let image = Image::new(&[tar_of(&[plain("etc/file", Entry::File(b"new".into()))])]).unwrap();
    for in_the_way in ["etc", "dev"] {
        let outside = image.path("outside");
        fs::create_dir(&outside).unwrap();
        let link = image.path("root").join(in_the_way);
        symlink(&outside, &link).unwrap();
        image.unpack().unwrap_err();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        fs::remove_dir(outside).unwrap();
        fs::remove_dir_all(image.path("root")).unwrap();
        fs::create_dir(image.path("root")).unwrap();
    }
}

#[test]
fn files_written_just_now_are_compared_and_do_not_become_known() {
    if skips() {
        return;
    }
    let image = Image::new(&[tar_of(&[plain("etc/file", Entry::File(b"new".into()))])]).unwrap();
    // Only a run that began and ended within a second of the write is conclusive.
    let outcome = loop {
        fs::remove_dir_all(image.path("root")).unwrap();
        fs::create_dir(image.path("root")).unwrap();
        let written = Instant::now();
        image.unpack().unwrap();
        let still = |_: &File| Ok(());
        let outcome = compare(&image.model(), image.top().as_fd(), Some(still)).unwrap();
        if written.elapsed() < Duration::from_secs(1) {
            break outcome;
        }
    };
    let why = outcome.unwrap_err();
    assert!(why.contains("last 2 seconds"), "{why}");
}

/// Returns a tar whose entries have exactly these names.
fn raw_tar(entries: &[(u8, &str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, name, target) in entries {
        let mut header = tar::Header::new_ustar();
        let fields = header.as_ustar_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(0o6777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        if *kind == b'3' || *kind == b'4' {
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
        }
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Kind, name and target of an entry; `@` is the directory outside.
type Raw = (u8, &'static str, &'static str);

/// Images whose layers try to reach files outside.
const HOSTILE: &[&[&[Raw]]] = &[
    // Names with .. or a leading slash.
    &[&[(b'0', "../outside/a", "")]],
    &[&[(b'0', "a/../../outside/a", "")]],
    &[&[(b'0', "@/a", "")]],
    &[&[(b'5', "../../../../../../../../tmp/imrun-hostile", "")]],
    &[&[(b'0', "..", "")]],
    &[&[(b'2', ".", "@")]],
    &[&[(b'2', "/", "@")]],
    // A file beneath a symlink of its own layer or of the one below.
    &[&[(b'2', "link", "@"), (b'0', "link/a", "")]],
    &[&[(b'2', "link", "@")], &[(b'0', "link/a", "")]],
    &[
        &[(b'2', "link", "../../../outside")],
        &[(b'5', "link/a/b", "")],
    ],
    &[&[(b'2', "a", "b"), (b'2', "b", "@")], &[(b'2', "a/c", "x")]],
    &[
        &[(b'5', "d", "")],
        &[(b'2', "d", "@")],
        &[(b'0', "d/a", "")],
    ],
    // A symlink at a place where the runtime creates files.
    &[&[(b'2', "dev", "@")]],
    &[&[(b'2', "proc", "@")]],
    &[&[(b'2', "sys", "../../outside")]],
    &[&[(b'2', "etc", "@")]],
    &[&[
        (b'5', "etc", ""),
        (b'2', "etc/hosts", "@/a"),
        (b'2', "etc/resolv.conf", "@/a"),
    ]],
    &[&[
        (b'5', "dev", ""),
        (b'2', "dev/null", "@/a"),
        (b'2', "dev/pts", "@"),
    ]],
    // Hard links out of the root, or through symlinks.
    &[&[(b'1', "a", "@/file")]],
    &[&[(b'1', "a", "../../outside/file")]],
    &[&[(b'1', "a", "/etc/passwd")]],
    &[&[(b'2', "link", "@")], &[(b'1', "a", "link/file")]],
    &[&[(b'2', "link", "@/file"), (b'1', "a", "link")]],
    // Whiteouts of files beneath a symlink, or outside the root.
    &[&[(b'2', "link", "@")], &[(b'0', "link/.wh.file", "")]],
    &[&[(b'2', "link", "@")], &[(b'0', "link/.wh..wh..opq", "")]],
    &[&[(b'0', ".wh..", "")]],
    &[&[(b'0', ".wh...", "")]],
    &[&[(b'0', "../.wh.outside", "")]],
    // Devices, and a hard link to one.
    &[&[
        (b'4', "disk", ""),
        (b'1', "again", "disk"),
        (b'3', "memory", ""),
    ]],
];

/// Returns every path beneath a directory with attributes that show a change.
fn listing(top: &Path) -> BTreeMap<PathBuf, (u32, u64, u64, i64)> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(path) = pending.pop() {
        let status = fs::symlink_metadata(&path).unwrap();
        if status.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let what = (
            status.mode(),
            status.nlink(),
            status.len(),
            status.ctime_nsec(),
        );
        found.insert(path, what);
    }
    found
}

#[test]
fn no_image_creates_or_changes_anything_outside_its_directory() {
    let host = match support::host::Host::new() {
        Ok(host) => host,
        Err(why) => return support::skip::skip(why),
    };
    let outside = host.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "file").unwrap();
    let (before, passwd) = (listing(&outside), fs::metadata("/etc/passwd").unwrap());
    let program = {
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = File::open(support::host::BUSYBOX).unwrap();
        tar.append_file("busybox", &mut file).unwrap();
        tar.into_inner().unwrap()
    };
    let mut launched = 0;
    for (number, layers) in HOSTILE.iter().enumerate() {
        let at = |text: &str| text.replace('@', outside.to_str().unwrap());
        let tar = |layer: &&[Raw]| {
            let entries: Vec<_> = layer
                .iter()
                .map(|(k, name, to)| (*k, at(name), at(to)))
                .collect();
            let entries = entries
                .iter()
                .map(|(kind, name, to)| (*kind, &**name, &**to));
            raw_tar(&entries.collect::<Vec<_>>())
        };
        let tars: Vec<_> = std::iter::once(program.clone())
            .chain(layers.iter().map(tar))
            .collect();
        let tars: Vec<_> = tars.iter().map(|tar| &**tar).collect();
        let layout = support::layout::Layout::new(host.path(&format!("image-{number}")));
        layout.publish_image(&tars, support::layout::Packing::Plain);
        let imported = host.imrun(["import", &layout.source()]);
        if imported.code == 0 {
            let options = ["--driver", "overlay", "--entrypoint", "/busybox"];
            let shown = host
                .launch_of(&imported.line())
                .options(options)
                .app(["true"]);
            shown.run().exits(0);
            launched += 1;
        }
        assert_eq!(listing(&outside), before, "{layers:?}");
    }
    assert!(
        launched >= 10,
        "some of the images are harmless and run: {launched}"
    );
    assert!(!Path::new("/tmp/imrun-hostile").exists());
    assert_eq!(fs::metadata("/etc/passwd").unwrap().nlink(), passwd.nlink());
    let mut roots = fs::read_dir(host.path("store/roots")).unwrap();
    assert!(roots.all(|root| {
        let name = root.unwrap().file_name().into_string().unwrap();
        name.ends_with(".all") || name.ends_with(".1-1")
    }));
}

#[test]
fn a_hole_of_a_tebibyte_is_compared_quickly_and_a_byte_in_it_is_found() {
    // GNU tar's sparse format 1.0: a map precedes the data.
    let mut map = b"1\n1099511627776\n0\n".to_vec();
    map.resize(512, 0);
    let mut tar = tar::Builder::new(Vec::new());
    let extensions = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"huge"),
        ("GNU.sparse.realsize", b"1099511627776"),
    ];
    tar.append_pax_extensions(extensions).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(map.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "huge", &*map).unwrap();
    let image = Image::new(&[tar.into_inner().unwrap()]).unwrap();
    if support::skip::without_root("an ordinary user may not create a file of a tebibyte") {
        return;
    }
    image.unpack().unwrap();
    compare(&image.model(), image.top().as_fd(), None)
        .map(drop)
        .unwrap();
    let path = image.path("root/huge");
    let before = fs::metadata(&path).unwrap();
    assert_eq!(before.len(), 1 << 40);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 1 << 39).unwrap();
    set_time(&path, before.mtime(), before.mtime_nsec());
    let error = compare(&image.model(), image.top().as_fd(), None).unwrap_err();
    assert!(error.why.contains("hole"), "{error}");
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = TimeSpec::new(seconds, nanoseconds);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
}

/// Makes a change and restores the times of the file and of its directory.
fn unnoticed(path: &Path, change: impl FnOnce(&Path)) {
    let parent = path.parent().unwrap();
    let times = [path, parent].map(|path| {
        fs::symlink_metadata(path)
            .ok()
            .map(|m| (m.mtime(), m.mtime_nsec()))
    });
    change(path);
    for (path, time) in [path, parent].into_iter().zip(times) {
        if let (Some((seconds, nanoseconds)), true) = (time, path.symlink_metadata().is_ok()) {
            set_time(path, seconds, nanoseconds);
        }
    }
}

/// Returns a path next to the store, on its file system.
fn aside(path: &Path, name: &str) -> PathBuf {
    let store = path.ancestors().find(|path| path.ends_with("store"));
    store.unwrap().with_file_name(name)
}

fn remove_if_there(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    }
}

/// Replaces a directory with a copy that has the same times, but in which `name` has another byte.
fn exchange_for_a_changed_copy(path: &Path, name: &str) {
    let (copy, old) = (aside(path, "copy"), aside(path, "old"));
    remove_if_there(&old);
    let copied = Command::new("cp").arg("-a").args([path, &copy]).status();
    assert!(copied.unwrap().success());
    unnoticed(&copy.join(name), |path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"N", 0).unwrap();
    });
    fs::rename(path, old).unwrap();
    fs::rename(copy, path).unwrap();
}

type Change = (&'static str, &'static str, fn(&Path));

/// Changes that an ordinary user cannot make.
const OF_ROOT: [&str; 4] = [
    "another owner",
    "another group of the root",
    "a trusted xattr",
    "replaced with a device",
];

/// Changes without restored times; the paths are relative to the directory of `root` and `empty`.
const OPEN_CHANGES: &[Change] = &[
    ("another time", "root/etc/notes", |path| {
        let status = fs::metadata(path).unwrap();
        set_time(path, status.mtime(), status.mtime_nsec() ^ 1);
    }),
    ("another time of a directory", "root/etc", |path| {
        set_time(path, 1, 0);
    }),
    ("another time of a symlink", "root/bin/cat", |path| {
        set_time(path, 1, 0);
    }),
    (
        "replaced with a symlink to the directory",
        "root/etc",
        |path| {
            fs::rename(path, aside(path, "moved")).unwrap();
            symlink(aside(path, "moved"), path).unwrap();
        },
    ),
    ("a changed copy of the files", "root", |path| {
        exchange_for_a_changed_copy(path, "etc/notes");
    }),
    ("a changed copy of all of it", "", |path| {
        exchange_for_a_changed_copy(path, "root/etc/notes");
    }),
    ("a symlink to the files", "root", |path| {
        let old = aside(path, "old");
        remove_if_there(&old);
        fs::rename(path, &old).unwrap();
        symlink(old, path).unwrap();
    }),
    ("the files removed", "root", remove_if_there),
    ("the empty directory removed", "empty", remove_if_there),
    ("a file in the empty directory", "empty/more", |path| {
        fs::write(path, "more").unwrap();
    }),
    ("a third directory", "more", |path| {
        fs::create_dir(path).unwrap();
    }),
];

/// Changes beneath `root` with restored times; `bin/busybox` and `etc/notes` are files of the test image.
const CHANGES: &[Change] = &[
    ("edited", "etc/notes", |path| {
        OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .write_all(b"N")
            .unwrap();
    }),
    ("longer", "etc/notes", |path| {
        OpenOptions::new()
            .append(true)
            .open(path)
            .unwrap()
            .write_all(b"x")
            .unwrap();
    }),
    ("cut", "bin/busybox", |path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    }),
    ("added", "etc/more", |path| fs::write(path, "more").unwrap()),
    ("added, by a name that sorts last", "zzz", |path| {
        fs::write(path, "more").unwrap()
    }),
    ("a directory added", "etc/more", |path| {
        fs::create_dir(path).unwrap()
    }),
    ("removed", "etc/notes", |path| {
        fs::remove_file(path).unwrap()
    }),
    ("another file renamed over it", "etc/notes", |path| {
        let other = aside(path, "other");
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(&other, bytes).unwrap();
        fs::set_permissions(&other, fs::metadata(path).unwrap().permissions()).unwrap();
        fs::rename(other, path).unwrap();
    }),
    ("swapped with another file", "etc/passwd", |path| {
        let (other, aside) = (path.with_file_name("group"), aside(path, "other"));
        fs::rename(&other, &aside).unwrap();
        fs::rename(path, &other).unwrap();
        fs::rename(aside, path).unwrap();
    }),
    ("another mode", "etc/notes", |path| {
        fs::set_permissions(path, Permissions::from_mode(0o4755)).unwrap()
    }),
    ("another mode of a directory", "etc", |path| {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap()
    }),
    ("another owner", "etc/notes", |path| {
        std::os::unix::fs::chown(path, Some(1), None).unwrap()
    }),
    ("another group of the root", "", |path| {
        std::os::unix::fs::chown(path, None, Some(1)).unwrap()
    }),
    ("an xattr", "etc/notes", |path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        xattr::set(&path, c"user.more", b"x").unwrap();
    }),
    ("a trusted xattr", "etc", |path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        xattr::set(&path, c"trusted.overlay.opaque", b"y").unwrap();
    }),
    ("replaced with a symlink", "etc/notes", |path| {
        fs::rename(path, path.with_file_name("../../../../notes")).unwrap();
        symlink("/etc/passwd", path).unwrap();
    }),
    ("a symlink to another target", "bin/cat", |path| {
        fs::remove_file(path).unwrap();
        symlink("orphan", path).unwrap();
    }),
    ("replaced with a fifo", "etc/notes", |path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    }),
    (
        "replaced with a hard link to another file",
        "etc/notes",
        |path| {
            fs::remove_file(path).unwrap();
            fs::hard_link(path.with_file_name("passwd"), path).unwrap();
        },
    ),
    ("replaced with a device", "etc/notes", |path| {
        fs::remove_file(path).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
        let null = nix::sys::stat::makedev(1, 3);
        nix::sys::stat::mknod(path, nix::sys::stat::SFlag::S_IFCHR, mode, null).unwrap();
    }),
    ("a second hard link", "etc/notes", |path| {
        fs::hard_link(path, path.with_file_name("../../../../second")).unwrap();
    }),
];

#[test]
fn every_kind_of_change_is_refused_at_the_next_launch_and_repaired_by_an_import() {
    let host = match support::host::Host::new() {
        Ok(host) => host,
        Err(why) => return support::skip::skip(why),
    };
    let launch = |level: &str| {
        let options = ["--driver", "overlay", "--integrity", level];
        host.launch().options(options).script("echo ran").run()
    };
    let is_root = nix::unistd::geteuid().is_root();
    let unnoticed = CHANGES.iter().map(|change| (true, change));
    let changes = unnoticed.chain(OPEN_CHANGES.iter().map(|change| (false, change)));
    for (hides, (what, path, change)) in changes {
        if OF_ROOT.contains(what) && !is_root {
            continue;
        }
        assert_eq!(launch("auto").exits(0).out, "ran\n", "{what}");
        let roots = fs::read_dir(host.path("store/roots")).unwrap();
        let unpacked = roots.map(|entry| entry.unwrap().path()).next().unwrap();
        if hides {
            self::unnoticed(&unpacked.join("root").join(path), change)
        } else {
            change(&unpacked.join(path))
        }
        for level in ["auto", "known", "hashed"] {
            launch(level).refused("unpacked").because("digest");
        }
        let verified = host.imrun(["verify"]).exits(1);
        assert!(verified.out.contains("DIFFERS"), "{what}: {verified:?}");
        host.bake_again();
        let left = fs::read_dir(host.path("store/roots")).unwrap();
        assert_eq!(left.count(), 0, "{what}");
    }
    launch("auto").exits(0);
    host.imrun(["verify"]).exits(0);
}

#[test]
fn unchanged_files_are_known_until_one_is_changed() {
    let host = match support::host::Host::new() {
        Ok(host) => host,
        Err(why) => return support::skip::skip(why),
    };
    let runtime = host.path("run");
    fs::create_dir(&runtime).unwrap();
    let launch = |level: &str| {
        let options = ["--driver", "overlay", "--integrity", level];
        let launch = host.launch().options(options).script("echo ran");
        let outcome = launch.environment("XDG_RUNTIME_DIR", &runtime).run();
        let verified = outcome
            .events
            .iter()
            .find(|event| event["event"] == "verified");
        let said = verified.map(|event| (event["integrity"].clone(), event["memo"].clone()));
        (outcome, said)
    };
    let holds = |level: &str, held: &str, memo: &str| {
        let (outcome, said) = launch(level);
        outcome.exits(0);
        let (integrity, found) = said.unwrap();
        assert_eq!(integrity, held);
        assert!(found.as_str().unwrap().starts_with(memo), "{found}");
    };
    holds("auto", "hashed", "none: ");
    std::thread::sleep(Duration::from_secs(3));
    holds("auto", "hashed", "made");
    holds("auto", "known", "fits");
    holds("hashed", "hashed", "made");
    let roots = fs::read_dir(host.path("store/roots")).unwrap();
    let unpacked = roots.map(|entry| entry.unwrap().path()).next().unwrap();
    unnoticed(&unpacked.join("root/etc/notes"), |path| {
        OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .write_all(b"N")
            .unwrap();
    });
    for level in ["auto", "known"] {
        launch(level)
            .0
            .refused("unpacked /etc/notes")
            .because("digest");
    }
}

#[test]
fn a_removed_image_leaves_no_files() {
    let host = match support::host::Host::new() {
        Ok(host) => host,
        Err(why) => return support::skip::skip(why),
    };
    let mut app = host
        .launch()
        .options(["--driver", "overlay"])
        .interactive()
        .script("echo up; read line")
        .spawn();
    app.expect_line("up");
    let left = || fs::read_dir(host.path("store/roots")).unwrap().count();
    // Another runtime directory does not list the container: only its lock protects the files.
    let mut elsewhere = Command::new(support::host::IMRUN);
    elsewhere.arg("--store").arg(host.path("store"));
    elsewhere.arg("--root").arg(host.path("elsewhere"));
    let removed = elsewhere.args(["rm", host.busybox()]).output().unwrap();
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(left(), 1, "a container runs on it");
    app.wait().exits(1);
    // Remnants of a killed writer.
    fs::create_dir_all(host.path("store/roots/.new-1-0/root/a")).unwrap();
    host.imrun(["gc"]).exits(0);
    assert_eq!(left(), 0);
}

/// A launch briefly mounts the layers at the place where it later removes its own files.
#[test]
fn unpacked_files_do_not_change_however_a_launch_ends() {
    let host = match support::host::Host::new() {
        Ok(host) => host,
        Err(why) => return support::skip::skip(why),
    };
    let launch = || host.launch().options(["--driver", "overlay"]);
    launch().script("true").run().exits(0);
    let unpacked = || {
        let mut files = Vec::new();
        names_below(&host.path("store/roots"), &mut files);
        files
    };
    let before = unpacked();
    assert!(before.len() > 100, "{before:?}");
    launch().app(["/none"]).run().exits(127);
    launch()
        .sink("es+http://127.0.0.1:1")
        .script("true")
        .run()
        .exits(125);
    launch().script("kill -KILL 1; exit 3").run();
    launch().script("exit 3").run().exits(3);
    let app = launch().interactive().script("echo up; read line").spawn();
    app.signal(nix::sys::signal::Signal::SIGKILL);
    app.wait();
    host.sweep();
    assert_eq!(unpacked(), before);
    launch().script("true").run().exits(0);
}

/// The unpacked files may include set-user-ID programs.
#[test]
fn unpacked_files_are_used_only_if_no_other_user_can_enter() {
    let host = match support::host::Host::new() {
        Ok(host) => host,
        Err(why) => return support::skip::skip(why),
    };
    if support::skip::without_root("the test changes the owner of a directory") {
        return;
    }
    let launch = || {
        host.launch()
            .options(["--driver", "overlay"])
            .script("echo ran")
            .run()
    };
    launch().exits(0).prints("ran\n");
    let roots = host.path("store/roots");
    std::os::unix::fs::chown(&roots, Some(1000), None).unwrap();
    launch().refused("store/roots").because("policy");
    std::os::unix::fs::chown(&roots, Some(0), None).unwrap();
    launch().exits(0).prints("ran\n");
}

/// Returns all names in a directory, sorted.
fn names_below(directory: &Path, names: &mut Vec<PathBuf>) {
    let list = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.symlink_metadata().unwrap().is_dir() {
            names_below(&path, names);
        }
        names.push(path);
    }
}

#[test]
fn levels_without_support_for_unpacked_images_are_refused_and_named() {
    let host = match support::host::Host::new() {
        Ok(host) => host,
        Err(why) => return support::skip::skip(why),
    };
    for level in ["sealed", "verity"] {
        let options = ["--driver", "overlay", "--integrity", level];
        let refused = host.launch().options(options).script("echo ran").run();
        refused
            .refused(&format!("--integrity {level}"))
            .because("unsupported");
    }
}
