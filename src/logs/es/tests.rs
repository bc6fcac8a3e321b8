use super::*;
use proptest::prelude::*;

fn understood(answer: &str) -> Result<Delivery, Failure> {
    understand(answer.as_bytes(), 2)
}

fn item(status: u16) -> String {
    format!(r#"{{"create":{{"status":{status},"error":{{"type":"t","reason":"r"}}}}}}"#)
}

#[test]
fn the_status_of_each_event_determines_its_result() {
    for (status, again, rejected) in [
        (200, false, false),
        (201, false, false),
        (409, false, false),
        (429, true, false),
        (500, true, false),
        (503, true, false),
        (400, false, true),
        (404, false, true),
        (413, false, true),
        (301, false, true),
        (0, false, true),
    ] {
        let answer = format!(
            r#"{{"errors":true,"items":[{},{}]}}"#,
            item(201),
            item(status)
        );
        let delivery = understood(&answer).unwrap();
        assert_eq!(
            delivery.again,
            if again { vec![1] } else { vec![] },
            "{status}"
        );
        let why = format!("{status} t: r");
        let expected = Rejection { index: 1, why };
        assert_eq!(
            delivery.rejected,
            if rejected { vec![expected] } else { vec![] },
            "{status}"
        );
    }
}

#[test]
fn a_failed_event_is_found_even_if_errors_is_false() {
    let answer = format!(
        r#"{{"errors":false,"items":[{},{}]}}"#,
        item(201),
        item(429)
    );
    assert_eq!(understood(&answer).unwrap().again, [1]);
}

#[test]
fn an_invalid_answer_acknowledges_nothing() {
    for answer in [
        "",
        "{}",
        "null",
        "true",
        "<html>",
        r#"{"items":[]}"#,
        r#"{"errors":true}"#,
        r#"{"errors":true,"items":[]}"#,
        r#"{"errors":"false"}"#,
        r#"{"errors":false,"items":[{"create":{"status":201}}]}"#,
        r#"{"errors":false,"items":[{},{}]}"#,
        r#"{"errors":false,"items":[{"create":{"status":-1}},{"create":{"status":201}}]}"#,
        r#"{"took":0,"errors":false"#,
    ] {
        assert_eq!(
            understood(answer).unwrap_err().kind,
            FailureKind::Again,
            "{answer:?}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(understood(&format!(r#"{{"errors":false,"items":{deep}"#)).is_err());
}

#[test]
fn a_sinks_explanation_is_shortened_and_has_no_control_characters() {
    let error = serde_json::json!({ "type": "x\u{1b}[2J\n", "reason": "y".repeat(1 << 20) });
    let error = serde_json::value::to_raw_value(&error).unwrap();
    let text = reason(Some(&error));
    assert_eq!(text.len(), WHY_MAX);
    assert!(text.starts_with("x[2J: yyy"));
}

proptest! {
    #[test]
    fn any_answer_at_all_is_judged_without_a_panic(answer in ".{0,200}", events in 1usize..5) {
        // An answer that acknowledges events is JSON.
        let delivered = understand(answer.as_bytes(), events).is_ok();
        prop_assert!(!delivered || answer.contains("\"errors\""));
    }
}
