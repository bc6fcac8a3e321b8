#![allow(clippy::unwrap_used)]

mod model;
mod own;

use super::*;
use crate::base::error::Reason;
use crate::image::layer::sample::{Tar, put};

fn merged<const N: usize>(layers: [Tar; N]) -> Tree {
    merge(layers.map(Tar::layer)).unwrap()
}

fn refused<const N: usize>(layers: [Tar; N]) -> String {
    let error = merge(layers.map(Tar::layer)).map(|tree| panic!("taken: {:?}", listing(&tree)));
    error.unwrap_err().to_string()
}

/// Returns a line for each path except the root: layer, kind, path and target.
fn listing(tree: &Tree) -> Vec<String> {
    tree.walk()
        .skip(1)
        .map(|(path, entry)| line(tree, &path, entry))
        .collect()
}

fn line(tree: &Tree, path: &[u8], entry: Dirent) -> String {
    let layer = entry
        .layer
        .map_or("-".to_string(), |layer| layer.to_string());
    let path = String::from_utf8_lossy(path);
    match &tree.inode(entry.inode).content {
        Content::Directory(_) => format!("{layer} {path}/"),
        Content::File {
            layer: data, size, ..
        } => format!("{layer} {path} {data}:{size}"),
        Content::Sparse { .. } => format!("{layer} {path} sparse"),
        Content::Symlink(target) => {
            format!("{layer} {path} -> {}", String::from_utf8_lossy(target))
        }
        Content::Fifo => format!("{layer} {path}|"),
        Content::Device { major, minor } => format!("{layer} {path} {major},{minor}"),
        Content::Dropped => panic!("{path} is a name of nothing"),
    }
}

fn t() -> Tar {
    Tar::new()
}

#[test]
fn files_of_an_upper_layer_replace_those_below() {
    let tree = merged([t().file("a", b"1").file("b", b"1"), t().file("b", b"22")]);
    assert_eq!(listing(&tree), ["0 a 0:1", "1 b 1:2"]);
}

#[test]
fn the_last_of_duplicate_entries_in_a_layer_wins() {
    let tree = merged([t()
        .file("a", b"1")
        .file("a", b"22")
        .symlink("b", "x")
        .file("b", b"")]);
    assert_eq!(listing(&tree), ["0 a 0:2", "0 b 0:0"]);
}

#[test]
fn missing_parents_become_plain_directories() {
    let tree = merged([t().file("a/b/c", b"")]);
    assert_eq!(listing(&tree), ["0 a/", "0 a/b/", "0 a/b/c 0:0"]);
    let meta = &tree.inode(tree.lookup(b"a/b", false).unwrap().inode).meta;
    assert_eq!(
        *meta,
        Meta {
            mode: 0o755,
            ..Meta::default()
        }
    );
    let described = merged([t().file("a/b", b"").directory("a")]);
    let meta = &described
        .inode(described.lookup(b"a", false).unwrap().inode)
        .meta;
    assert_eq!((meta.mode, meta.uid), (0o711, 1000));
}

#[test]
fn a_directory_over_a_directory_replaces_its_attributes_only() {
    let lower = t()
        .raw(b'5', "d", "", b"", |h| put(h, 100, b"0000700\0"))
        .file("d/f", b"");
    let tree = merged([lower, t().directory("d")]);
    assert_eq!(listing(&tree), ["1 d/", "0 d/f 0:0"]);
    assert_eq!(
        tree.inode(tree.lookup(b"d", false).unwrap().inode)
            .meta
            .mode,
        0o711
    );
}

#[test]
fn an_entry_for_the_root_sets_its_attributes() {
    let tree = merged([t().directory("./"), t().file("f", b"")]);
    assert_eq!(tree.inode(InodeId::ROOT).meta.mode, 0o711);
    assert_eq!(merged([]).inode(InodeId::ROOT).meta.mode, 0o755);
}

#[test]
fn a_file_over_a_directory_and_the_reverse_replace_each_other() {
    let lower = || t().file("d/deep/f", b"").file("f", b"");
    let tree = merged([lower(), t().file("d", b"1").file("f/inside", b"")]);
    assert_eq!(listing(&tree), ["1 d 1:1", "1 f/", "1 f/inside 1:0"]);
    let tree = merged([lower(), t().symlink("d", "f").directory("f")]);
    assert_eq!(listing(&tree), ["1 d -> f", "1 f/"]);
}

#[test]
fn a_parent_that_is_a_symlink_of_the_same_layer_is_followed_inside_the_root() {
    let tree = merged([t()
        .directory("usr/bin")
        .symlink("bin", "usr/bin")
        .symlink("abs", "/usr/bin")
        .file("bin/a", b"")
        .file("abs/b", b"")]);
    let expected = [
        "0 abs -> /usr/bin",
        "0 bin -> usr/bin",
        "0 usr/",
        "0 usr/bin/",
        "0 usr/bin/a 0:0",
        "0 usr/bin/b 0:0",
    ];
    assert_eq!(listing(&tree), expected);
}

/// As under overlayfs, where each layer is unpacked alone: docs/image-formats.md.
#[test]
fn a_directory_replaces_a_lower_layers_symlink_of_the_same_name() {
    let lower = || t().file("b/x", b"").symlink("a", "b");
    let same = ["0 b/", "0 b/x 0:0"];
    for (upper, expected) in [
        (t().file("a/f", b""), &["1 a/", "1 a/f 1:0"][..]),
        (t().directory("a").file("a/f", b""), &["1 a/", "1 a/f 1:0"]),
        (t().file("a/n/f", b""), &["1 a/", "1 a/n/", "1 a/n/f 1:0"]),
        (t().file("a/.wh.x", b""), &["1 a/"]),
        (t().file("a/n/.wh.x", b""), &["1 a/", "1 a/n/"]),
        (
            t().file("a/.wh..wh..opq", b"").file("a/f", b""),
            &["1 a/", "1 a/f 1:0"],
        ),
        // A hard link to the lower layer's file: only full paths decide which layer it belongs to.
        (t().hard_link("a2", "a"), &["0 a -> b", "1 a2 -> b"]),
    ] {
        let tree = merged([lower(), upper]);
        assert_eq!(listing(&tree), [expected, &same[..]].concat());
    }
}

#[test]
fn a_whiteouts_directory_replaces_a_lower_layers_file() {
    let tree = merged([t().file("a", b""), t().file("a/.wh.x", b"")]);
    assert_eq!(listing(&tree), ["1 a/"]);
}

#[test]
fn a_layers_symlink_to_a_lower_symlink_turns_that_into_a_directory() {
    let tree = merged([
        t().file("b/x", b"").symlink("a", "b"),
        t().symlink("c", "a").file("c/f", b""),
    ]);
    assert_eq!(
        listing(&tree),
        ["1 a/", "1 a/f 1:0", "0 b/", "0 b/x 0:0", "1 c -> a"]
    );
}

#[test]
fn the_real_path_follows_parents_as_far_as_they_exist() {
    let tree = merged([t()
        .directory("usr/bin")
        .symlink("bin", "usr/bin")
        .symlink("usr/up", "../bin")
        .symlink("root", "/")
        .symlink("gone", "not/there")
        .symlink("loop", "loop")]);
    let real = |path: &str| {
        let path = tree.real_path(path.as_bytes(), |_| false)?;
        Some(String::from_utf8(path).unwrap())
    };
    for (path, expected) in [
        ("a", Some("a")),
        ("bin", Some("bin")),
        ("bin/a", Some("usr/bin/a")),
        ("usr/up/new/a", Some("usr/bin/new/a")),
        ("root/bin/a", Some("usr/bin/a")),
        ("gone/a", Some("not/there/a")),
        ("loop/a", None),
    ] {
        assert_eq!(real(path).as_deref(), expected, "{path}");
    }
    let stopped = tree.real_path(b"bin/a", |path| path == b"bin");
    assert_eq!(stopped.unwrap(), b"bin/a");
}

#[test]
fn a_symlink_never_leads_out_of_the_root() {
    for target in ["../../../../etc", "/../etc", "/etc", "a/../../etc"] {
        let tree = merged([t()
            .directory("x/a")
            .symlink("x/l", target)
            .file("x/l/f", b"")]);
        let inside = tree
            .lookup(b"etc/f", false)
            .or(tree.lookup(b"x/etc/f", false));
        assert!(inside.is_some(), "{target}: {:?}", listing(&tree));
    }
}

#[test]
fn the_target_of_a_dangling_symlink_as_parent_is_created() {
    let tree = merged([t().symlink("l", "to/there").file("l/f", b"")]);
    assert_eq!(
        listing(&tree),
        [
            "0 l -> to/there",
            "0 to/",
            "0 to/there/",
            "0 to/there/f 0:0"
        ]
    );
}

#[test]
fn a_symlink_loop_as_parent_is_refused() {
    let error = refused([t().symlink("a", "b").symlink("b", "a").file("a/f", b"")]);
    assert_eq!(
        error,
        "layer 0: a/f: more than 40 symlinks lead to its parent"
    );
    let chain = |length: usize| {
        let first = t().directory("l0");
        let chain = (1..=length).fold(first, |tar, n| {
            tar.symlink(format!("l{n}"), format!("l{}", n - 1))
        });
        merge([chain.file(format!("l{length}/f"), b"").layer()])
    };
    assert!(chain(40).is_ok() && chain(41).is_err());
}

#[test]
fn a_parent_that_is_a_file_of_the_same_layer_is_refused() {
    for tar in [
        t().file("p", b"").file("p/f", b""),
        t().raw(b'6', "p", "", b"", |_| ()).file("p/f", b""),
        t().device("p").file("p/f", b""),
        t().file("q", b"").symlink("p", "q").directory("p/f"),
    ] {
        assert_eq!(
            refused([tar]),
            "layer 0: p/f: its parent is a file of the same layer"
        );
    }
}

#[test]
fn a_parent_is_resolved_again_once_a_name_on_the_way_is_replaced() {
    let tar = t()
        .directory("d/s")
        .symlink("l", "d/s/..")
        .file("l/s", b"")
        .file("l/f", b"");
    assert_eq!(
        refused([tar]),
        "layer 0: l/f: its parent is a file of the same layer"
    );
}

#[test]
fn a_hard_link_to_a_lower_file_belongs_to_the_layer_that_adds_it() {
    let error = refused([t().file("f", b""), t().hard_link("p", "f").file("p/f", b"")]);
    assert_eq!(
        error,
        "layer 1: p/f: its parent is a file of the same layer"
    );
}

#[test]
fn an_explicit_directory_replaces_a_symlink() {
    let lower = t().file("usr/bin/sh", b"").symlink("bin", "usr/bin");
    let tree = merged([lower, t().directory("bin").file("bin/new", b"")]);
    assert_eq!(
        listing(&tree),
        [
            "1 bin/",
            "1 bin/new 1:0",
            "0 usr/",
            "0 usr/bin/",
            "0 usr/bin/sh 0:0"
        ]
    );
}

#[test]
fn whiteouts_hide_lower_layers_and_never_their_own() {
    let lower = || t().file("a", b"").file("d/x", b"").file("d/y", b"");
    for upper in [
        t().file(".wh.a", b"").file("a", b"1").file("d/.wh.x", b""),
        t().file("a", b"1").file("d/.wh.x", b"").file(".wh.a", b""),
    ] {
        assert_eq!(
            listing(&merged([lower(), upper])),
            ["1 a 1:1", "0 d/", "0 d/y 0:0"]
        );
    }
    assert_eq!(
        listing(&merged([lower(), t().file(".wh.d", b"")])),
        ["0 a 0:0"]
    );
    let again = merged([lower(), t().file("d/z", b"").file(".wh.d", b"")]);
    assert_eq!(listing(&again), ["0 a 0:0", "1 d/", "1 d/z 1:0"]);
}

#[test]
fn an_opaque_marker_applies_first_whatever_its_order() {
    let lower = || t().directory("d").file("d/x", b"").file("d/e/y", b"");
    for upper in [
        t().file("d/.wh..wh..opq", b"").file("d/new", b""),
        t().file("d/new", b"").file("d/.wh..wh..opq", b""),
    ] {
        assert_eq!(listing(&merged([lower(), upper])), ["0 d/", "1 d/new 1:0"]);
    }
    let all = merged([lower(), t().file("f", b"").file(".wh..wh..opq", b"")]);
    assert_eq!(listing(&all), ["1 f 1:0"]);
}

#[test]
fn a_whiteout_that_matches_nothing_has_no_effect() {
    let upper = t()
        .file(".wh.b", b"")
        .file("x/.wh.y", b"")
        .file("q/.wh..wh..opq", b"");
    assert_eq!(listing(&merged([t().file("a", b""), upper])), ["0 a 0:0"]);
}

#[test]
fn a_whiteout_in_the_same_layer_only_hides_nothing() {
    assert_eq!(
        listing(&merged([t().file("a", b"").file(".wh.a", b"")])),
        ["0 a 0:0"]
    );
}

#[test]
fn hard_links_share_an_inode_with_lower_layers_too() {
    let tree = merged([
        t().file("d/a", b"1"),
        t().hard_link("b", "d/a").hard_link("c", "b"),
    ]);
    assert_eq!(listing(&tree), ["1 b 0:1", "1 c 0:1", "0 d/", "0 d/a 0:1"]);
    let [a, b] = ["d/a", "b"].map(|path| tree.lookup(path.as_bytes(), false).unwrap().inode);
    assert_eq!((a, tree.links(a)), (b, 3));
    let later = merged([
        t().file("a", b"1").hard_link("b", "a"),
        t().file("a", b"22"),
    ]);
    assert_eq!(listing(&later), ["1 a 1:2", "0 b 0:1"]);
    assert_eq!(later.links(later.lookup(b"b", false).unwrap().inode), 1);
}

#[test]
fn hard_links_go_to_symlinks_themselves_and_through_symlinked_parents() {
    let tree = merged([t()
        .file("usr/f", b"")
        .symlink("l", "usr")
        .hard_link("m", "l")
        .hard_link("n", "l/f")]);
    assert_eq!(listing(&tree)[..3], ["0 l -> usr", "0 m -> usr", "0 n 0:0"]);
}

#[test]
fn a_hard_link_that_replaces_its_target_keeps_the_inode() {
    let tree = merged([t().file("a", b"1").hard_link("a", "a")]);
    assert_eq!(listing(&tree), ["0 a 0:1"]);
    assert_eq!(tree.links(tree.lookup(b"a", false).unwrap().inode), 1);
    let tree = merged([t().file("d/f", b"1").hard_link("d", "d/f")]);
    assert_eq!(listing(&tree), ["0 d 0:1"]);
}

#[test]
fn hard_links_to_missing_later_or_directory_names_are_refused() {
    assert!(refused([t().hard_link("a", "b")]).ends_with("a hard link to b, which does not exist"));
    assert!(refused([t().hard_link("a", "b").file("b", b"")]).contains("does not exist"));
    assert!(
        refused([t().directory("d").hard_link("a", "d")])
            .ends_with("a hard link to d, a directory")
    );
    assert!(refused([t().hard_link("a", "/")]).contains("a directory"));
    let hidden = t().file(".wh.b", b"").hard_link("a", "b");
    assert!(refused([t().file("b", b""), hidden]).contains("does not exist"));
}

#[test]
fn devices_and_hard_links_to_them_are_dropped_and_counted() {
    let lower = t()
        .device("d/sda")
        .hard_link("d/sdb", "d/sda")
        .file("d/f", b"");
    let layers = [lower, t().hard_link("sdc", "d/sda").device("d/f")].map(Tar::layer);
    assert_eq!(
        layers
            .iter()
            .map(|layer| layer.dropped.devices)
            .sum::<u64>(),
        2
    );
    let tree = merge(layers).unwrap();
    assert_eq!(listing(&tree), ["0 d/"]);
    assert_eq!(tree.dropped_links(), 2);
}

#[test]
fn a_directory_replaces_a_lower_device_that_is_a_parent() {
    let tree = merged([t().device("p"), t().file("p/f", b"")]);
    assert_eq!(listing(&tree), ["1 p/", "1 p/f 1:0"]);
}

#[test]
fn an_image_whose_dev_proc_or_sys_is_not_a_directory_is_refused() {
    for name in ["dev", "proc", "sys"] {
        for tar in [
            t().symlink(name, "/etc"),
            t().file(name, b""),
            t().device(name),
        ] {
            let error = merge([tar.layer()]).unwrap_err();
            assert_eq!(
                (error.reason, error.what),
                (Reason::Policy, format!("/{name}"))
            );
        }
        let repaired = merged([t().symlink(name, "etc"), t().directory(name)]);
        assert_eq!(listing(&repaired), [format!("1 {name}/")]);
    }
}

#[test]
fn hundreds_of_layers_and_one_layer_twice_are_merged() {
    let layers = (0..600).map(|n| t().file(format!("f{}", n % 300), b"").layer());
    let tree = merge(layers).unwrap();
    assert_eq!(tree.walk().count(), 301);
    assert!(
        tree.walk()
            .skip(1)
            .all(|(_, entry)| entry.layer >= Some(300))
    );
}

#[test]
fn a_tree_cannot_grow_deeper_than_the_longest_path_through_symlinks() {
    let deep = "d/".repeat(2000);
    let tar = t().pax(&[("path", deep.as_bytes())]).directory("x");
    let tar = tar.pax(&[("linkpath", deep.as_bytes())]).symlink("l", "");
    let error = refused([tar
        .pax(&[("path", ("l/".to_string() + &deep).as_bytes())])
        .directory("x")]);
    assert!(
        error.ends_with("more than 2048 directories deep"),
        "{error}"
    );
}

#[test]
fn a_lookup_follows_a_final_symlink_only_on_request() {
    let tar = t()
        .file("usr/bin/f", b"")
        .symlink("bin", "usr/bin")
        .symlink("l", "bin/f")
        .symlink("x", "gone");
    let tree = merged([tar]);
    let is = |path: &str, follow| {
        tree.lookup(path.as_bytes(), follow)
            .map(|e| line(&tree, b"", e))
    };
    assert_eq!(is("/l", true).as_deref(), Some("0  0:0"));
    assert_eq!(is("l", false).as_deref(), Some("0  -> bin/f"));
    assert_eq!(is("bin/f", false), is("/usr/bin/../bin//f", true));
    assert_eq!(is("bin/", false), is("bin", false));
    assert_eq!(is("/", false), is("../..", true));
    for missing in ["x", "usr/gone", "l/f", "usr/bin/f/"] {
        assert_eq!(
            is(missing, true).is_some(),
            missing == "usr/bin/f/",
            "{missing}"
        );
    }
}
