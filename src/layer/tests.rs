#![allow(clippy::unwrap_used)]

use super::sample::{Tar, checksum, pax, put};
use super::*;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Reason, Result};
use proptest::prelude::*;
use std::io::{BufReader, Read, Write};

fn refused(tar: Tar) -> Error {
    tar.scan()
        .map(|layer| panic!("it was taken: {layer:?}"))
        .unwrap_err()
}

fn only(tar: Tar) -> Entry {
    let mut layer = tar.layer();
    assert_eq!(layer.entries.len(), 1);
    layer.entries.remove(0)
}

/// A size of 32 bytes, so that the next header would be misread if the data were not skipped.
const DATA: &[u8] = b"thirty-two bytes of file content";

#[test]
fn a_file_is_its_attributes_and_an_offset() {
    let layer = Tar::new().directory("d/").file("d/f", DATA).layer();
    assert_eq!(layer.size, 512 * 5);
    assert_eq!(layer.entries[0].kind, Kind::Directory);
    let file = &layer.entries[1];
    assert_eq!(&*file.path, b"d/f");
    assert_eq!(
        file.kind,
        Kind::File {
            size: 32,
            offset: 1024
        }
    );
    let meta = Meta {
        mode: 0o644,
        uid: 1000,
        gid: 100,
        mtime: 7,
        ..Meta::default()
    };
    assert_eq!(file.meta, meta);
}

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
fn names_that_climb_out_or_are_empty_are_refused() {
    for name in ["..", "../a", "a/../../b", "/..", "./../a"] {
        assert_eq!(
            refused(Tar::new().file(name, b"")).why,
            "the name climbs out of the root"
        );
    }
    assert_eq!(refused(Tar::new().file("", b"")).why, "the name is empty");
    let error = refused(Tar::new().file("ok", b"").file("../passwd", b""));
    assert_eq!(
        error.to_string(),
        "tar entry ../passwd: the name climbs out of the root"
    );
}

#[test]
fn a_nul_in_a_long_name_is_refused() {
    let long = |kind| Tar::new().raw(kind, "long", "", b"a\0b\0", |_| ());
    assert_eq!(
        refused(long(b'L').file("x", b"")).why,
        "there is a NUL in the name"
    );
    let record: (&str, &[u8]) = ("path", b"a\0b");
    assert_eq!(
        refused(Tar::new().pax(&[record]).file("x", b"")).why,
        "there is a NUL in the name"
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
        "a component has more than 255 bytes"
    );
    let path = "d/".repeat(2047) + "e";
    assert_eq!(only(named(&path)).path.len(), 4095);
    assert_eq!(
        refused(named(&(path + "f"))).why,
        "the path has more than 4095 bytes"
    );
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
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
fn gnu_long_names_and_long_link_targets_are_taken() {
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
fn a_ustar_prefix_is_taken_but_not_gnus_fields_in_its_place() {
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
fn v7_directories_are_names_with_a_slash() {
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
fn pax_records_win_over_the_header() {
    let records: &[(&str, &[u8])] = &[
        ("path", b"from/pax"),
        ("size", b"32"),
        ("uid", b"4294967294"),
        ("gid", b"3000000"),
        ("mtime", b"12.5"),
        ("comment", b"ignored"),
    ];
    let zero = |header: &mut [u8]| put(header, 124, b"00000000000\0");
    let entry = only(Tar::new().pax(records).raw(b'0', "short", "", DATA, zero));
    assert_eq!(&*entry.path, b"from/pax");
    assert_eq!(
        entry.kind,
        Kind::File {
            size: 32,
            offset: 1536
        }
    );
    let Meta {
        uid,
        gid,
        mtime,
        nanoseconds,
        ..
    } = entry.meta;
    assert_eq!(
        (uid, gid, mtime, nanoseconds),
        (4_294_967_294, 3_000_000, 12, 500_000_000)
    );
}

#[test]
fn a_pax_size_is_not_that_of_a_long_name_behind_it() {
    let tar = Tar::new()
        .pax(&[("size", b"32")])
        .raw(b'L', "long", "", b"the/long/name\0", |_| ())
        .file("f", DATA);
    assert_eq!(&*only(tar).path, b"the/long/name");
}

#[test]
fn global_pax_headers_hold_until_they_are_taken_back() {
    let layer = Tar::new()
        .global(&[("uid", b"7"), ("mtime", b"3")])
        .file("a", b"")
        .pax(&[("uid", b"8")])
        .file("b", b"")
        .pax(&[("uid", b"")])
        .file("c", b"")
        .global(&[("uid", b"")])
        .file("d", b"")
        .layer();
    let uids: Vec<u32> = layer.entries.iter().map(|entry| entry.meta.uid).collect();
    assert_eq!(uids, [7, 8, 1000, 1000]);
    assert!(layer.entries.iter().all(|entry| entry.meta.mtime == 3));
}

#[test]
fn times_can_be_fractional_negative_and_late() {
    for (text, expected) in [
        ("0", Some((0, 0))),
        ("1.000000001", Some((1, 1))),
        ("1.9999999999", Some((1, 999_999_999))),
        ("5.", Some((5, 0))),
        ("-1", Some((-1, 0))),
        ("-1.25", Some((-2, 750_000_000))),
        ("-0.5", Some((-1, 500_000_000))),
        ("99999999999", Some((99_999_999_999, 0))),
        ("9223372036854775808", None),
        ("1e9", None),
        ("1.5x", None),
        ("--1", None),
        (".5", None),
    ] {
        let outcome = Tar::new()
            .pax(&[("mtime", text.as_bytes())])
            .file("f", b"")
            .scan();
        let time = outcome
            .ok()
            .map(|l| (l.entries[0].meta.mtime, l.entries[0].meta.nanoseconds));
        assert_eq!(time, expected, "{text}");
    }
    let before = |header: &mut [u8]| put(header, 136, &[0xff; 12]);
    assert_eq!(
        only(Tar::new().raw(b'0', "f", "", b"", before)).meta.mtime,
        -1
    );
}

#[test]
fn numbers_can_be_in_base_256() {
    let large = |header: &mut [u8]| {
        put(header, 108, &[0x80, 0, 0, 0, 0, 0x20, 0, 1]);
        put(header, 124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]);
    };
    let entry = only(Tar::new().raw(b'0', "f", "", DATA, large));
    assert_eq!(entry.meta.uid, 2_097_153);
    assert_eq!(
        entry.kind,
        Kind::File {
            size: 32,
            offset: 512
        }
    );
}

#[test]
fn sizes_and_ids_that_are_no_numbers_are_refused() {
    for (at, bytes, why) in [
        (
            124,
            &b"-0000000001\0"[..],
            "the size in its header is no number",
        ),
        (
            124,
            b"0000000008\0\0",
            "the size in its header is no number",
        ),
        (124, b"0x000000000\0", "the size in its header is no number"),
        (124, &[0xff; 12], "the size in its header is negative"),
        (
            124,
            &[0x80, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            "the size in its header is no number",
        ),
        (100, b"rw-r--r-", "the mode in its header is no number"),
        (108, &[0xff; 8], "the uid in its header is negative"),
        (
            108,
            &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            "uid 4294967295 is none",
        ),
        (
            136,
            b"yesterday\0\0\0",
            "the mtime in its header is no number",
        ),
    ] {
        let adjust = |header: &mut [u8]| put(header, at, bytes);
        assert_eq!(refused(Tar::new().raw(b'0', "f", "", b"", adjust)).why, why);
    }
}

#[test]
fn a_wrong_checksum_is_refused() {
    let mut tar = Tar::new().file("a", b"").file("b", b"");
    tar.0[512] ^= 1;
    assert_eq!(refused(tar).why, "the checksum of its header is wrong");
}

#[test]
fn a_checksum_of_signed_bytes_is_taken() {
    let mut tar = Tar::new().file(b"\xff", b"");
    put(&mut tar.0, 148, b"        ");
    let sum: i64 = tar.0.iter().map(|byte| i64::from(byte.cast_signed())).sum();
    put(&mut tar.0, 148, format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(&*only(tar).path, b"\xff");
}

#[test]
fn pax_records_that_lie_are_refused() {
    for data in [
        &b"9 uid=1\n"[..],
        b"7 uid=1\n",
        b"99999999999999999999 uid=1\n",
        b"-8 uid=1\n",
        b"8 uid=1x",
        b"6 uid\n ",
        b"5 =1\n",
        b"uid=1\n",
        b"8uid=1\n",
        b" 8 uid=1\n",
        b"2 \n",
    ] {
        let tar = Tar::new().raw(b'x', "pax", "", data, |_| ()).file("f", b"");
        assert_eq!(
            refused(tar).why,
            "a PAX record lies",
            "{:?}",
            String::from_utf8_lossy(data)
        );
    }
    for (key, why) in [
        ("uid", "the PAX record uid is no number"),
        ("size", "the PAX record size is no number"),
    ] {
        for value in [&b"-1"[..], b"0x1", b"1 ", b"18446744073709551616", b"1.5"] {
            assert_eq!(
                refused(Tar::new().pax(&[(key, value)]).file("f", b"")).why,
                why
            );
        }
    }
}

#[test]
fn extension_headers_that_contradict_each_other_are_refused() {
    let long = |tar: Tar, name: &[u8]| tar.raw(b'L', "long", "", name, |_| ());
    let two = long(long(Tar::new(), b"a"), b"b").file("f", b"");
    assert_eq!(
        refused(two).why,
        "two extension headers of one kind for a single entry"
    );
    let differ = long(Tar::new().pax(&[("path", b"a")]), b"b").file("f", b"");
    assert_eq!(refused(differ).why, "two long names that differ");
    let agree = long(Tar::new().pax(&[("path", b"a")]), b"a\0").file("f", b"");
    assert_eq!(&*only(agree).path, b"a");
    let last = Tar::new().pax(&[("path", b"a")]);
    assert!(refused(last).why.contains("entry that is not there"));
}

#[test]
fn truncation_anywhere_is_refused() {
    let complete = Tar::new()
        .pax(&[("uid", b"1")])
        .file("f", &[1; 700])
        .directory("d")
        .end();
    let end = complete.len() - 1024;
    for length in (0..=end)
        .chain(end + 1..end + 512)
        .chain(end + 513..complete.len())
    {
        assert!(
            scan(&complete[..length], &Limits::default()).is_err(),
            "{length} bytes"
        );
    }
    assert_eq!(
        scan(&complete[..], &Limits::default())
            .unwrap()
            .entries
            .len(),
        2
    );
}

#[test]
fn a_size_that_is_more_than_follows_is_refused_and_costs_nothing() {
    for size in [b"00000100000\0", b"77777777777\0"] {
        let adjust = |header: &mut [u8]| put(header, 124, size);
        for kind in [b'0', b'L', b'x', b'g', b'S'] {
            refused(Tar::new().raw(kind, "f", "", b"", adjust));
        }
    }
    let adjust = |header: &mut [u8]| put(header, 124, b"00000100000\0");
    let error = refused(Tar::new().raw(b'0', "f", "", b"", adjust));
    assert_eq!(
        error.to_string(),
        "tar entry f: the tar ends in the middle of it"
    );
}

#[test]
fn what_follows_the_end_blocks_counts_for_the_size_alone() {
    let mut bytes = Tar::new().file("a", b"").end();
    bytes.extend(Tar::new().file("b", b"").end());
    bytes.extend(b"and more");
    let layer = scan(&bytes[..], &Limits::default()).unwrap();
    assert_eq!((layer.entries.len(), layer.size), (1, bytes.len() as u64));
}

#[test]
fn a_lone_zero_block_is_an_end_only_at_the_end() {
    let mut bytes = Tar::new().file("a", b"").0;
    bytes.extend([0; 512]);
    assert_eq!(
        scan(&bytes[..], &Limits::default()).unwrap().entries.len(),
        1
    );
    bytes.extend(Tar::new().file("b", b"").end());
    assert!(
        scan(&bytes[..], &Limits::default())
            .unwrap_err()
            .why
            .starts_with("a lone zero block")
    );
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
        "the target of a hard link: the name climbs out of the root"
    );
    let entry = only(Tar::new().hard_link("l", "/a/./b"));
    assert_eq!(entry.kind, Kind::HardLink(b"a/b"[..].into()));
}

#[test]
fn links_and_directories_have_no_data_whatever_size_they_claim() {
    let claims = |header: &mut [u8]| put(header, 124, b"00000000777\0");
    let layer = Tar::new()
        .raw(b'1', "l", "f", b"", claims)
        .raw(b'2', "s", "f", b"", claims)
        .raw(b'5', "d", "", b"", claims)
        .file("f", b"")
        .layer();
    assert_eq!(layer.entries.len(), 4);
}

#[test]
fn types_that_are_not_known_are_refused_by_name() {
    for kind in *b"8MVDNAZ" {
        let error = refused(Tar::new().raw(kind, "f", "", b"", |_| ()));
        assert_eq!(
            error.why,
            format!("type {:?} is not known", char::from(kind))
        );
    }
}

#[test]
fn device_nodes_are_counted_and_fifos_kept() {
    let tar = Tar::new()
        .device("dev/sda")
        .raw(b'3', "dev/null", "", b"", |_| ());
    let layer = tar.raw(b'6', "pipe", "", b"", |_| ()).layer();
    assert_eq!(layer.dropped.devices, 2);
    assert_eq!(
        layer.dropped.examples,
        ["device dev/sda", "device dev/null"]
    );
    assert_eq!(layer.entries[2].kind, Kind::Fifo);
}

#[test]
fn setuid_is_kept_and_file_type_bits_in_the_mode_are_not() {
    let adjust = |header: &mut [u8]| put(header, 100, b"0106755\0");
    assert_eq!(
        only(Tar::new().raw(b'0', "su", "", b"", adjust)).meta.mode,
        0o6755
    );
}

#[test]
fn only_user_xattrs_and_file_capabilities_are_kept() {
    let layer = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.b", b"\0any\nbytes"),
            ("SCHILY.xattr.user.a", b"1"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.capability", b"cap"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.system.posix_acl_access", b"x"),
        ])
        .directory("d")
        .layer();
    let names: Vec<_> = layer.entries[0]
        .meta
        .xattrs
        .iter()
        .map(|xattr| &*xattr.name)
        .collect();
    assert_eq!(names, [&b"security.capability"[..], b"user.a", b"user.b"]);
    assert_eq!(&*layer.entries[0].meta.xattrs[2].value, b"\0any\nbytes");
    assert_eq!(layer.dropped.xattrs, 4);
    assert!(
        layer
            .dropped
            .examples
            .contains(&"xattr trusted.overlay.opaque of d".to_string())
    );
}

#[test]
fn xattrs_that_an_inode_cannot_hold_are_refused() {
    let with = |name: &str, size: usize| {
        Tar::new()
            .pax(&[(&format!("SCHILY.xattr.{name}"), &vec![b'v'; size])])
            .file("f", b"")
    };
    assert_eq!(
        only(with("user.v", 65_535)).meta.xattrs[0].value.len(),
        65_535
    );
    assert!(
        refused(with("user.v", 65_536))
            .why
            .contains("the xattr user.v")
    );
    assert!(
        refused(with(&format!("user.{}", "n".repeat(251)), 1))
            .why
            .contains("wrong name")
    );
    assert!(refused(with("user.", 1)).why.contains("wrong name"));
    let value = vec![b'v'; 60_000];
    let names: Vec<String> = (0..5).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &value[..])).collect();
    assert!(
        refused(Tar::new().pax(&records).file("f", b""))
            .why
            .contains("together")
    );
}

#[test]
fn whiteouts_name_what_they_hide() {
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
fn bare_whiteouts_and_whiteouts_on_the_way_are_refused() {
    for name in [".wh.", "a/.wh.", "a/.wh..", ".wh...", "a/.wh.b/c"] {
        assert!(
            refused(Tar::new().file(name, b"")).why.contains("whiteout"),
            "{name}"
        );
    }
}

#[test]
fn budgets_end_a_scan() {
    let tar = Tar::new()
        .pax(&[("comment", &[b'c'; 3000])])
        .file("a", &[0; 5000])
        .file("b", b"");
    let bytes = tar.end();
    let generous = Limits::default();
    for limits in [
        Limits {
            bytes: 9000,
            ..generous.clone()
        },
        Limits {
            entries: 1,
            ..generous.clone()
        },
        Limits {
            header: 2999,
            ..generous.clone()
        },
        Limits {
            memory: 150,
            ..generous.clone()
        },
    ] {
        let error = scan(&bytes[..], &limits).unwrap_err();
        assert_eq!(error.reason, Reason::Policy, "{limits:?}: {error}");
    }
    let exactly = Limits {
        bytes: bytes.len() as u64,
        entries: 2,
        ..generous
    };
    assert_eq!(scan(&bytes[..], &exactly).unwrap().entries.len(), 2);
}

#[test]
fn an_entry_is_small_in_memory() {
    assert!(size_of::<Entry>() <= 80, "{}", size_of::<Entry>());
}

// Sparse files.

fn sparse(tar: Tar) -> Sparse {
    match only(tar).kind {
        Kind::Sparse(sparse) => *sparse,
        other => panic!("{other:?}"),
    }
}

fn at(start: u64, length: u64, offset: u64) -> Extent {
    Extent {
        start,
        length,
        source: Source::Tar(offset),
    }
}

fn pax_sparse(map: &str, size: &str, data: &[u8]) -> Tar {
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.map", map.as_bytes()),
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.name", b"real/name"),
    ];
    Tar::new().pax(records).file("GNUSparseFile.0/x", data)
}

#[test]
fn old_gnu_sparse_files_are_extents_of_the_tar() {
    let adjust = |header: &mut [u8]| {
        put(header, 257, b"ustar  \0");
        for (index, number) in [0u64, 1024, 4096, 512, 8192, 0].iter().enumerate() {
            put(
                header,
                386 + 12 * index,
                format!("{number:011o}\0").as_bytes(),
            );
        }
        put(header, 483, b"00000020000\0");
    };
    let file = sparse(Tar::new().raw(b'S', "s", "", &[1; 1536], adjust));
    assert_eq!(file.size, 8192);
    assert_eq!(*file.extents, [at(0, 1024, 512), at(4096, 512, 1536)]);
    assert_eq!((file.chunk_bits(), file.chunks()), (9, 16));
}

#[test]
fn old_gnu_sparse_maps_go_on_in_extension_blocks() {
    let adjust = |header: &mut [u8]| {
        put(header, 124, b"00000002000\0");
        put(header, 386, b"00000000000\x0000000001000\0");
        header[482] = 1;
        put(header, 483, b"00000020000\0");
    };
    let mut tar = Tar::new().raw(b'S', "s", "", b"", adjust);
    let mut extension = [0; 512];
    put(&mut extension, 0, b"00000004000\x0000000001000\0");
    tar.0.extend(extension);
    tar.0.extend([1; 1024]);
    let file = sparse(tar.clone());
    assert_eq!(*file.extents, [at(0, 512, 1024), at(2048, 512, 1536)]);
    tar.0.truncate(800);
    assert!(scan(&tar.0[..], &Limits::default()).is_err());
}

#[test]
fn pax_sparse_0_0_and_0_1_have_their_map_in_records() {
    let file = sparse(pax_sparse("0,512,4096,512", "8192", &[1; 1024]));
    assert_eq!(*file.extents, [at(0, 512, 1536), at(4096, 512, 2048)]);
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"8192"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"512"),
        ("GNU.sparse.offset", b"4096"),
        ("GNU.sparse.numbytes", b"512"),
    ];
    assert_eq!(
        sparse(Tar::new().pax(records).file("s", &[1; 1024])).extents,
        file.extents
    );
    let twice: &[(&str, &[u8])] = &[("GNU.sparse.offset", b"0"), ("GNU.sparse.offset", b"1")];
    assert!(
        refused(Tar::new().pax(twice).file("s", b""))
            .why
            .contains("out of order")
    );
}

#[test]
fn pax_sparse_1_0_has_its_map_in_front_of_the_data() {
    let version: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"8192"),
        ("GNU.sparse.name", b"real"),
    ];
    let with = |map: &[u8], data: usize| {
        let mut stored = map.to_vec();
        stored.resize(512, 0);
        stored.resize(512 + data, 1);
        Tar::new().pax(version).file("s", &stored)
    };
    let tar = with(b"2\n0\n512\n4096\n512\n", 1024);
    assert_eq!(
        *sparse(tar).extents,
        [at(0, 512, 2048), at(4096, 512, 2560)]
    );
    for map in [
        &b"2\n0\n512\n"[..],
        b"x\n",
        b"99999999999999999999\n",
        b"-1\n",
        b"\n",
        b"1\n0\n-5\n",
    ] {
        refused(with(map, 1024));
    }
}

#[test]
fn sparse_maps_that_overlap_or_do_not_fit_are_refused() {
    for (map, why) in [
        ("0,512,256,512", "overlap"),
        ("4096,512,0,512", "overlap"),
        ("0,512,8000,512", "beyond the file's size"),
        ("18446744073709551615,1024", "beyond the file's size"),
        ("0,512", "does not fit the data"),
        ("0,2048", "does not fit the data"),
        ("0,512,4096", "offset without a length"),
        ("0,x", "wrong number"),
        ("", "wrong number"),
    ] {
        let map = if map.is_empty() { "," } else { map };
        let error = refused(pax_sparse(map, "8192", &[1; 1024]));
        assert!(error.why.contains(why), "{map}: {error}");
        assert!(error.what.ends_with("real/name"));
    }
}

#[test]
fn sparse_pieces_beside_512_byte_blocks_are_copied() {
    let file = sparse(pax_sparse(
        "100,700,2048,100,4096,512,8000,192",
        "8192",
        &[7; 1504],
    ));
    let copies = [
        (0, 1024, 100..800),
        (2048, 512, 0..100),
        (4096, 512, 0..512),
        (7680, 512, 320..512),
    ];
    assert_eq!(file.extents.len(), copies.len());
    for (extent, (start, length, data)) in file.extents.iter().zip(copies) {
        assert_eq!((extent.start, extent.length), (start, length));
        let Source::Copy(bytes) = &extent.source else {
            panic!("{extent:?}")
        };
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(
                *byte,
                if data.contains(&at) { 7 } else { 0 },
                "{start} + {at}"
            );
        }
    }
}

#[test]
fn a_sparse_file_that_needs_endless_chunks_is_refused() {
    let error = refused(pax_sparse("512,1024", "9223372036854775807", &[1; 1024]));
    assert_eq!(error.reason, Reason::Policy);
    let file = sparse(pax_sparse(
        "1099511627776,1024",
        "1099511628800",
        &[1; 1024],
    ));
    assert_eq!((file.chunk_bits(), file.chunks()), (40, 2));
}

#[test]
fn chunks_are_as_large_as_one_piece_allows() {
    for (size, bits) in [
        (1, 9),
        (512, 9),
        (513, 10),
        (1 << 20, 20),
        ((1 << 20) + 1, 21),
        (u64::MAX, 40),
    ] {
        assert_eq!(whole_bits(size), bits, "{size}");
    }
}

// Compression.

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn unpack(compression: Compression, blob: &[u8]) -> Result<Layer> {
    let decoder = decoder(compression, blob)?;
    scan(BufReader::new(decoder), &Limits::default())
}

fn compressors() -> [(Compression, fn(&[u8]) -> Vec<u8>); 2] {
    [
        (Compression::Gzip, gzip),
        (Compression::Zstd, |data| zstd::encode_all(data, 3).unwrap()),
    ]
}

/// Content that does not compress, so that a blob has many bytes to cut and change.
fn noise() -> Vec<u8> {
    let noise: Vec<u8> = (0..100u32)
        .flat_map(|n| Digest::sha256(&n.to_le_bytes()).as_bytes().to_vec())
        .collect();
    Tar::new().file("noise", &noise).end()
}

#[test]
fn several_gzip_members_and_zstd_frames_are_one_stream() {
    let tar = noise();
    for (compression, compress) in compressors() {
        let (front, back) = tar.split_at(700);
        let blob = [compress(front), compress(b""), compress(back)].concat();
        assert_eq!(
            unpack(compression, &blob).unwrap(),
            unpack(Compression::None, &tar).unwrap()
        );
    }
}

#[test]
fn trailing_garbage_truncation_and_damage_of_a_blob_are_refused() {
    let tar = noise();
    for (compression, compress) in compressors() {
        let blob = compress(&tar);
        for garbage in [&b"x"[..], &[0; 512], b"\x1f\x8b", b"\x28\xb5\x2f\xfd"] {
            let error = unpack(compression, &[&blob, garbage].concat()).unwrap_err();
            assert!(error.why.contains("compressed stream"), "{error}");
        }
        for length in (0..blob.len()).step_by(7).chain(blob.len() - 8..blob.len()) {
            assert!(
                unpack(compression, &blob[..length]).is_err(),
                "{compression:?} {length}"
            );
        }
    }
}

#[test]
fn a_wrong_gzip_checksum_is_refused() {
    let blob = gzip(&noise());
    for back in 1..=8 {
        let mut wrong = blob.clone();
        let at = wrong.len() - back;
        wrong[at] ^= 1;
        let error = unpack(Compression::Gzip, &wrong).unwrap_err();
        assert!(error.why.contains("checksum"), "{error}");
    }
}

#[test]
fn a_zstd_window_over_the_limit_is_refused() {
    for (log, taken) in [(27, true), (28, false)] {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&noise()).unwrap();
        let blob = encoder.finish().unwrap();
        assert_eq!(unpack(Compression::Zstd, &blob).is_ok(), taken, "{log}");
    }
}

#[test]
fn a_tee_hashes_and_keeps_every_byte() {
    let mut tar = Tar::new().file("f", &vec![3; 1_000_000]).end();
    tar.extend(vec![5; 700_000]);
    let mut kept = Vec::new();
    let mut tee = Tee::new(&tar[..], Algorithm::Sha256, Some(&mut kept));
    let layer = scan(&mut tee, &Limits::default()).unwrap();
    assert_eq!(tee.finish(), (Digest::sha256(&tar), tar.len() as u64));
    assert_eq!((kept, layer.size), (tar.clone(), tar.len() as u64));
    let mut read = Vec::new();
    Tee::new(&tar[..], Algorithm::Sha512, None)
        .read_to_end(&mut read)
        .unwrap();
    assert_eq!(read, tar);
}

#[test]
fn a_write_that_fails_is_a_system_error() {
    let mut full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let tar = Tar::new().file("f", b"").end();
    let tee = Tee::new(&tar[..], Algorithm::Sha256, Some(&mut full));
    let error = scan(tee, &Limits::default()).unwrap_err();
    assert_eq!(error.reason, Reason::System);
}

// Anything at all.

fn any_tar() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-c./]{0,6}|\\.wh\\.[a-c]";
    let entry = (
        prop::sample::select(b"01234567xgLKS\0".to_vec()),
        name,
        name,
        prop::collection::vec(any::<u8>(), 0..600),
    );
    let numbers = prop::collection::vec(
        (
            prop::sample::select(vec![
                "size",
                "uid",
                "mtime",
                "GNU.sparse.map",
                "GNU.sparse.size",
                "GNU.sparse.major",
                "GNU.sparse.minor",
                "GNU.sparse.realsize",
                "GNU.sparse.offset",
                "path",
                "SCHILY.xattr.user.x",
            ]),
            "[0-9,.-]{0,6}",
        ),
        0..4,
    );
    prop::collection::vec((entry, numbers), 0..6).prop_map(|entries| {
        let mut tar = Tar::new();
        for ((kind, name, link, data), records) in entries {
            let records: Vec<(&str, &[u8])> = records
                .iter()
                .map(|(key, value)| (*key, value.as_bytes()))
                .collect();
            let data = if matches!(kind, b'x' | b'g') {
                pax(&records)
            } else {
                data
            };
            tar = tar.raw(kind, name, link, &data, |_| ());
        }
        tar.end()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = scan(&bytes[..], &Limits::default());
    }

    #[test]
    fn mutated_tars_never_panic_and_yield_normal_paths(
        mut tar in any_tar(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (at, byte) in changes {
            let at = at.index(tar.len());
            tar[at] = byte;
            let block = at - at % 512;
            // Half of the changes come with the right checksum.
            if byte % 2 == 0 && block + 512 <= tar.len() {
                checksum(&mut tar[block..block + 512]);
            }
        }
        if let Ok(layer) = scan(&tar[..], &Limits::default()) {
            prop_assert_eq!(layer.size, tar.len() as u64);
            for entry in &layer.entries {
                prop_assert!(entry.path.len() <= PATH_LIMIT);
                prop_assert!(entry.path.is_empty() || entry.path.split(|b| *b == b'/').all(
                    |part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0)));
                if let Kind::File { size, offset } = entry.kind {
                    prop_assert!(offset % 512 == 0 && offset + size <= layer.size);
                }
            }
        }
    }
}
