use super::*;
use proptest::prelude::*;
use std::io::Write as _;
use std::process::{Command, Stdio};

fn digest(pieces: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::default();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finish()
}

/// Computes the digest by definition: level by level, everything in memory.
fn by_definition(bytes: &[u8]) -> Digest {
    let blocks = |bytes: &[u8]| {
        let padded = |block: &[u8]| {
            let mut block = block.to_vec();
            block.resize(BLOCK, 0);
            hash(&block)
        };
        bytes.chunks(BLOCK).flat_map(padded).collect::<Vec<u8>>()
    };
    let mut hashes = blocks(bytes);
    while hashes.len() > HASH {
        hashes = blocks(&hashes);
    }
    hashes.resize(HASH, 0);
    let mut descriptor = vec![1, 1, 12, 0, 0, 0, 0, 0];
    descriptor.extend((bytes.len() as u64).to_le_bytes());
    descriptor.extend(hashes);
    descriptor.resize(256, 0);
    Digest::sha256(&descriptor)
}

/// Returns the output of `fsverity digest` (Debian's package fsverity), if installed.
fn by_fsverity(bytes: &[u8]) -> Option<Digest> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut command = Command::new("fsverity");
    let command = command.args(["digest", "--compact"]).arg(file.path());
    let output = command.stderr(Stdio::inherit()).output().ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    Some(format!("sha256:{}", text.trim()).parse().unwrap())
}

fn bytes(length: usize) -> Vec<u8> {
    let number = |n: usize| (n as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3];
    (0..length).map(number).collect()
}

/// Lengths at which the tree changes: blocks, a block of a level (128 hashes), two levels.
const LENGTHS: [usize; 13] = [
    0,
    1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    2 * BLOCK,
    127 * BLOCK,
    128 * BLOCK,
    128 * BLOCK + 1,
    129 * BLOCK,
    256 * BLOCK,
    128 * 128 * BLOCK,
    128 * 128 * BLOCK + 1,
];

#[test]
fn every_length_at_which_the_tree_changes_has_the_digest_by_definition() {
    for length in LENGTHS {
        let bytes = bytes(length);
        assert_eq!(digest(&[&bytes]), by_definition(&bytes), "{length} bytes");
    }
}

#[test]
fn the_digest_equals_that_of_the_tool_fsverity() {
    for length in LENGTHS {
        let bytes = bytes(length);
        match by_fsverity(&bytes) {
            Some(theirs) => assert_eq!(digest(&[&bytes]), theirs, "{length} bytes"),
            None => return eprintln!("skipped: fsverity is not installed"),
        }
    }
}

#[test]
fn an_empty_file_has_its_known_digest() {
    let empty = "sha256:3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95";
    assert_eq!(digest(&[]).to_string(), empty);
}

proptest! {
    #[test]
    fn pieces_of_any_size_give_the_digest_of_the_whole(
        length in 0usize..40 * BLOCK,
        cuts in prop::collection::vec(0usize..40 * BLOCK, 0..8),
    ) {
        let bytes = bytes(length);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(length)).collect();
        cuts.sort_unstable();
        cuts.push(length);
        let mut start = 0;
        let pieces = cuts.iter().map(|cut| {
            let piece = &bytes[start..*cut];
            start = *cut;
            piece
        });
        let pieces: Vec<_> = pieces.collect();
        prop_assert_eq!(digest(&pieces), by_definition(&bytes));
    }

    #[test]
    fn another_byte_gives_another_digest(length in 1usize..600 * BLOCK, at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = bytes(length);
        let before = digest(&[&bytes]);
        bytes[at.index(length)] ^= 1 << bit;
        prop_assert_ne!(digest(&[&bytes]), before);
    }
}
