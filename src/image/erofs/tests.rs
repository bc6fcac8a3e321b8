#![allow(clippy::unwrap_used)]

use super::*;
use crate::image::layer::sample::{Tar, pax, put};
use crate::image::layer::{Layer, Source};
use crate::image::tree::{Content, InodeId, Tree, merge, synthesise};
use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

/// Merges some tars and writes the tree's image.
fn image(tars: &[Vec<u8>]) -> (Tree, Vec<u8>) {
    let layers: Vec<Layer> = tars
        .iter()
        .map(|tar| crate::image::layer::scan(&tar[..], &Default::default()).unwrap())
        .collect();
    let tree = merge(layers).unwrap();
    let image = write_to_vec(&tree, &devices(tars));
    (tree, image)
}

fn devices(tars: &[Vec<u8>]) -> Vec<Device> {
    tars.iter()
        .map(|tar| Device {
            digest: Digest::sha256(tar),
            size: tar.len() as u64,
        })
        .collect()
}

fn write_to_vec(tree: &Tree, devices: &[Device]) -> Vec<u8> {
    let mut image = Vec::new();
    write(tree, devices, &mut image).unwrap();
    image
}

fn bytes(tree: &Tree, id: InodeId, tars: &[Vec<u8>]) -> Vec<u8> {
    let piece = |layer: u16, from: u64, size: u64| {
        tars[layer as usize][from as usize..][..size as usize].to_vec()
    };
    match &tree.inode(id).content {
        Content::File { size: 0, .. } => Vec::new(),
        Content::File {
            layer,
            size,
            offset,
        } => piece(*layer, *offset, *size),
        Content::Sparse { layer, file } => {
            let mut out = vec![0; file.size as usize];
            for extent in &file.extents {
                let data = match &extent.source {
                    Source::Tar(offset) => piece(*layer, *offset, extent.length),
                    Source::Copy(bytes) => bytes.clone(),
                };
                let end = out.len().min(extent.start as usize + data.len());
                out[extent.start as usize..end]
                    .copy_from_slice(&data[..end - extent.start as usize]);
            }
            out
        }
        other => panic!("{other:?}"),
    }
}

/// Compares the tree with everything that an independent reader finds in the image.
fn check(tree: &Tree, image: &[u8], tars: &[Vec<u8>]) {
    let blobs = tars.iter().map(|tar| SliceImage::new(tar)).collect();
    let fs = EroFS::new_with_devices(SliceImage::new(image), blobs).unwrap();
    let mut found = 0;
    for item in fs.walk_dir("/").unwrap() {
        let item = item.unwrap();
        let path = item.dir_entry.path();
        let entry = tree
            .lookup(path.as_bytes(), false)
            .unwrap_or_else(|| panic!("{path:?}"));
        check_inode(tree, entry.inode, &fs, item.inode, tars);
        found += 1;
    }
    assert_eq!(found + 1, tree.walk().count());
}

fn check_inode(
    tree: &Tree,
    id: InodeId,
    fs: &EroFS<SliceImage<'_>>,
    inode: erofs_rs::types::Inode,
    tars: &[Vec<u8>],
) {
    let ours = tree.inode(id);
    assert_eq!(
        inode.permissions().mode() & 0o7777,
        u32::from(ours.meta.mode)
    );
    assert_eq!(
        (inode.uid(), inode.gid(), inode.nlink()),
        (ours.meta.uid, ours.meta.gid, tree.links(id))
    );
    assert_eq!(
        inode.modified_unix(),
        (ours.meta.mtime, ours.meta.nanoseconds)
    );
    let xattrs = fs.xattrs_inode(inode).unwrap();
    assert_eq!(xattrs.len(), ours.meta.xattrs.len());
    for xattr in &ours.meta.xattrs {
        assert_eq!(xattrs.get(&xattr.name[..]).unwrap()[..], xattr.value[..]);
    }
    match &ours.content {
        Content::Directory(_) => assert!(inode.is_dir()),
        Content::Symlink(target) => {
            assert_eq!(fs.read_link_inode(inode).unwrap().as_bytes(), &target[..]);
        }
        Content::Device { major, minor } => assert_eq!(inode.device(), Some((*major, *minor))),
        Content::Fifo => assert!(!inode.is_file() && !inode.is_dir() && !inode.is_symlink()),
        Content::Dropped => panic!("a free inode has a name"),
        Content::File { .. } | Content::Sparse { .. } => {
            use std::io::Read;
            let mut file = fs.open_inode_file(inode).unwrap();
            let mut data = Vec::new();
            file.read_to_end(&mut data).unwrap();
            assert!(data == bytes(tree, id, tars), "{id:?} differs");
        }
    }
}

#[test]
fn the_superblock_and_the_device_table_have_the_kernels_format() {
    let tars = [Tar::new().file("f", b"x").end(), Tar::new().end()];
    let (_, image) = image(&tars);
    let u16_at = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    assert_eq!((u32_at(1024), image[1024 + 12]), (0xE0F5_E1E2, 9));
    assert_eq!(u16_at(1024 + 14), (1152 + 2 * 128) / 32);
    assert_eq!(u32_at(1024 + 36) as usize * 512, image.len());
    assert_eq!(u32_at(1024 + 80), 0xC);
    assert_eq!((u16_at(1024 + 86), u16_at(1024 + 88)), (2, 9));
    assert_eq!(
        &image[1152..1216],
        Digest::sha256(&tars[0]).hex().as_bytes()
    );
    assert_eq!((u32_at(1216), u32_at(1216 + 128)), (4, 2));
}

#[test]
fn the_same_tree_and_devices_give_the_same_bytes() {
    let tars = [
        Tar::new().file("d/f", b"x").hard_link("g", "d/f").end(),
        Tar::new().file(".wh.g", b"").end(),
    ];
    let first = image(&tars).1;
    assert_eq!(first, image(&tars).1);
    let [a, b] = tars;
    assert_ne!(first, image(&[b, a]).1);
}

/// Two layers that contain every kind of content of a tree image. A hole of 5 GiB and a time beyond
/// 2^32 exceed 32 bits.
fn some_of_everything() -> [Vec<u8>; 2] {
    let times: &[(&str, &[u8])] = &[("mtime", b"8589934592.000000007")];
    let xattrs: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.a", &[b'v'; 300]),
        ("SCHILY.xattr.security.capability", b"c"),
    ];
    let hole: &[(&str, &[u8])] = &[
        ("GNU.sparse.map", b"5368709120,0"),
        ("GNU.sparse.size", b"5368709120"),
    ];
    let sparse: &[(&str, &[u8])] = &[
        ("GNU.sparse.map", b"0,100,4096,412"),
        ("GNU.sparse.size", b"8192"),
    ];
    let low = (0..200u32)
        .fold(Tar::new().directory("many"), |tar, n| {
            tar.file(format!("many/{n:05}"), &n.to_le_bytes())
        })
        .file("gone", b"x")
        .pax(xattrs)
        .file("xattrs", &[b'x'; 5000]);
    let high = Tar::new()
        .file(".wh.gone", b"")
        .pax(times)
        .symlink("late", "t".repeat(90))
        .pax(&[("linkpath", &[b't'; 700])])
        .symlink("long", "")
        .hard_link("link", "long")
        .raw(b'6', "fifo", "", b"", |_| ())
        .pax(hole)
        .file("hole", b"")
        .pax(sparse)
        .file("sparse", &[b's'; 512]);
    [low.end(), high.end()]
}

/// If the bytes change, increase [`WRITER_VERSION`]: verity annotations and stores name tree images by it.
#[test]
fn the_bytes_of_this_writer_version_are_the_same_on_every_machine() {
    let tars = some_of_everything();
    let layers = tars
        .iter()
        .map(|tar| crate::image::layer::scan(&tar[..], &Default::default()).unwrap());
    let mut tree = merge(layers).unwrap();
    synthesise(&mut tree).unwrap();
    let image = write_to_vec(&tree, &devices(&tars));
    let pinned = "sha256:7b0a1e5239917061df372a99ac0478b67a2916d46213205168b3dafb73c694fb";
    assert_eq!(
        (WRITER_VERSION, Digest::sha256(&image).to_string().as_str()),
        (1, pinned)
    );
}

#[test]
fn a_tree_image_is_named_by_its_layers_in_their_order() {
    let [a, b] = [Digest::sha256(b"a"), Digest::sha256(b"b")];
    assert_ne!(identity(&[a, b]), identity(&[b, a]));
    assert_ne!(identity(&[a]), identity(&[a, a]));
    let text = format!("imrun tree image 1\n{a}\n{b}\n");
    assert_eq!(identity(&[a, b]), Digest::sha256(text.as_bytes()));
}

#[test]
fn a_file_without_its_device_is_refused() {
    let tree = merge([Tar::new().file("f", b"x").layer()]).unwrap();
    let error = write(&tree, &[], &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tree image: a file is in a layer without a device"
    );
}

#[test]
fn tars_over_2_tib_and_too_many_layers_are_refused() {
    let tree = merge([]).unwrap();
    let device = |size| Device {
        digest: Digest::sha256(b""),
        size,
    };
    assert!(write(&tree, &[device((1 << 41) - 512)], &mut Vec::new()).is_ok());
    assert!(write(&tree, &[device(1 << 41)], &mut Vec::new()).is_err());
    assert!(write(&tree, &vec![device(0); 8192], &mut Vec::new()).is_ok());
    assert!(write(&tree, &vec![device(0); 8193], &mut Vec::new()).is_err());
}

#[test]
fn a_write_that_fails_is_an_error() {
    let mut full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let error = write(&merge([]).unwrap(), &[], &mut full).unwrap_err();
    assert_eq!(
        error.to_string(),
        "write the tree image: No space left on device"
    );
}

#[test]
fn the_runtimes_own_files_are_read_back_by_an_independent_reader() {
    let mut tree = merge([]).unwrap();
    synthesise(&mut tree).unwrap();
    check(&tree, &write_to_vec(&tree, &[]), &[]);
}

#[test]
fn contents_of_every_length_around_a_block_are_read_back() {
    let mut tar = Tar::new();
    for length in (1..130).chain(440..600).chain(1000..1100).chain(4090..4096) {
        let target = "t".repeat(length);
        let path = format!("links/{length}");
        tar = tar
            .pax(&[("path", path.as_bytes()), ("linkpath", target.as_bytes())])
            .symlink("", "");
        if length < 256 {
            tar = tar.file(
                format!("directories/{length}/{}", "n".repeat(length.min(90))),
                b"x",
            );
        }
    }
    for count in [1, 30, 31, 32, 300] {
        tar = (0..count).fold(tar, |tar, n| {
            tar.file(format!("counts/{count}/{n:05}"), b"")
        });
    }
    for size in [0, 1, 511, 512, 513, 1024, 5000] {
        tar = tar.file(format!("sizes/{size}"), &vec![size as u8; size]);
    }
    let tars = [tar
        .file("d/!", b"1")
        .file("d/-", b"2")
        .file("d/.\x01", b"3")
        .file("d/...", b"4")
        .end()];
    let (tree, image) = image(&tars);
    check(&tree, &image, &tars);
}

#[test]
fn xattrs_of_any_size_are_read_back_beside_inline_contents() {
    let mut tar = Tar::new();
    for size in (1..70).chain([400, 511, 512, 513, 3000, 65_535]) {
        let value = vec![b'v'; size];
        let records: &[(&str, &[u8])] = &[
            ("SCHILY.xattr.user.a", &value),
            ("SCHILY.xattr.security.capability", b"c"),
        ];
        tar = tar
            .pax(records)
            .symlink(format!("l{size}"), "t".repeat(90))
            .pax(records)
            .file(format!("f{size}"), b"data");
        tar = tar.pax(records).directory(format!("d{size}"));
    }
    let tars = [tar.end()];
    let (tree, image) = image(&tars);
    check(&tree, &image, &tars);
}

#[test]
fn inline_contents_never_cross_a_block() {
    let value = [b'v'; 333];
    let tar = (1..=448).fold(Tar::new(), |tar, length| {
        let target = "t".repeat(length);
        let records: &[(&str, &[u8])] = &[
            ("linkpath", target.as_bytes()),
            ("SCHILY.xattr.user.a", &value[..length % 333 + 1]),
        ];
        tar.pax(records).symlink(format!("{length}"), "")
    });
    let tree = merge([tar.layer()]).unwrap();
    let plan = plan::Plan::new(&tree, 1).unwrap();
    for (inode, parent) in &plan.order {
        let shape = plan.shape(*inode, &plan.contents(*inode, *parent));
        let tail = plan.nid(*inode) * 32 + plan.head(*inode);
        if shape.layout == format::Layout::Inline {
            assert_eq!(tail / 512, (tail + shape.behind - 1) / 512);
        }
    }
}

#[test]
fn sparse_files_are_read_back_with_holes_and_copied_pieces() {
    let maps = [
        "0,512",
        "512,512",
        "7680,512",
        "100,512",
        "0,100,4096,412",
        "1000,24,2048,488",
        "8000,192,8192,320",
        "",
    ];
    let mut tar = Tar::new();
    for (index, map) in maps.iter().enumerate() {
        let size = if index == 6 { "8700" } else { "8192" };
        let map = if map.is_empty() { "8192,0" } else { map };
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.size", size.as_bytes()),
        ];
        let data: Vec<u8> = if map == "8192,0" {
            Vec::new()
        } else {
            (0..512).map(|n| (n + index) as u8).collect()
        };
        tar = tar
            .pax(records)
            .file(format!("s{index}"), &data)
            .hard_link(format!("l{index}"), format!("s{index}"));
    }
    let tars = [Tar::new().file("other", b"x").end(), tar.end()];
    let (tree, image) = image(&tars);
    check(&tree, &image, &tars);
}

fn any_layer() -> impl Strategy<Value = Vec<u8>> {
    let name = "[abc]{1,2}(/[abc]{1,60}){0,2}";
    let records =
        prop::collection::vec((0..3usize, prop::collection::vec(any::<u8>(), 1..90)), 0..3);
    let times = (any::<i32>(), 0..1_000_000_000u32);
    let entry = (
        prop::sample::select(b"005526".to_vec()),
        name,
        "[abc]{1,200}",
        prop::collection::vec(any::<u8>(), 0..1200),
        records,
        times,
    );
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        let mut tar = Tar::new();
        for (kind, name, link, data, xattrs, (seconds, nanoseconds)) in entries {
            let mtime = format!("{seconds}.{nanoseconds:09}");
            let keys = [
                "SCHILY.xattr.user.a",
                "SCHILY.xattr.user.bcd",
                "SCHILY.xattr.security.capability",
            ];
            let mut records: Vec<(&str, &[u8])> =
                vec![("mtime", mtime.as_bytes()), ("linkpath", link.as_bytes())];
            records.extend(xattrs.iter().map(|(key, value)| (keys[*key], &value[..])));
            let data = if kind == b'0' { &data[..] } else { b"" };
            let mode = |header: &mut [u8]| {
                put(
                    header,
                    100,
                    format!("{:07o}\0", seconds & 0o7777).as_bytes(),
                )
            };
            tar = tar
                .raw(b'x', "pax", "", &pax(&records), |_| ())
                .raw(kind, name, "", data, mode);
        }
        tar.end()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_read_back_by_an_independent_reader(tars in prop::collection::vec(any_layer(), 1..4)) {
        let layers = tars.iter().map(|tar| crate::image::layer::scan(&tar[..], &Default::default()).unwrap());
        let Ok(tree) = merge(layers) else { return Ok(()) };
        check(&tree, &write_to_vec(&tree, &devices(&tars)), &tars);
    }
}
