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

fn document(body: Body) -> Value {
    let mut text = Vec::new();
    append(
        &mut text,
        &origin(),
        &Event {
            time: 1,
            sequence: 9,
            body,
        },
    );
    assert!(!text.contains(&b'\n'));
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_record_has_its_fields_under_imrun() {
    let fields = serde_json::json!({ "code": 3, "counters": { "read": 1 } });
    let document = document(Body::Record {
        kind: "exit",
        fields,
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
        fields,
    };
    let mut text = Vec::new();
    append(
        &mut text,
        &origin(),
        &Event {
            time: 1,
            sequence: 9,
            body,
        },
    );
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("imrun.launch_id").count(), 1, "{text}");
}

proptest! {
    #[test]
    fn text_is_kept_and_other_bytes_are_replaced(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let line = Body::Line { stream: Stream::Stdout, bytes: bytes.clone().into(), partial: false };
        let document = document(line);
        prop_assert_eq!(document["message"].as_str().unwrap(), String::from_utf8_lossy(&bytes));
        prop_assert!(document.get("imrun.partial").is_none());
    }
}
