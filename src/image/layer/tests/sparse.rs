//! Files with holes.

use super::*;

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
fn old_gnu_sparse_maps_continue_in_extension_blocks() {
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
fn sparse_maps_that_overlap_or_contradict_the_data_are_refused() {
    for (map, why) in [
        ("0,512,256,512", "overlap"),
        ("4096,512,0,512", "overlap"),
        ("0,512,8000,512", "beyond the file's size"),
        ("18446744073709551615,1024", "beyond the file's size"),
        ("0,512", "does not match the data"),
        ("0,2048", "does not match the data"),
        ("0,512,4096", "offset without a length"),
        ("0,x", "invalid number"),
        ("", "invalid number"),
    ] {
        let map = if map.is_empty() { "," } else { map };
        let error = refused(pax_sparse(map, "8192", &[1; 1024]));
        assert!(error.why.contains(why), "{map}: {error}");
        assert!(error.what.ends_with("real/name"));
    }
}

#[test]
fn unaligned_sparse_pieces_are_copied() {
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
fn a_sparse_file_that_needs_too_many_chunks_is_refused() {
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
fn chunks_are_as_large_as_the_pieces_allow() {
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
