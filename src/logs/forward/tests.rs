use super::super::event::Stream;
use super::*;
use crate::logs::FailureKind;
use serde_json::json;
use std::io::Write as _;
use std::net::{Shutdown, TcpListener};

fn origin() -> Origin {
    Origin {
        container_id: "c".into(),
        container_name: Some("web".into()),
        image_digest: "d".into(),
        host_name: "h".into(),
        launch_id: "l".into(),
    }
}

fn ack(chunk: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    msgpack::map(&mut bytes, 1);
    pair(&mut bytes, "ack", chunk);
    bytes
}

#[test]
fn a_batch_is_settled_only_by_the_acknowledgement_of_its_chunk() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let url: SinkUrl = format!("forward+tcp://{address}").parse().unwrap();
    let peer = Peer::new(&address, None, Duration::from_secs(60)).unwrap();
    let mut batch = Batch::default();
    batch.push_line(0, 1, Stream::Stdout, b"line", false);
    // The acknowledgement of another chunk, or none from a peer that closes.
    for answer in [ack("another"), Vec::new()] {
        let mut sink = Forward::new(&url, peer.clone(), &origin());
        sink.send(&batch).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(&answer).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let failure = sink.settle(&batch, None).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Again, "{failure:?}");
    }
}

#[test]
fn an_acknowledgement_names_its_chunk() {
    let two = [ack("one"), ack("two")].concat();
    assert_eq!(
        acknowledged(&two).unwrap(),
        Parsed::Whole("one", ack("one").len())
    );
    assert_eq!(acknowledged(&two[..3]).unwrap(), Parsed::Partial);
    assert_eq!(acknowledged(b"").unwrap(), Parsed::Partial);
}

#[test]
fn an_invalid_acknowledgement_is_an_error() {
    let mut other = Vec::new();
    msgpack::map(&mut other, 1);
    pair(&mut other, "nack", "one");
    for answer in [
        &other[..],
        b"\x80",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\xc0",
    ] {
        assert_eq!(
            acknowledged(answer).unwrap_err().kind,
            FailureKind::Again,
            "{answer:x?}"
        );
    }
}

#[test]
fn an_entry_has_as_many_pairs_as_its_map_says() {
    for (bytes, partial, parse) in [
        (&b"text"[..], false, false),
        (b"text", true, false),
        (br#"{"message":"m","a":{"b":[1]},"c":null}"#, false, true),
    ] {
        let mut entry = Vec::new();
        let body = Body::Line {
            stream: Stream::Stdout,
            bytes,
            partial,
        };
        let event = Event {
            time: 5,
            sequence: 9,
            body,
        };
        Records::new(&origin(), parse).append(&mut entry, &event);
        let mut at = 0;
        skip(&entry, &mut at);
        assert_eq!(at, entry.len(), "{bytes:?}");
    }
    let fields = json!({ "code": 1, "lines": { "read": 7 } });
    let body = Body::Record {
        kind: "exit",
        fields: &fields,
    };
    let mut entry = Vec::new();
    let event = Event {
        time: 5,
        sequence: 9,
        body,
    };
    Records::new(&origin(), false).append(&mut entry, &event);
    let mut at = 0;
    skip(&entry, &mut at);
    assert_eq!(at, entry.len());
}

/// Skips one value, by the specification and independently of the writer.
fn skip(bytes: &[u8], at: &mut usize) {
    let number = |at: &mut usize, length: usize| {
        let value = bytes[*at..*at + length]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        *at += length;
        value
    };
    let head = number(at, 1);
    let (step, values) = match head {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 => (0, 0),
        0x80..=0x8f => (0, 2 * (head & 15)),
        0x90..=0x9f => (0, head & 15),
        0xa0..=0xbf => (head & 31, 0),
        0xcb | 0xcf | 0xd3 => (8, 0),
        0xcc => (1, 0),
        0xcd => (2, 0),
        0xd7 => (9, 0),
        0xd9 => (number(at, 1), 0),
        0xda => (number(at, 2), 0),
        0xde => (0, 2 * number(at, 2)),
        _ => panic!("{head:#x} was not expected"),
    };
    *at += step;
    (0..values).for_each(|_| skip(bytes, at));
}
