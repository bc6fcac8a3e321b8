use super::super::event::Stream;
use super::*;
use proptest::prelude::*;

fn origin() -> Origin {
    Origin {
        container_id: "c".into(),
        container_name: None,
        image_digest: "sha256:d".into(),
        host_name: "h".into(),
        launch_id: "l".into(),
    }
}

fn text(body: Body<'_>, parse: bool) -> Vec<u8> {
    let mut text = Vec::new();
    let event = Event {
        time: 1,
        sequence: 9,
        body,
    };
    Documents::new(&origin(), parse).append(&mut text, &event);
    text
}

fn document(body: Body<'_>) -> Value {
    let text = text(body, false);
    assert!(!text.contains(&b'\n'));
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_record_has_its_fields_under_imrun() {
    let fields = serde_json::json!({ "code": 3, "counters": { "read": 1 } });
    let document = document(Body::Record {
        kind: "exit",
        fields: &fields,
    });
    assert_eq!(
        document,
        serde_json::json!({
            "@timestamp": "1970-01-01T00:00:00.000000001Z",
            "message": "imrun: exit",
            "event.sequence": 9,
            "event.dataset": "imrun.exit",
            "container.id": "c",
            "container.image.hash.all": ["sha256:d"],
            "host.name": "h",
            "imrun.launch_id": "l",
            "imrun.code": 3,
            "imrun.counters": { "read": 1 },
        })
    );
}

#[test]
fn a_record_that_names_its_launch_names_it_once() {
    let fields = serde_json::json!({ "launch_id": "other" });
    let body = Body::Record {
        kind: "launch",
        fields: &fields,
    };
    let text = text(body, false);
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("imrun.launch_id").count(), 1, "{text}");
}

proptest! {
    #[test]
    fn text_is_kept_and_other_bytes_are_replaced(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let line = Body::Line { stream: Stream::Stdout, bytes: &bytes, partial: false };
        let document = document(line);
        prop_assert_eq!(document["message"].as_str().unwrap(), String::from_utf8_lossy(&bytes));
        prop_assert!(document.get("imrun.partial").is_none());
    }
}

#[test]
fn a_line_that_is_an_object_gives_its_members_where_that_is_asked_for() {
    let bytes = br#"{"level":"warn","message":"hi \"you\"","host":{"name":"x"},"n":1.50}"#;
    let line = Body::Line {
        stream: Stream::Stderr,
        bytes,
        partial: false,
    };
    let parsed = text(line, true);
    assert!(String::from_utf8_lossy(&parsed).contains("\"n\":1.50"));
    let parsed: Value = serde_json::from_slice(&parsed).unwrap();
    assert_eq!(parsed["level"], "warn");
    assert_eq!(parsed["message"], "hi \"you\"");
    assert_eq!(parsed["app.host"]["name"], "x");
    assert_eq!(parsed["host.name"], "h");
    let whole = document(line);
    assert_eq!(whole["message"].as_str().unwrap().as_bytes(), bytes);
    assert!(whole.get("level").is_none());
}

#[test]
fn a_line_of_ecs_logging_keeps_its_time_and_dataset_and_imrun_says_when_it_was_read() {
    let bytes = br#"{"@timestamp":"2026-11-21T22:55:24.5Z","log.level":"info","message":"m","event.dataset":"shop"}"#;
    let line = Body::Line {
        stream: Stream::Stdout,
        bytes,
        partial: false,
    };
    let parsed: Value = serde_json::from_slice(&text(line, true)).unwrap();
    assert_eq!(parsed["@timestamp"], "2026-11-21T22:55:24.500000000Z");
    assert_eq!(parsed["event.created"], "1970-01-01T00:00:00.000000001Z");
    assert_eq!(parsed["event.dataset"], "shop");
    assert_eq!(parsed["log.level"], "info");
    assert_eq!(
        (&parsed["message"], &parsed["container.id"]),
        (&"m".into(), &"c".into())
    );
}
