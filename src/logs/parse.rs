//! `?parse=json`: the members of a line that is a JSON object become fields.

use crate::base::time::rfc3339_nanoseconds;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// Names that imrun uses; also those that begin with one of them and a dot.
const OWN: [&str; 6] = [
    "@timestamp",
    "message",
    "container",
    "event",
    "host",
    "imrun",
];

/// The only name beneath `log` that imrun uses; the others belong to ecs-logging.
const IOSTREAM: &str = "log.iostream";

/// Names of metadata fields, which no document of Elasticsearch or OpenSearch may contain.
const METADATA: [&str; 18] = [
    "_data_stream_timestamp",
    "_doc_count",
    "_feature",
    "_field_names",
    "_id",
    "_ignored",
    "_ignored_source",
    "_index",
    "_nested_path",
    "_primary_term",
    "_routing",
    "_seq_no",
    "_size",
    "_source",
    "_tier",
    "_tsid",
    "_type",
    "_version",
];

/// Maximum depth of objects and arrays: the limit of Elasticsearch (`mapping.depth.limit`).
const DEPTH: usize = 20;

/// Members of a JSON object. Values are kept as written, except for names in them that Elasticsearch refuses.
#[derive(Debug, Default)]
pub struct Object<'a> {
    message: Option<String>,
    time: Option<u64>,
    dataset: Option<String>,
    members: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Returns the object in a line, if lines are parsed; a piece of a line is text.
pub fn whole_line(parse: bool, line: &[u8], partial: bool) -> Option<Object<'_>> {
    (parse && !partial).then(|| object(line)).flatten()
}

/// Returns the object in a line. `None` for anything else, for a repeated name, and for a name that is
/// both an object and another value: such a line remains text.
pub fn object(line: &[u8]) -> Option<Object<'_>> {
    let line = line.trim_ascii();
    if line.first() != Some(&b'{') {
        return None;
    }
    let Members(members) = serde_json::from_slice(line).ok()?;
    let mut object = Object {
        members: Vec::with_capacity(members.len()),
        ..Object::default()
    };
    for (name, value) in members {
        match (&*name, value.get().starts_with('{')) {
            // ecs-logging writes both `"log.level": …` and `"log": {"level": …}`.
            ("event" | "log", true) => {
                let Members(inner) = serde_json::from_str(value.get()).ok()?;
                for (inner, value) in inner {
                    object.add(Cow::Owned(format!("{name}.{inner}")), value)?;
                }
            }
            _ => object.add(name, value)?,
        }
    }
    object.is_consistent().then_some(object)
}

impl<'a> Object<'a> {
    /// Adds a member; `None` if the line must remain text.
    fn add(&mut self, name: Cow<'a, str>, value: &'a RawValue) -> Option<()> {
        let text = || serde_json::from_str::<String>(value.get()).ok();
        let (twice, taken) = match &*name {
            "message" => taken(&mut self.message, text()),
            "@timestamp" => {
                let time = text().and_then(|text| rfc3339_nanoseconds(&text));
                taken(&mut self.time, time)
            }
            "event.dataset" => {
                let others =
                    |dataset: &String| !dataset.is_empty() && !dataset.starts_with("imrun");
                taken(&mut self.dataset, text().filter(others))
            }
            _ => (false, false),
        };
        if twice {
            return None;
        }
        if !taken {
            self.members
                .push((renamed(name), accepted(value.get(), 1)?));
        }
        Some(())
    }

    /// Returns true if no name is repeated or both an object and another value.
    fn is_consistent(&self) -> bool {
        let mut names = HashMap::new();
        for (name, value) in &self.members {
            if names.insert(&**name, value.starts_with('{')).is_some() {
                return false;
            }
        }
        self.members.iter().all(|(name, _)| {
            let mut above = name.match_indices('.').map(|(dot, _)| &name[..dot]);
            above.all(|above| names.get(above) != Some(&false))
        })
    }

    /// Returns the member `message`, if it is a string.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Returns the member `@timestamp` in nanoseconds since 1970, if it is a time.
    pub fn time(&self) -> Option<u64> {
        self.time
    }

    /// Returns the member `event.dataset`, if it is a string and not one of imrun's.
    pub fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    /// Returns all other members with their final names; values are JSON.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Returns the line's level, from any of the names that loggers use.
    pub fn level(&self) -> Option<Value> {
        let names = ["log.level", "level", "severity"];
        let mut named = names.iter().filter_map(|name| {
            let mut members = self.members();
            members.find_map(|(member, value)| (member == *name).then(|| self::value(value)))
        });
        named.find(|level| level.is_string() || level.is_number())
    }
}

/// Sets a value. Returns true for an earlier value, and true for a new one.
fn taken<T>(place: &mut Option<T>, value: Option<T>) -> (bool, bool) {
    match value {
        None => (false, false),
        Some(value) => (place.replace(value).is_some(), true),
    }
}

/// Returns the name, or `app.` and the name if it is one of imrun's, or one that Elasticsearch refuses:
/// an app must not be able to forge imrun's fields or make a document invalid.
fn renamed(name: Cow<'_, str>) -> Cow<'_, str> {
    let first = name.split('.').next().unwrap_or_default();
    let beneath = name.strip_prefix(IOSTREAM);
    let is_iostream = beneath.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let is_own = OWN.contains(&first) || name == "log" || is_iostream;
    match has_blank(&name) {
        true => Cow::Owned(format!("app.{}", filled(&name))),
        false if is_own || METADATA.contains(&first) => Cow::Owned(format!("app.{name}")),
        false => name,
    }
}

/// Returns true if a part between dots is empty or white space.
fn has_blank(name: &str) -> bool {
    name.split('.').any(|part| part.trim().is_empty())
}

/// Returns the name as one part, with `_` for each dot, and for an empty name. Parts of their own would be
/// objects in one line and values in another, which Elasticsearch refuses, too.
fn filled(name: &str) -> String {
    if name.trim().is_empty() {
        "_".into()
    } else {
        name.replace('.', "_")
    }
}

/// Returns a value with names that Elasticsearch accepts; unchanged if they all are. `None` if it is too
/// deep or repeats a name.
fn accepted(raw: &str, depth: usize) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first() {
        Some(b'{' | b'[') if depth >= DEPTH => None,
        Some(b'{') => accepted_object(raw, depth),
        Some(b'[') => accepted_array(raw, depth),
        _ => Some(Cow::Borrowed(raw)),
    }
}

fn accepted_object(raw: &str, depth: usize) -> Option<Cow<'_, str>> {
    let Members(members) = serde_json::from_str(raw).ok()?;
    let mut text = String::from("{");
    let mut is_changed = false;
    let mut names = HashMap::with_capacity(members.len());
    for (name, value) in &members {
        let value = accepted(value.get(), depth + 1)?;
        let name = if has_blank(name) {
            Cow::Owned(filled(name))
        } else {
            Cow::Borrowed(&**name)
        };
        is_changed |= matches!((&name, &value), (Cow::Owned(_), _) | (_, Cow::Owned(_)));
        let comma = if text.len() == 1 { "" } else { "," };
        text += &format!("{comma}{}:{value}", Value::from(&*name));
        if names.insert(name, ()).is_some() {
            return None;
        }
    }
    text.push('}');
    Some(if is_changed { text.into() } else { raw.into() })
}

fn accepted_array(raw: &str, depth: usize) -> Option<Cow<'_, str>> {
    let values: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    let values = values.iter().map(|value| accepted(value.get(), depth + 1));
    let values = values.collect::<Option<Vec<_>>>()?;
    if values.iter().any(|value| matches!(value, Cow::Owned(_))) {
        Some(Cow::Owned(format!("[{}]", values.join(","))))
    } else {
        Some(raw.into())
    }
}

/// Parses a member's value.
pub fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()))
}

/// Members in order, including repeated names.
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

/// A name, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn members(line: &str) -> Option<Vec<(String, String)>> {
        let object = object(line.as_bytes())?;
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
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
            "@timestamp.x",
            "message.x",
            "log",
            "event.kind",
            "event.dataset",
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
    fn a_line_that_is_not_an_object_or_repeats_a_name_is_text() {
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
            r#"{"a":1,"a.b":2}"#,
            r#"{"a.b":{"c":1},"a":[2]}"#,
            r#"{"app":1,"_id":2}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"":1,"_":2}]}"#,
            r#"{"@timestamp":"2026-11-21T00:00:00Z","@timestamp":"2026-11-21T00:00:00Z"}"#,
            r#"{"log":{"level":1},"log.level":2}"#,
            r#"{"message":"a","message":"b"}"#,
            r#"{"a":}"#,
        ] {
            assert!(members(line).is_none(), "{line:?}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_none());
        assert!(object(format!("{{\"a\":{}", "[".repeat(100_000)).as_bytes()).is_none());
        assert_eq!(members("{}").unwrap(), []);
    }

    #[test]
    fn a_name_that_elasticsearch_refuses_comes_under_app() {
        for (name, expected) in [
            ("_id", "app._id"),
            ("_source.x", "app._source.x"),
            ("", "app._"),
            (" ", "app._"),
            (".", "app._"),
            ("a..b", "app.a__b"),
            (".a", "app._a"),
            ("a.", "app.a_"),
            ("_mine", "_mine"),
            ("a.b", "a.b"),
        ] {
            let line = format!(r#"{{"{name}":1}}"#);
            assert_eq!(members(&line).unwrap(), [pair(expected, "1")], "{name:?}");
        }
    }

    #[test]
    fn names_within_values_are_filled_and_all_else_stays_as_it_was_written() {
        for (value, expected) in [
            (r#"{"":1.10, "b" : 2}"#, r#"{"_":1.10,"b":2}"#),
            (
                r#"[1, {"a..b":{"c":[{" ":0}]}}]"#,
                r#"[1,{"a__b":{"c":[{"_":0}]}}]"#,
            ),
            (r#"{"_id": 1}"#, r#"{"_id": 1}"#),
            (r#"[ 1e400, "." ]"#, r#"[ 1e400, "." ]"#),
        ] {
            let line = format!(r#"{{"x":{value}}}"#);
            assert_eq!(members(&line).unwrap(), [pair("x", expected)]);
        }
    }

    #[test]
    fn an_object_deeper_than_elasticsearch_accepts_is_text() {
        let nested = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        assert!(members(&nested(DEPTH)).is_some());
        assert!(members(&nested(DEPTH + 1)).is_none());
        assert!(members(&nested(10_000)).is_none());
    }

    #[test]
    fn fields_of_ecs_logging_stay_where_they_are() {
        let flat = r#"{"@timestamp":"2026-11-21T22:55:24.5+01:00","log.level":"info","message":"m","ecs.version":"1.6.0","event.dataset":"shop","log.origin":{"file.line":7}}"#;
        let nested = r#"{"@timestamp":"2026-11-21T21:55:24.500Z","log":{"level":"info","origin":{"file.line":7}},"message":"m","ecs.version":"1.6.0","event":{"dataset":"shop"}}"#;
        for line in [flat, nested] {
            let object = object(line.as_bytes()).unwrap();
            assert_eq!(object.message(), Some("m"));
            assert_eq!(object.dataset(), Some("shop"));
            let time = object.time().map(crate::base::time::rfc3339);
            assert_eq!(time.as_deref(), Some("2026-11-21T21:55:24.500000000Z"));
            assert_eq!(object.level(), Some("info".into()));
            let mut members = members(line).unwrap();
            members.sort();
            let expected = [
                pair("ecs.version", "\"1.6.0\""),
                pair("log.level", "\"info\""),
                pair("log.origin", r#"{"file.line":7}"#),
            ];
            assert_eq!(members, expected);
        }
    }

    #[test]
    fn an_app_can_neither_be_imrun_nor_have_a_time_that_is_none() {
        let line =
            r#"{"@timestamp":"yesterday","event.dataset":"imrun.exit","event":{"kind":"x"}}"#;
        let object = object(line.as_bytes()).unwrap();
        assert_eq!((object.time(), object.dataset()), (None, None));
        let expected = [
            pair("app.@timestamp", "\"yesterday\""),
            pair("app.event.dataset", "\"imrun.exit\""),
            pair("app.event.kind", "\"x\""),
        ];
        assert_eq!(members(line).unwrap(), expected);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_judged_without_a_panic_and_no_name_is_refused(line in "[{}\\[\\]\",:. a_0]{0,60}") {
            for line in [line.clone(), format!("{{\"{line}\":{{\"{line}\":1}}}}")] {
                if let Some(object) = object(line.as_bytes()) {
                    for (name, value) in object.members() {
                        proptest::prop_assert!(!has_blank(name));
                        proptest::prop_assert!(serde_json::from_str::<&RawValue>(value).is_ok());
                    }
                }
            }
        }
    }
}
