//! A changed byte in any file is refused at the next launch, at every level and however it was changed.

use super::lab::{Image, Lab, can_launch, without_unpacked};
use super::skip::is_unpacked;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A whole file mapped for writing.
pub struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    /// Maps the file and closes its descriptor, so that only the mapping remains.
    pub fn new(path: &Path) -> Mapping {
        let file = writable(path);
        let length = file.metadata().unwrap().len() as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping of a whole file, at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                none,
                length,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        Mapping {
            start: start.cast(),
            length,
        }
    }

    /// Flips the given bits of the byte in the middle.
    pub fn flip(&self, bits: u8) {
        // SAFETY: the middle is in the mapping, which exists as long as `self`.
        unsafe {
            let middle = self.start.add(self.length / 2);
            middle.write_volatile(middle.read_volatile() ^ bits);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing else refers to the mapping.
        assert_eq!(unsafe { libc::munmap(self.start.cast(), self.length) }, 0);
    }
}

/// Opens a file for writing; an ordinary user first gets write permission and then drops it again.
fn writable(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    options.open(path).unwrap_or_else(|_| {
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        let file = options.open(path).unwrap();
        fs::set_permissions(path, before).unwrap();
        file
    })
}

fn flip_byte(file: &File) {
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

fn put_times_back(path: &Path, of: &fs::Metadata) {
    let [accessed, modified] = [
        TimeSpec::new(of.atime(), of.atime_nsec()),
        TimeSpec::new(of.mtime(), of.mtime_nsec()),
    ];
    let follow = UtimensatFlags::FollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, path, &accessed, &modified, follow).unwrap();
}

/// Returns a path next to the store.
fn aside(path: &Path, extension: &str) -> PathBuf {
    let store = path.ancestors().find(|path| path.ends_with("store"));
    store.unwrap().with_extension(extension)
}

/// Makes a copy with a changed byte and the same times.
fn changed_copy(path: &Path) -> PathBuf {
    let copy = aside(path, "changed");
    fs::copy(path, &copy).unwrap();
    flip_byte(&writable(&copy));
    put_times_back(&copy, &fs::metadata(path).unwrap());
    copy
}

/// An open file or mapping from before the launch that hashed the file.
enum Held {
    Descriptor(File),
    Mapping(Mapping),
}

/// A way to change a known file.
enum Attack {
    /// Changes the file by its path, immediately.
    Path(fn(&Path)),
    /// Changes the file through a descriptor or mapping from before the hashing; such a file never
    /// becomes known.
    Held(fn(&Path) -> Held),
    /// Mounts over the file for the launch only: shell commands for the file and a changed copy.
    Mount(fn(&Path) -> String),
}

const ATTACKS: [(&str, Attack); 14] = [
    (
        "written in place",
        Attack::Path(|path| flip_byte(&writable(path))),
    ),
    (
        "written through a new mapping",
        Attack::Path(|path| Mapping::new(path).flip(1)),
    ),
    (
        "written, and the times restored",
        Attack::Path(|path| {
            let before = fs::metadata(path).unwrap();
            flip_byte(&writable(path));
            put_times_back(path, &before);
        }),
    ),
    (
        "another file renamed over it",
        Attack::Path(|path| {
            fs::rename(changed_copy(path), path).unwrap();
        }),
    ),
    (
        "replaced with a hard link to another file",
        Attack::Path(|path| {
            let other = changed_copy(path);
            fs::remove_file(path).unwrap();
            fs::hard_link(other, path).unwrap();
        }),
    ),
    (
        "replaced with a symbolic link to another file",
        Attack::Path(|path| {
            let other = changed_copy(path);
            fs::remove_file(path).unwrap();
            symlink(other, path).unwrap();
        }),
    ),
    (
        "replaced with a symbolic link to itself, moved",
        Attack::Path(|path| {
            let moved = aside(path, "moved");
            fs::rename(path, &moved).unwrap();
            symlink(moved, path).unwrap();
        }),
    ),
    (
        "truncated",
        Attack::Path(|path| {
            let file = writable(path);
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
    ),
    (
        "truncated and extended to the same size",
        Attack::Path(|path| {
            let file = writable(path);
            let length = file.metadata().unwrap().len();
            file.set_len(0).unwrap();
            file.set_len(length).unwrap();
        }),
    ),
    (
        "a hole punched",
        Attack::Path(|path| {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let length = fs::metadata(path).unwrap().len() as i64;
            fallocate(writable(path), hole, 0, length).unwrap();
        }),
    ),
    (
        "written by an open descriptor",
        Attack::Held(|path| Held::Descriptor(writable(path))),
    ),
    (
        "written through a mapping with dirty pages",
        Attack::Held(|path| {
            let (before, mapping) = (fs::metadata(path).unwrap(), Mapping::new(path));
            mapping.flip(1);
            mapping.flip(1);
            put_times_back(path, &before);
            Held::Mapping(mapping)
        }),
    ),
    (
        "another file mounted over it",
        Attack::Mount(|path| {
            let other = changed_copy(path);
            format!("mount --bind '{}' '{}'", other.display(), path.display())
        }),
    ),
    (
        "another directory mounted over its own",
        Attack::Mount(|path| {
            let (directory, name) = (path.parent().unwrap(), path.file_name().unwrap());
            let other = aside(path, "other");
            let copied = Command::new("cp")
                .arg("-a")
                .args([directory, &other])
                .status();
            assert!(copied.unwrap().success());
            fs::rename(changed_copy(path), other.join(name)).unwrap();
            format!(
                "mount --bind '{}' '{}'",
                other.display(),
                directory.display()
            )
        }),
    ),
];

fn refused_everywhere(lab: &Lab, how: &str, name: &str, script: &str) {
    // An error for a tree image names the digest of its layers.
    let name = match name.starts_with('/') {
        // The error may name the file's directory or the top one.
        true => "unpacked ",
        false => name.trim_end_matches(".erofs"),
    };
    let levels = ["auto", "known", "hashed", "sealed"];
    let count = if is_unpacked() { 3 } else { 4 };
    for level in &levels[..count] {
        let outcome = lab.launch_after(script, level, &["true"]);
        assert_eq!(outcome.code, 125, "{name}, {how}, {level}: {outcome:?}");
        outcome.refused(name).because("digest");
    }
}

fn attack(lab: &Lab, name: &str, how: &str, attack: &Attack, held: Option<Held>) {
    let path = lab.object(name);
    match (attack, held) {
        (Attack::Path(change), _) => change(&path),
        (Attack::Held(_), Some(Held::Descriptor(file))) => flip_byte(&file),
        (Attack::Held(_), Some(Held::Mapping(mapping))) => mapping.flip(1),
        (Attack::Held(_), None) => unreachable!("it was opened before"),
        (Attack::Mount(script), _) => {
            let script = script(&path);
            return refused_everywhere(lab, how, name, &script);
        }
    }
    refused_everywhere(lab, how, name, "true");
}

/// `covered` is true for files that memos cover. Documents are hashed at every launch.
fn attack_in_every_way(object: fn(&Image) -> &str, covered: bool) {
    if !can_launch() {
        return;
    }
    let open = |attack: &Attack, path: &Path| match attack {
        Attack::Held(open) => Some(open(path)),
        Attack::Path(_) | Attack::Mount(_) => None,
    };
    let labs: Vec<_> = ATTACKS
        .iter()
        .map(|(how, attack)| {
            let lab = Lab::new();
            let held = open(attack, &lab.object(object(lab.image())));
            (lab, how, attack, held)
        })
        .collect();
    // All labs wait at the same time until their files are old enough to be known.
    for (lab, how, way, held) in labs {
        if covered && held.is_some() {
            lab.settle();
            let why = "none: ";
            let outcome = lab.launch("auto", &["true"]).holds("hashed", why);
            assert!(
                format!("{outcome:?}").contains("open for writing"),
                "{outcome:?}"
            );
        } else {
            lab.make_known();
        }
        attack(&lab, object(lab.image()), how, way, held);
    }
}

#[test]
fn a_layer_changed_in_any_way_is_refused() {
    attack_in_every_way(|image| &image.layer, true);
}

#[test]
fn a_tree_image_changed_in_any_way_is_refused() {
    attack_in_every_way(|image| &image.tree, true);
}

#[test]
fn an_unpacked_file_changed_in_any_way_is_refused() {
    if !without_unpacked() {
        attack_in_every_way(|_| "/data", true);
    }
}

#[test]
fn a_config_changed_in_any_way_is_refused() {
    attack_in_every_way(|image| &image.config, false);
}

#[test]
fn a_manifest_changed_in_any_way_is_refused() {
    attack_in_every_way(|image| &image.manifest, false);
}

/// Kernel behaviour because of which a memo needs fsync(2) and a lease: the inode's times alone do not
/// suffice.
#[test]
fn a_dirty_page_is_written_without_a_new_ctime_until_it_is_synced() {
    let named = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    fs::write(named.path(), [0; 8192]).unwrap();
    let ctime = || {
        // Longer than the granularity of inode times.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let metadata = fs::metadata(named.path()).unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let mapping = Mapping::new(named.path());
    // If a sync(2) of another process cleans the page between the two writes, the second one is visible.
    let untold = (0..50).any(|_| {
        mapping.flip(1);
        let dirty = ctime();
        mapping.flip(1);
        ctime() == dirty
    });
    assert!(
        untold,
        "this kernel updates the ctime: the rule may be relaxed"
    );
    named.as_file().sync_all().unwrap();
    let clean = ctime();
    mapping.flip(1);
    assert_ne!(ctime(), clean);
}
