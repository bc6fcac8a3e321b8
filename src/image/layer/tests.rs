#![allow(clippy::unwrap_used)]

mod anything;
mod blobs;
mod names;
mod sparse;

use super::sample::{Tar, put};
use super::*;
use crate::base::error::{Error, Reason};

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

/// Content of 32 bytes: if it were not skipped, the next header would be misread.
const DATA: &[u8] = b"thirty-two bytes of file content";

#[test]
fn a_file_is_read_as_its_attributes_and_an_offset() {
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
fn pax_records_override_the_header() {
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
fn a_pax_size_does_not_apply_to_a_long_name_after_it() {
    let tar = Tar::new()
        .pax(&[("size", b"32")])
        .raw(b'L', "long", "", b"the/long/name\0", |_| ())
        .file("f", DATA);
    assert_eq!(&*only(tar).path, b"the/long/name");
}

/// Matches containerd, Docker and Podman, not POSIX: docs/image-formats.md.
#[test]
fn global_pax_records_apply_to_nothing() {
    let all: &[(&str, &[u8])] = &[
        ("uid", b"7"),
        ("mtime", b"3"),
        ("path", b"renamed"),
        ("size", b"1"),
        ("SCHILY.xattr.user.k", b"v"),
        ("comment", b"c"),
    ];
    let with = Tar::new()
        .global(all)
        .file("a", DATA)
        .pax(&[("gid", b"9")])
        .file("b", b"");
    let without = Tar::new()
        .file("a", DATA)
        .pax(&[("gid", b"9")])
        .file("b", b"");
    let offsets = |layer: Layer| -> Vec<_> {
        let entries = layer.entries.into_iter();
        entries.map(|entry| (entry.path, entry.meta)).collect()
    };
    assert_eq!(offsets(with.layer()), offsets(without.layer()));
    let lies = Tar::new()
        .raw(b'g', "g", "", b"9 uid=1\n", |_| ())
        .file("a", b"");
    assert_eq!(refused(lies).why, "a PAX record is malformed");
    let between = Tar::new().pax(&[("uid", b"1")]).global(all).file("a", b"");
    assert_eq!(
        refused(between).why,
        "a global header stands between the entry and its extension headers"
    );
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
fn sizes_and_ids_that_are_not_numbers_are_refused() {
    for (at, bytes, why) in [
        (
            124,
            &b"-0000000001\0"[..],
            "the size in its header is not a number",
        ),
        (
            124,
            b"0000000008\0\0",
            "the size in its header is not a number",
        ),
        (
            124,
            b"0x000000000\0",
            "the size in its header is not a number",
        ),
        (124, &[0xff; 12], "the size in its header is negative"),
        (
            124,
            &[0x80, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            "the size in its header is not a number",
        ),
        (100, b"rw-r--r-", "the mode in its header is not a number"),
        (108, &[0xff; 8], "the uid in its header is negative"),
        (
            108,
            &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            "uid 4294967295 is not a valid ID",
        ),
        (
            136,
            b"yesterday\0\0\0",
            "the mtime in its header is not a number",
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
fn a_checksum_of_signed_bytes_is_accepted() {
    let mut tar = Tar::new().file(b"\xff", b"");
    put(&mut tar.0, 148, b"        ");
    let sum: i64 = tar.0.iter().map(|byte| i64::from(byte.cast_signed())).sum();
    put(&mut tar.0, 148, format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(&*only(tar).path, b"\xff");
}

#[test]
fn malformed_pax_records_are_refused() {
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
            "a PAX record is malformed",
            "{:?}",
            String::from_utf8_lossy(data)
        );
    }
    for (key, why) in [
        ("uid", "the PAX record uid is not a number"),
        ("size", "the PAX record size is not a number"),
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
        "the entry has two extension headers of one kind"
    );
    let differ = long(Tar::new().pax(&[("path", b"a")]), b"b").file("f", b"");
    assert_eq!(
        refused(differ).why,
        "the entry has two different long names"
    );
    let agree = long(Tar::new().pax(&[("path", b"a")]), b"a\0").file("f", b"");
    assert_eq!(&*only(agree).path, b"a");
    let last = Tar::new().pax(&[("path", b"a")]);
    assert!(refused(last).why.contains("extension header has no entry"));
}

/// The digest proves that no entry is missing; an entry that is cut short is refused.
#[test]
fn a_tar_may_end_after_any_entry_and_nowhere_else() {
    let complete = Tar::new()
        .pax(&[("uid", b"1")])
        .file("f", &[1; 700])
        .directory("d")
        .end();
    // PAX headers and their data, the file's header, data and padding, then the directory.
    let (data, file, directory) = (1536 + 700, 1536 + 1024, 1536 + 1024 + 512);
    for length in 0..=complete.len() {
        let entries = match length {
            0 => Some(0),
            length if (data..=file).contains(&length) => Some(1),
            length if length >= directory => Some(2),
            _ => None,
        };
        let layer = scan(&complete[..length], &Limits::default()).ok();
        assert_eq!(
            layer.map(|layer| layer.entries.len()),
            entries,
            "{length} bytes"
        );
        let limits = Limits {
            end_blocks: true,
            ..Limits::default()
        };
        let has_end = length > directory;
        assert_eq!(
            scan(&complete[..length], &limits).is_ok(),
            has_end,
            "{length} bytes"
        );
    }
}

#[test]
fn the_last_bytes_of_a_file_without_padding_are_copied() {
    let mut tar = Tar::new().file("a", &[1; 5]).file("f", &[7; 1100]).0;
    tar.truncate(tar.len() - 400);
    let layer = scan(&tar[..], &Limits::default()).unwrap();
    assert_eq!(
        layer.entries[0].kind,
        Kind::File {
            size: 5,
            offset: 512
        }
    );
    let Kind::Sparse(file) = &layer.entries[1].kind else {
        panic!("{:?}", layer.entries[1].kind);
    };
    let mut last = vec![7; 76];
    last.resize(512, 0);
    let extent = |start, length, source| Extent {
        start,
        length,
        source,
    };
    assert_eq!(file.size, 1100);
    assert_eq!(
        *file.extents,
        [
            extent(0, 1024, Source::Tar(1536)),
            extent(1024, 512, Source::Copy(last))
        ]
    );
}

#[test]
fn a_size_larger_than_the_data_is_refused_without_allocating_it() {
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
        "tar entry f: the tar ends in the middle of the entry"
    );
}

#[test]
fn data_after_the_end_blocks_counts_only_towards_the_size() {
    let mut bytes = Tar::new().file("a", b"").end();
    bytes.extend(Tar::new().file("b", b"").end());
    bytes.extend(b"and more");
    let layer = scan(&bytes[..], &Limits::default()).unwrap();
    assert_eq!((layer.entries.len(), layer.size), (1, bytes.len() as u64));
}

#[test]
fn a_single_zero_block_is_valid_only_at_the_end() {
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
            .starts_with("a single zero block")
    );
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
fn an_unknown_type_is_refused_and_named() {
    for kind in *b"8MVDNAZ" {
        let error = refused(Tar::new().raw(kind, "f", "", b"", |_| ()));
        assert_eq!(error.why, format!("type {:?} is unknown", char::from(kind)));
    }
}

#[test]
fn device_nodes_are_counted_and_fifos_are_kept() {
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
fn setuid_is_kept_and_file_type_bits_are_removed_from_the_mode() {
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
fn xattrs_over_the_limits_of_an_inode_are_refused() {
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
            .contains("invalid name")
    );
    assert!(refused(with("user.", 1)).why.contains("invalid name"));
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
fn a_scan_ends_at_its_limits() {
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
