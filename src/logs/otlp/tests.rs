use super::super::event::Stream;
use super::*;
use crate::base::digest::hex;
use proptest::prelude::*;
use serde_json::json;

/// Output of `golden.py`.
const GOLDEN: &str = include_str!("golden.txt");

fn golden(line: usize) -> Vec<u8> {
    let text = GOLDEN.lines().nth(line).unwrap();
    let digits = text
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn otlp() -> Otlp {
    let origin = Origin {
        container_id: "c".into(),
        container_name: Some("web".into()),
        image_digest: "sha256:d".into(),
        host_name: "h".into(),
        launch_id: "l".into(),
    };
    let mut otlp = Otlp::new(&origin, true);
    otlp.id = "id-".into();
    otlp.scope = scope("VERSION");
    otlp
}

#[test]
fn a_request_equals_the_one_of_the_protobuf_library() {
    let mut batch = Batch::default();
    let second = 1_000_000_000;
    let fields = json!({ "a": [null, true, -1, 1.5], "lines": { "read": 300 } });
    batch.push_record(second, 1, "exit", fields);
    batch.push_line(2 * second, 2, Stream::Stdout, &[b'x'; 200], false);
    batch.push_line(3 * second, 3, Stream::Stderr, b"\xff", true);
    let object = br#"{"message":"m","level":"warn","@timestamp":"1970-01-01T00:00:09Z","event.dataset":"shop"}"#;
    batch.push_line(4 * second, 4, Stream::Stdout, object, false);
    let mut body = Vec::new();
    otlp().encode(&mut body, &batch);
    assert_eq!(hex(&body), hex(&golden(0)));
}

#[test]
fn an_empty_answer_acknowledges_all_and_a_partial_success_the_rest() {
    assert_eq!(understand(b"", 5).unwrap(), Delivery::default());
    let delivery = understand(&golden(1), 5).unwrap();
    assert_eq!(delivery.rejected.len(), 2);
    assert_eq!(delivery.rejected[1].why, "partial success: too old");
    // A warning rejects nothing.
    assert_eq!(
        understand(b"\x0a\x03\x12\x01x", 5).unwrap(),
        Delivery::default()
    );
}

#[test]
fn more_rejections_than_events_reject_all_events() {
    assert_eq!(understand(&golden(2), 5).unwrap().rejected.len(), 5);
}

#[test]
fn an_invalid_answer_acknowledges_nothing() {
    for answer in [&b"<html>"[..], b"{}", b"\x0a\x05abc", b"\x0a\x01\xff"] {
        let failure = understand(answer, 2).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Again, "{answer:?}");
    }
}

proptest! {
    #[test]
    fn any_answer_is_judged_without_a_panic(answer in prop::collection::vec(0u8..=255, 0..60), events in 1usize..9) {
        if let Ok(delivery) = understand(&answer, events) {
            prop_assert!(delivery.rejected.len() <= events);
        }
    }
}

#[test]
fn a_level_gives_the_severity_by_name_or_number() {
    for (level, expected) in [
        (json!("INFO"), Some(9)),
        (json!("warning"), Some(13)),
        (json!("Error"), Some(17)),
        (json!("fatal"), Some(21)),
        (json!(30), Some(9)),
        (json!(50), Some(17)),
        (json!("loud"), None),
        (json!(7), None),
    ] {
        let mut written = Vec::new();
        severity(&mut written, &level);
        let mut fields = protobuf::fields(&written).map(Result::unwrap);
        let number = fields.find_map(|field| match (field.number, field.value) {
            (2, Value::Number(number)) => Some(number),
            _ => None,
        });
        assert_eq!(number, expected, "{level}");
    }
}
