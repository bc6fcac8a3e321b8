use super::*;
use crate::base::error::Reason;
use serde_json::json;

fn document() -> Value {
    json!({
        "process": { "user": { "uid": 1 }, "args": ["app"], "cwd": "/" },
        "linux": {
            "uidMappings": [{ "containerID": 0, "hostID": 1, "size": 2 }],
            "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" }
        }
    })
}

/// Reads the document with one member replaced, by its JSON pointer's parent and its key.
fn with(parent: &str, key: &str, value: Value) -> Result<()> {
    let mut document = document();
    document.pointer_mut(parent).unwrap()[key] = value;
    read::<Document>(&document).map(drop)
}

#[track_caller]
fn refusal(parent: &str, key: &str, value: Value) -> String {
    let error = with(parent, key, value).unwrap_err();
    assert_eq!(error.reason, Reason::Digest);
    error.to_string()
}

#[test]
fn a_member_that_is_null_is_absent() {
    for (parent, key) in [
        ("", "mounts"),
        ("", "annotations"),
        ("/process", "env"),
        ("/process", "capabilities"),
        ("/process/user", "uid"),
        ("/linux", "resources"),
        ("/linux/seccomp", "syscalls"),
        ("", "unknown"),
    ] {
        with(parent, key, Value::Null).unwrap();
    }
    let text = refusal("/process", "cwd", Value::Null);
    assert_eq!(text, "config.json: `process` lacks \"cwd\"");
    let text = refusal("", "linux", Value::Null);
    assert_eq!(text, "config.json: lacks \"linux\"");
}

#[test]
fn a_null_in_a_list_or_in_a_map_is_a_value_of_the_wrong_type() {
    let text = refusal("", "annotations", json!({ "a": null }));
    assert_eq!(text, "config.json: `annotations.a` is not a string");
    let text = refusal("/linux", "sysctl", json!({ "net.x": null }));
    assert!(text.contains("`linux.sysctl."), "{text}");
    let text = refusal("/process", "args", json!(["a", null]));
    assert_eq!(text, "config.json: `process.args[1]` is not a string");
}

#[test]
fn a_list_is_no_object() {
    for (parent, key) in [
        ("", "process"),
        ("", "linux"),
        ("", "root"),
        ("", "hooks"),
        ("/process", "user"),
        ("/process", "capabilities"),
        ("/process", "ioPriority"),
        ("/linux", "resources"),
        ("/linux", "seccomp"),
    ] {
        let text = refusal(parent, key, json!([]));
        assert!(
            text.ends_with(&format!("{key}` is not an object")),
            "{text}"
        );
    }
    let text = refusal("/linux", "uidMappings", json!([[1, 0, 2]]));
    assert_eq!(text, "config.json: `linux.uidMappings[0]` is not an object");
}

#[test]
fn a_member_that_the_specification_requires_has_no_default() {
    for key in ["containerID", "hostID", "size"] {
        let text = refusal("/linux/uidMappings/0", key, Value::Null);
        assert_eq!(
            text,
            format!("config.json: `linux.uidMappings[0]` lacks {key:?}")
        );
    }
    for key in ["type", "soft", "hard"] {
        let mut limit = json!({ "type": "RLIMIT_AS", "soft": 1, "hard": 1 });
        limit.as_object_mut().unwrap().remove(key);
        let text = refusal("/process", "rlimits", json!([limit]));
        assert_eq!(
            text,
            format!("config.json: `process.rlimits[0]` lacks {key:?}")
        );
    }
    let text = refusal("/process", "ioPriority", json!({}));
    assert_eq!(text, "config.json: `process.ioPriority` lacks \"class\"");
}

#[test]
fn a_number_has_the_range_of_its_type() {
    for (value, is_id) in [
        (json!(0), true),
        (json!(4_294_967_295_u64), true),
        (json!(4_294_967_296_u64), false),
        (json!(-1), false),
        (json!(1.0), false),
        (json!("1"), false),
        (json!(true), false),
    ] {
        let read = with("/process/user", "uid", value.clone());
        assert_eq!(read.is_ok(), is_id, "{value}");
        let text = read.err().map(|error| error.to_string());
        let why = "config.json: `process.user.uid` is not a whole number from 0 to 2^32 - 1";
        assert!(text.is_none_or(|text| text == why), "{value}");
    }
}

#[test]
fn an_unknown_name_is_refused_with_those_that_there_are() {
    let text = refusal("/linux", "namespaces", json!([{ "type": "net" }]));
    assert!(
        text.starts_with("config.json: `linux.namespaces[0].type` is \"net\": expected mount, "),
        "{text}"
    );
    let text = refusal("/linux/seccomp", "defaultAction", json!("SCMP_ACT_X"));
    assert!(
        text.contains("`linux.seccomp.defaultAction` is \"SCMP_ACT_X\": expected "),
        "{text}"
    );
    let text = refusal(
        "/linux/seccomp",
        "defaultAction",
        json!({ "SCMP_ACT_ALLOW": null }),
    );
    assert!(text.ends_with("is not a string"), "{text}");
}

#[test]
fn an_error_does_not_have_the_value_in_it() {
    for value in [json!("PASSWORD=secret"), json!({ "PASSWORD": "secret" })] {
        let text = refusal("/process", "env", value);
        assert_eq!(text, "config.json: `process.env` is not an array");
    }
}

#[test]
fn members_of_other_platforms_or_without_effect_are_ignored_whatever_they_hold() {
    for (parent, key) in [
        ("", "windows"),
        ("", "vm"),
        ("/process", "execCPUAffinity"),
        ("/linux/seccomp", "architectures"),
        ("/linux/seccomp", "flags"),
    ] {
        for value in [json!(["x"]), json!({ "x": [1] }), json!(5)] {
            with(parent, key, value).unwrap();
        }
    }
    with("/linux", "resources", json!({ "devices": 5 })).unwrap();
}
