//! Layers of short names through merge, synthesise and the EROFS writer: `cargo fuzz run tree`.
//!
//! Four bytes make an entry: kind, name, target, size; a zero byte for the kind starts a layer.
#![no_main]

use imrun::base::digest::Digest;
use imrun::image::erofs::{Device, write};
use imrun::image::layer::{Entry, Kind, Layer, Meta};
use imrun::image::tree::{merge, synthesise};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 16] = [
    "a",
    "b",
    "a/a",
    "a/b",
    "b/a",
    "b/b",
    "a/a/a",
    "a/b/a",
    "dev",
    "dev/a",
    "etc",
    "etc/hosts",
    "proc",
    "sys/fs",
    "sys",
    "",
];
const TARGETS: [&str; 8] = ["a", "b", "../a", "/b/a", "a/..", "/", "..", "etc"];

fuzz_target!(|data: &[u8]| {
    let mut layers = vec![Layer::default()];
    for bytes in data.chunks_exact(4) {
        match (bytes[0], layers.last_mut()) {
            (0, _) => layers.push(Layer::default()),
            (_, Some(layer)) => layer.entries.extend(entry(bytes)),
            (_, None) => {}
        }
    }
    // The tree does not ask whether there were devices unless a layer counts them.
    for layer in &mut layers {
        layer.dropped.devices = layer
            .entries
            .iter()
            .filter(|e| e.kind == Kind::Device)
            .count() as u64;
    }
    let devices = vec![
        Device {
            digest: Digest::sha256(b""),
            size: 1 << 20
        };
        layers.len()
    ];
    let Ok(mut tree) = merge(layers) else { return };
    if synthesise(&mut tree).is_ok() {
        let mut image = Vec::new();
        write(&tree, &devices, &mut image).expect("a small tree can be written");
        assert_eq!(image.len() % 512, 0);
    }
});

fn entry(bytes: &[u8]) -> Option<Entry> {
    let name = |byte: u8| NAMES[usize::from(byte) % NAMES.len()].as_bytes();
    let kind = match bytes[0] % 8 {
        0 => Kind::Directory,
        1 => Kind::File {
            size: u64::from(bytes[3]) << (bytes[2] % 12),
            offset: 512,
        },
        2 => Kind::Symlink(
            TARGETS[usize::from(bytes[2]) % TARGETS.len()]
                .as_bytes()
                .into(),
        ),
        3 => Kind::HardLink(name(bytes[2]).into()),
        4 => Kind::Fifo,
        5 => Kind::Device,
        6 => Kind::Whiteout,
        _ => Kind::Opaque,
    };
    let path = name(bytes[1]);
    // As the scan has it: the root is a directory or opaque.
    let root = matches!(kind, Kind::Directory | Kind::Opaque);
    (root || !path.is_empty()).then(|| Entry {
        path: path.into(),
        meta: Meta::default(),
        kind,
    })
}
