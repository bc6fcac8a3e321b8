//! Names, link targets and whiteouts.

use super::*;

#[test]
fn names_are_normalised_and_absolute_ones_lose_their_slash() {
    for (raw, path) in [
        ("./a", "a"),
        ("/a/b", "a/b"),
        ("//a//./b/", "a/b"),
        ("a/../b", "b"),
        ("a/b/../../c", "c"),
        ("..a/b..", "..a/b.."),
    ] {
        assert_eq!(
            &*only(Tar::new().file(raw, b"")).path,
            path.as_bytes(),
            "{raw}"
        );
    }
    for root in ["./", "/", ".", "a/.."] {
        assert_eq!(&*only(Tar::new().directory(root)).path, b"", "{root}");
    }
}

#[test]
fn names_that_are_not_utf_8_are_kept_as_bytes() {
    assert_eq!(
        &*only(Tar::new().file(b"\xff\xfe\n", b"")).path,
        b"\xff\xfe\n"
    );
}

#[test]
fn names_that_leave_the_root_or_are_empty_are_refused() {
    for name in ["..", "../a", "a/../../b", "/..", "./../a"] {
        assert_eq!(
            refused(Tar::new().file(name, b"")).why,
            "the name leads out of the root"
        );
    }
    assert_eq!(refused(Tar::new().file("", b"")).why, "the name is empty");
    let error = refused(Tar::new().file("ok", b"").file("../passwd", b""));
    assert_eq!(
        error.to_string(),
        "tar entry ../passwd: the name leads out of the root"
    );
}

#[test]
fn a_nul_in_a_long_name_is_refused() {
    let long = |kind| Tar::new().raw(kind, "long", "", b"a\0b\0", |_| ());
    assert_eq!(
        refused(long(b'L').file("x", b"")).why,
        "the name contains a NUL"
    );
    let record: (&str, &[u8]) = ("path", b"a\0b");
    assert_eq!(
        refused(Tar::new().pax(&[record]).file("x", b"")).why,
        "the name contains a NUL"
    );
    let link = long(b'K').symlink("x", "y");
    assert!(refused(link).why.contains("or a NUL"));
}

#[test]
fn components_over_255_bytes_and_paths_over_4095_are_refused() {
    let named = |name: &str| Tar::new().pax(&[("path", name.as_bytes())]).file("x", b"");
    assert_eq!(only(named(&"n".repeat(255))).path.len(), 255);
    assert_eq!(
        refused(named(&"n".repeat(256))).why,
        "a component is longer than 255 bytes"
    );
    let path = "d/".repeat(2047) + "e";
    assert_eq!(only(named(&path)).path.len(), 4095);
    assert_eq!(
        refused(named(&(path + "f"))).why,
        "the path is longer than 4095 bytes"
    );
}

#[test]
fn a_root_that_is_not_a_directory_is_refused() {
    for tar in [
        Tar::new().file("./", b"x"),
        Tar::new().symlink("/", "etc"),
        Tar::new().hard_link(".", "etc"),
        Tar::new().device("./"),
    ] {
        assert_eq!(refused(tar).why, "the root can only be a directory");
    }
}

#[test]
fn gnu_long_names_and_long_link_targets_are_read() {
    let (name, target) = ("n/".repeat(300) + "x", "t".repeat(4095));
    let tar = Tar::new()
        .raw(
            b'K',
            "././@LongLink",
            "",
            format!("{target}\0").as_bytes(),
            |_| (),
        )
        .raw(
            b'L',
            "././@LongLink",
            "",
            format!("{name}\0").as_bytes(),
            |_| (),
        )
        .symlink("cut", "cut");
    let entry = only(tar);
    assert_eq!(&*entry.path, name.as_bytes());
    assert_eq!(entry.kind, Kind::Symlink(target.as_bytes().into()));
}

#[test]
fn a_ustar_prefix_is_read_but_not_gnus_fields_at_the_same_offset() {
    let prefix = |header: &mut [u8]| put(header, 345, b"some/where");
    assert_eq!(
        &*only(Tar::new().raw(b'0', "f", "", b"", prefix)).path,
        b"some/where/f"
    );
    let gnu = |header: &mut [u8]| {
        prefix(header);
        put(header, 257, b"ustar  \0");
    };
    assert_eq!(&*only(Tar::new().raw(b'0', "f", "", b"", gnu)).path, b"f");
    let star = |header: &mut [u8]| {
        prefix(header);
        put(header, 476, b"00000000001");
        put(header, 508, b"tar\0");
    };
    assert_eq!(
        &*only(Tar::new().raw(b'0', "f", "", b"", star)).path,
        b"some/where/f"
    );
}

#[test]
fn a_v7_name_that_ends_with_a_slash_is_a_directory() {
    let v7 = |header: &mut [u8]| put(header, 257, &[0; 8]);
    assert_eq!(
        only(Tar::new().raw(0, "d/", "", b"", v7)).kind,
        Kind::Directory
    );
    assert!(matches!(
        only(Tar::new().raw(0, "f", "", b"x", v7)).kind,
        Kind::File { size: 1, .. }
    ));
}

#[test]
fn symlink_targets_empty_or_over_4095_bytes_are_refused() {
    let to = |target: &str| {
        Tar::new()
            .pax(&[("linkpath", target.as_bytes())])
            .symlink("l", "")
    };
    assert!(matches!(only(to(&"t".repeat(4095))).kind, Kind::Symlink(t) if t.len() == 4095));
    assert!(
        refused(to(&"t".repeat(4096)))
            .why
            .contains("has 4096 bytes")
    );
    assert!(
        refused(Tar::new().symlink("l", ""))
            .why
            .contains("has 0 bytes")
    );
}

#[test]
fn symlink_targets_are_kept_as_written() {
    let target = "../.././/x/../../etc";
    assert_eq!(
        only(Tar::new().symlink("l", target)).kind,
        Kind::Symlink(target.as_bytes().into())
    );
}

#[test]
fn hard_links_out_of_the_root_are_refused() {
    let error = refused(Tar::new().hard_link("l", "../etc/shadow"));
    assert_eq!(
        error.why,
        "the target of a hard link: the name leads out of the root"
    );
    let entry = only(Tar::new().hard_link("l", "/a/./b"));
    assert_eq!(entry.kind, Kind::HardLink(b"a/b"[..].into()));
}

#[test]
fn a_whiteout_has_the_path_that_it_hides() {
    for (name, kind, path) in [
        ("a/.wh.b", Kind::Whiteout, "a/b"),
        (".wh.b", Kind::Whiteout, "b"),
        ("a/.wh..wh..opq", Kind::Opaque, "a"),
        (".wh..wh..opq", Kind::Opaque, ""),
        ("a/.wh..wh.plnk", Kind::Whiteout, "a/.wh.plnk"),
    ] {
        let entry = only(Tar::new().file(name, b"some data"));
        assert_eq!(
            (entry.kind, &*entry.path),
            (kind, path.as_bytes()),
            "{name}"
        );
    }
}

#[test]
fn whiteouts_without_a_name_and_whiteouts_as_parents_are_refused() {
    for name in [".wh.", "a/.wh.", "a/.wh..", ".wh...", "a/.wh.b/c"] {
        assert!(
            refused(Tar::new().file(name, b"")).why.contains("whiteout"),
            "{name}"
        );
    }
}
