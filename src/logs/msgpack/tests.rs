use super::*;
use proptest::prelude::*;
use serde_json::json;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

#[test]
fn heads_are_the_shortest_of_the_specification() {
    let head = |length: usize| written(|to| text(to, &vec![b'x'; length]))[..5].to_vec();
    assert_eq!(head(31)[..2], [0xbf, b'x']);
    assert_eq!(head(32)[..3], [0xd9, 32, b'x']);
    assert_eq!(head(255)[..3], [0xd9, 255, b'x']);
    assert_eq!(head(256)[..4], [0xda, 1, 0, b'x']);
    assert_eq!(head(65_536), [0xdb, 0, 1, 0, 0]);
    assert_eq!(written(|to| bin(to, b"a")), [0xc4, 1, b'a']);
    assert_eq!(written(|to| bin(to, b"")), [0xc4, 0]);
    assert_eq!(written(|to| bin_head(to, 256)), [0xc5, 1, 0]);
    assert_eq!(written(|to| bin_head(to, 65_536)), [0xc6, 0, 1, 0, 0]);
    assert_eq!(written(|to| array(to, 15)), [0x9f]);
    assert_eq!(written(|to| array(to, 16)), [0xdc, 0, 16]);
    assert_eq!(written(|to| map(to, 0)), [0x80]);
    assert_eq!(written(|to| map(to, 65_536)), [0xdf, 0, 1, 0, 0]);
    assert_eq!(written(|to| text(to, b"\xff")), [0xc4, 1, 0xff]);
}

#[test]
fn numbers_and_times_are_those_of_the_specifications() {
    for (number, bytes) in [
        (0, &[0][..]),
        (127, &[127]),
        (128, &[0xcc, 128]),
        (256, &[0xcd, 1, 0]),
        (65_536, &[0xce, 0, 1, 0, 0]),
        (1 << 32, &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0]),
    ] {
        assert_eq!(written(|to| unsigned(to, number)), bytes);
    }
    let time = written(|to| event_time(to, 1_000_000_002));
    assert_eq!(time, [0xd7, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
}

#[test]
fn a_json_value_keeps_its_types() {
    let json = json!({ "a": [null, true, -1, 1.5, "x"] });
    let expected = [
        &[0x81, 0xa1, b'a', 0x95, 0xc0, 0xc3, 0xd3][..],
        &(-1i64).to_be_bytes(),
        &[0xcb],
        &1.5f64.to_be_bytes(),
        &[0xa1, b'x'],
    ];
    assert_eq!(written(|to| value(to, &json)), expected.concat());
}

fn answer() -> Vec<u8> {
    written(|to| {
        map(to, 2);
        text(to, b"ack");
        text(to, &[b'c'; 40]);
        text(to, b"more");
        bin(to, b"x");
    })
}

#[test]
fn a_map_of_strings_is_read_and_what_follows_is_left() {
    let mut bytes = answer();
    let length = bytes.len();
    bytes.push(0xff);
    let name = "c".repeat(40);
    let pairs = vec![("ack", &name[..]), ("more", "x")];
    assert_eq!(strings(&bytes), Ok(Parsed::Whole(pairs, length)));
    for end in 0..length {
        assert_eq!(strings(&bytes[..end]), Ok(Parsed::Partial), "{end}");
    }
}

#[test]
fn anything_else_is_an_error() {
    for bytes in [
        &b"\xc0"[..],
        b"HTTP/1.1 400",
        b"\x81\x01\xa0",
        b"\x81\xa1\xff",
        b"\x8f\x00",
        b"\xde\xff\xff",
        b"\x81\xdb\xff\xff\xff\xff",
        b"\x81\xa1a\x81",
    ] {
        assert!(strings(bytes).is_err(), "{bytes:x?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(Parsed::Whole(pairs, length)) = strings(&bytes) {
            prop_assert!(length <= bytes.len() && pairs.len() * 2 < length.max(1));
        }
    }
}
