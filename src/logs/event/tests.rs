use super::*;
use serde_json::json;

fn batch(lines: &[&[u8]]) -> Batch {
    let mut batch = Batch::default();
    for (number, line) in (1..).zip(lines) {
        batch.push_line(number * 10, number, Stream::Stdout, line, false);
    }
    batch
}

fn lines(batch: &Batch) -> Vec<&[u8]> {
    let bytes = |slot| match batch.body(slot) {
        Body::Line { bytes, .. } => bytes,
        Body::Record { .. } => unreachable!("none was pushed"),
    };
    let contents = batch.slots.iter().map(|slot| &slot.content);
    contents.map(bytes).collect()
}

#[test]
fn events_come_out_as_they_went_in() {
    let mut batch = batch(&[b"one", b"", b"\xff\0"]);
    let fields = json!({ "code": 0 });
    batch.push_record(40, 4, "exit", fields.clone());
    assert_eq!(batch.len(), 4);
    let events: Vec<_> = batch.iter().collect();
    assert_eq!((events[1].time, events[1].sequence), (20, 2));
    let line = |bytes| Body::Line {
        stream: Stream::Stdout,
        bytes,
        partial: false,
    };
    assert_eq!(events[0].body, line(b"one"));
    assert_eq!(events[2].body, line(b"\xff\0"));
    let record = Body::Record {
        kind: "exit",
        fields: &fields,
    };
    assert_eq!(events[3].body, record);
}

#[test]
fn some_events_are_kept() {
    let mut batch = batch(&[b"a", b"bb", b"ccc", b"dddd"]);
    batch.keep(&[1, 3]);
    assert_eq!(lines(&batch), [&b"bb"[..], b"dddd"]);
    assert_eq!(batch.first(), Some(2));
}

#[test]
fn the_halves_are_the_whole() {
    let mut first = batch(&[b"a", b"bb", b"ccc"]);
    let second = first.halve().unwrap();
    assert_eq!(lines(&first), [b"a"]);
    assert_eq!(lines(&second), [&b"bb"[..], b"ccc"]);
    assert!(first.halve().is_none());
}

#[test]
fn a_batch_has_bounds_but_is_never_empty() {
    let mut batch = Batch::default();
    assert!(batch.fits(10 * Batch::BYTES));
    batch.push_line(1, 1, Stream::Stdout, &vec![b'x'; Batch::BYTES - 1], false);
    assert!(batch.fits(1) && !batch.fits(2));
    let mut batch = Batch::default();
    for number in 0..Batch::EVENTS as u64 {
        assert!(batch.fits(0));
        batch.push_line(number, number, Stream::Stderr, b"", true);
    }
    assert!(!batch.fits(0));
}
