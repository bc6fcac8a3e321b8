use super::*;
use proptest::prelude::*;
use serde_json::json;

fn refusal(text: &str) -> String {
    parse("doc", text.as_bytes()).expect_err(text).to_string()
}

#[test]
fn a_plain_document_is_read_as_serde_json_reads_it() {
    let text = r#" {"a": [1, -2, 2.5, true, null, "\u00e9\n"], "A": {"a": {}}} "#;
    let expected: Value = serde_json::from_str(text).unwrap();
    assert_eq!(parse("doc", text.as_bytes()).unwrap(), expected);
}

#[test]
fn a_duplicate_key_is_refused_by_name_at_any_depth_and_however_it_is_escaped() {
    for text in [
        r#"{"size":1,"size":1}"#,
        r#"{"a":[{"b":{"size":1,"x":2,"size":3}}]}"#,
        r#"{"size":1,"s\u0069ze":2}"#,
    ] {
        assert!(
            refusal(text).starts_with("doc: not strict JSON: duplicate key \"size\""),
            "{text}"
        );
    }
}

#[test]
fn keys_are_case_sensitive() {
    let value = parse("doc", br#"{"size":1,"Size":2}"#).unwrap();
    assert_eq!(value, json!({"size": 1, "Size": 2}));
}

#[test]
fn anything_but_one_json_value_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "{}{}",
        "{} x",
        "[1,]",
        "{\"a\":1,}",
        "nul",
        "'a'",
        "01",
        "+1",
        "1.",
        ".5",
        "NaN",
        "Infinity",
        "1e400",
        "\"\t\"",
        r#""\ud800""#,
        "// c\n{}",
        "\u{feff}{}",
    ] {
        assert!(
            refusal(text).starts_with("doc: not strict JSON"),
            "{text:?}"
        );
    }
}

#[test]
fn invalid_utf_8_is_refused_with_its_position() {
    let error = parse("doc", b"{\"a\":\"\xff\"}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "doc: not strict JSON: invalid UTF-8 at byte 6"
    );
}

#[test]
fn depth_is_limited_and_the_limit_itself_is_accepted() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(parse("doc", nested(MAX_DEPTH).as_bytes()).is_ok());
    for depth in [MAX_DEPTH + 1, 100_000] {
        assert!(refusal(&nested(depth)).contains("more than 64 levels deep"));
    }
    assert!(refusal(&"{\"a\":".repeat(1000)).contains("more than 64 levels deep"));
}

#[test]
fn the_canonical_form_is_sorted_by_utf_16_and_has_no_white_space() {
    let value = json!({"b": [1, {"d": null, "c": "\u{1}\"\\/\n\u{e9}"}], "\u{10000}": 1, "\u{e000}": 2, "a": true});
    let expected = "{\"a\":true,\"b\":[1,{\"c\":\"\\u0001\\\"\\\\/\\n\u{e9}\",\"d\":null}],\"\u{10000}\":1,\"\u{e000}\":2}";
    assert_eq!(canonical(&value), expected);
}

#[test]
fn errors_of_a_node_contain_its_path() {
    let value = json!({"layers": [{"size": 1}, {"size": "2"}], "nothing": null});
    let root = Node::root("doc", &value);
    let layers = root.need("layers").unwrap().list().unwrap();
    assert_eq!(layers[0].need("size").unwrap().size().unwrap(), 1);
    let error = layers[1].need("size").unwrap().size().unwrap_err();
    assert_eq!(
        error.to_string(),
        "doc: `layers[1].size` is not a whole number from 0 to 2^63 - 1"
    );
    assert_eq!(
        layers[1].need("digest").unwrap_err().to_string(),
        "doc: `layers[1]` lacks \"digest\""
    );
    assert!(root.get("nothing").unwrap().is_none());
    assert!(root.has("nothing"));
}

/// Returns true if all numbers are integers: the canonical form supports no others.
fn is_whole(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(list) => list.iter().all(is_whole),
        Value::Object(object) => object.values().all(is_whole),
        _ => true,
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = parse("doc", &bytes);
    }

    #[test]
    fn accepted_documents_survive_their_canonical_form(text in "[\\[\\]{}:,\"a-c0-9 ]{0,40}") {
        if let Some(value) = parse("doc", text.as_bytes()).ok().filter(is_whole) {
            let canonical_text = canonical(&value);
            prop_assert_eq!(parse("doc", canonical_text.as_bytes()).unwrap(), value);
        }
    }
}
