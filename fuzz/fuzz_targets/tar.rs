//! Hostile bytes as a tar: `cargo fuzz run tar`.
//!
//! An odd first byte makes every block's checksum right, so that mutations get past it.
#![no_main]

use imrun::image::layer::{Limits, scan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, tar)) = data.split_first() else {
        return;
    };
    let mut tar = tar.to_vec();
    if first % 2 == 1 {
        tar.chunks_exact_mut(512)
            .filter(|block| block.iter().any(|b| *b != 0))
            .for_each(checksum);
        tar.extend([0; 1024]);
    }
    if let Ok(layer) = scan(
        &tar[..],
        &Limits {
            memory: 16 << 20,
            ..Limits::default()
        },
    ) {
        assert_eq!(layer.size, tar.len() as u64);
        assert!(
            layer
                .entries
                .iter()
                .all(|entry| !entry.path.starts_with(b"/"))
        );
    }
});

fn checksum(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}
