//! Compressed blobs and the tee.

use super::*;
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::Result;
use std::io::{BufReader, Read, Write};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn unpack(compression: Compression, blob: &[u8]) -> Result<Layer> {
    let decoder = decoder(compression, blob)?;
    scan(BufReader::new(decoder), &Limits::default())
}

type Compress = fn(&[u8]) -> Vec<u8>;

fn compressors() -> [(Compression, Compress); 2] {
    [
        (Compression::Gzip, gzip),
        (Compression::Zstd, |data| zstd::encode_all(data, 3).unwrap()),
    ]
}

/// Returns content that does not compress, so that a blob has many bytes to cut and change.
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
fn gzip_and_zstd_are_told_apart_by_their_first_bytes() {
    let tar = noise();
    for (_, compress) in compressors() {
        let layer = unpack(Compression::GzipOrZstd, &compress(&tar)).unwrap();
        assert_eq!(layer, unpack(Compression::None, &tar).unwrap());
    }
    for wrong in [&tar[..], b"", b"\x1f"] {
        assert!(unpack(Compression::GzipOrZstd, wrong).is_err());
    }
}

/// Only the window in the header matters: content this small needs little memory.
#[test]
fn a_zstd_window_up_to_podmans_limit_is_read_and_a_larger_one_is_refused() {
    let with_window = |log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&noise()).unwrap();
        encoder.finish().unwrap()
    };
    for log in [20, 27, 28, 29] {
        let layer = unpack(Compression::Zstd, &with_window(log));
        assert!(layer.is_ok(), "{log}: {layer:?}");
    }
    for log in [30, 31] {
        let error = unpack(Compression::Zstd, &with_window(log)).unwrap_err();
        let expected = format!(
            "its zstd window is {} MiB; imrun reads up to 512 MiB",
            1 << (log - 20)
        );
        assert!(error.why.starts_with(&expected), "{error}");
        assert!(error.hint.unwrap().contains("--long=29"));
    }
}

/// Number of content bytes that a frame's header declares.
#[test]
fn the_window_of_a_single_segment_is_its_size() {
    let blob = |size: u64| {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
        frame.extend(size.to_le_bytes());
        frame.extend([0; 8]);
        frame
    };
    let why = |size| unpack(Compression::Zstd, &blob(size)).unwrap_err().why;
    assert!(why(u64::MAX).contains("its zstd window is"));
    assert!(why((512 << 20) + 1).contains("its zstd window is"));
    assert!(!why(1 << 20).contains("its zstd window is"));
}

#[test]
fn a_tee_hashes_and_copies_every_byte() {
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
