//! `?parse=json`: a line that is a JSON object gives its members as fields.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Names that imrun uses, and those that begin with one of them and a dot.
const OWN: [&str; 6] = ["@timestamp", "container", "event", "host", "imrun", "log"];

/// The members of a JSON object, as they were written.
#[derive(Debug)]
pub struct Object<'a> {
    message: Option<String>,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// The object that a line is, where lines are parsed; a piece of one is text.
pub fn whole_line(parse: bool, line: &[u8], partial: bool) -> Option<Object<'_>> {
    (parse && !partial).then(|| object(line)).flatten()
}

/// The object that a line is. None where it is something else, or has a name twice: such a line is
/// text like any other.
pub fn object(line: &[u8]) -> Option<Object<'_>> {
    let line = line.trim_ascii();
    if line.first() != Some(&b'{') {
        return None;
    }
    let Members(members) = serde_json::from_slice(line).ok()?;
    let mut object = Object {
        message: None,
        members: Vec::with_capacity(members.len()),
    };
    for (name, value) in members {
        match serde_json::from_str(value.get()) {
            Ok(_) if name == "message" && object.message.is_some() => return None,
            Ok(message) if name == "message" => object.message = Some(message),
            _ => object.members.push((renamed(name), value)),
        }
    }
    let mut names = HashSet::new();
    let unique = object
        .members
        .iter()
        .all(|(name, _)| names.insert(name.as_ref()));
    unique.then_some(object)
}

/// The app cannot speak for imrun: what has one of its names comes under `app.`.
fn renamed(name: Cow<'_, str>) -> Cow<'_, str> {
    let first = name.split('.').next().unwrap_or_default();
    if OWN.contains(&first) || name == "message" {
        Cow::Owned(format!("app.{name}"))
    } else {
        name
    }
}

impl Object<'_> {
    /// The member `message`, where that is a string.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// All others, with the names that they get.
    pub fn members(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.members
            .iter()
            .map(|(name, value)| (name.as_ref(), *value))
    }
}

/// A member's value; one that is nested too deeply stays the text that it is.
pub fn value(raw: &RawValue) -> Value {
    let text = raw.get();
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// In their order, and with names that come twice.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members<'de>, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Collect)
    }
}

/// Borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn members(line: &str) -> Option<Vec<(String, String)>> {
        let object = object(line.as_bytes())?;
        let owned = |(name, value): (&str, &RawValue)| (name.to_owned(), value.get().to_owned());
        Some(object.members().map(owned).collect())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn members_are_kept_as_they_were_written() {
        let line = r#" {"level":"warn", "n": 123456789012345678901234567890.10, "o": {"b":1, "a":[]}, "é\n":null}"#;
        let expected = [
            pair("level", "\"warn\""),
            pair("n", "123456789012345678901234567890.10"),
            pair("o", r#"{"b":1, "a":[]}"#),
            pair("é\n", "null"),
        ];
        assert_eq!(members(line).unwrap(), expected);
    }

    #[test]
    fn the_message_is_the_message_where_it_is_a_string() {
        let line = object(br#"{"message":"a\u00e9","x":1}"#).unwrap();
        assert_eq!(line.message(), Some("aé"));
        assert_eq!(line.members().count(), 1);
        assert_eq!(
            members(r#"{"message":{"a":1}}"#).unwrap(),
            [pair("app.message", r#"{"a":1}"#)]
        );
    }

    #[test]
    fn an_app_cannot_speak_for_imrun() {
        for name in [
            "@timestamp",
            "imrun.code",
            "container.id",
            "host",
            "event",
            "log.iostream",
        ] {
            let line = format!(r#"{{"{name}":1}}"#);
            assert_eq!(members(&line).unwrap(), [pair(&format!("app.{name}"), "1")]);
        }
        assert_eq!(members(r#"{"logger":1}"#).unwrap(), [pair("logger", "1")]);
    }

    #[test]
    fn what_is_no_object_or_has_a_name_twice_is_text() {
        for line in [
            "",
            "{",
            "[]",
            "1",
            "text",
            "{}x",
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"log":1,"app.log":2}"#,
            r#"{"message":"a","message":"b"}"#,
            r#"{"a":}"#,
        ] {
            assert!(members(line).is_none(), "{line:?}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_none());
        assert!(object(format!("{{\"a\":{}", "[".repeat(100_000)).as_bytes()).is_none());
        assert_eq!(members("{}").unwrap(), []);
    }
}
