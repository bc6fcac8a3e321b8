//! Files of the runtime.

use super::*;

fn synthesised<const N: usize>(layers: [Tar; N]) -> Tree {
    let mut tree = merged(layers);
    synthesise(&mut tree).unwrap();
    tree
}

#[test]
fn the_runtime_owns_its_mount_points_devices_and_placeholders() {
    let own = [
        "- dev/",
        "- dev/fd -> /proc/self/fd",
        "- dev/full 1,7",
        "- dev/null 1,3",
        "- dev/random 1,8",
        "- dev/stderr -> /proc/self/fd/2",
        "- dev/stdin -> /proc/self/fd/0",
        "- dev/stdout -> /proc/self/fd/1",
        "- dev/tty 5,0",
        "- dev/urandom 1,9",
        "- dev/zero 1,5",
        "- etc/",
        "- etc/hostname 0:0",
        "- etc/hosts 0:0",
        "- etc/resolv.conf 0:0",
        "- proc/",
        "- sys/",
        "- sys/fs/",
        "- sys/fs/cgroup/",
    ];
    let tree = synthesised([]);
    assert_eq!(listing(&tree), own);
    for (path, entry) in tree.walk() {
        let meta = &tree.inode(entry.inode).meta;
        let mode = match &tree.inode(entry.inode).content {
            Content::Directory(_) => 0o755,
            Content::Device { .. } => 0o666,
            Content::Symlink(_) => 0o777,
            _ => 0o644,
        };
        assert_eq!(
            *meta,
            Meta {
                mode,
                ..Meta::default()
            },
            "{path:?}"
        );
    }
    assert_eq!(
        listing(&synthesised([t()
            .file("dev/evil", b"")
            .directory("dev/shm")])),
        own
    );
}

#[test]
fn the_images_own_files_are_kept_instead_of_placeholders() {
    let tar = t()
        .file("etc/hosts", b"1")
        .file("run/resolv", b"22")
        .symlink("etc/resolv.conf", "../run/resolv");
    let tree = synthesised([tar.directory("etc/hostname")]);
    let is = |path: &str| line(&tree, b"", tree.lookup(path.as_bytes(), false).unwrap());
    assert_eq!(is("etc/hosts"), "0  0:1");
    assert_eq!(is("etc/resolv.conf"), "0  -> ../run/resolv");
    assert_eq!(is("etc/hostname"), "-  0:0");
}

#[test]
fn a_placeholder_replaces_a_symlink_without_a_target() {
    for target in [
        "/run/gone",
        "resolv.conf",
        "/proc/mounts",
        "/dev/null",
        "../sys",
    ] {
        let tree = synthesised([t().symlink("etc/resolv.conf", target).directory("run")]);
        let entry = tree.lookup(b"etc/resolv.conf", false).unwrap();
        assert_eq!(line(&tree, b"", entry), "-  0:0", "{target}");
    }
}

#[test]
fn placeholders_go_to_the_directory_that_etc_is_a_symlink_to() {
    let tree = synthesised([t().symlink("etc", "usr/etc")]);
    assert!(tree.lookup(b"usr/etc/hosts", false).is_some());
    let mut loops = merged([t().symlink("etc", "etc")]);
    assert!(synthesise(&mut loops).unwrap_err().why.contains("loop"));
}
