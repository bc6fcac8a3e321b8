//! config.json in types: those of the crate `oci_spec`, and two of imrun's own.
//!
//! `Spec` and `Process` of the crate are not used. They also check what imrun ignores (other platforms'
//! settings, `execCPUAffinity`), and for the latter bring 1.6 MB of the crate `regex` into the program.

use super::config::malformed;
use crate::base::error::Result;
use oci_spec::runtime::{Hooks, Linux, LinuxIOPriority, Mount, PosixRlimit, Root, User};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserialize, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// The document, without `ociVersion`.
#[derive(serde::Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub process: Process,
    pub root: Option<Root>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub hooks: Option<Hooks>,
    pub linux: Linux,
}

/// `process`, without `scheduler`: the crate has other names for its flags than the specification.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    #[serde(default)]
    pub terminal: bool,
    pub user: User,
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    pub cwd: String,
    #[serde(default)]
    pub capabilities: CapabilitySets,
    #[serde(default)]
    pub rlimits: Vec<PosixRlimit>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    pub io_priority: Option<LinuxIOPriority>,
    pub oom_score_adj: Option<i64>,
}

/// `process.capabilities`. The crate refuses names that it does not know; imrun warns about them.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct CapabilitySets {
    pub bounding: Vec<String>,
    pub effective: Vec<String>,
    pub inheritable: Vec<String>,
    pub permitted: Vec<String>,
    pub ambient: Vec<String>,
}

/// Members of the crate's types that imrun does not read into types: it ignores them, or reads them by hand.
const UNTYPED: [(&str, &[&str]); 3] = [
    (
        "Linux",
        &[
            // An entry is refused by its path, also without a type.
            "devices",
            // Refused if they say anything at all.
            "intelRdt",
            "memoryPolicy",
            "netDevices",
            "timeOffsets",
            // May be empty.
            "personality",
        ],
    ),
    (
        "LinuxResources",
        &[
            // Not applied, and reported if they say anything at all.
            "blockIO",
            "network",
            "rdma",
            // Every container has the same devices.
            "devices",
            // Limits up to 2^64 - 1, where the crate has an i64.
            "hugepageLimits",
        ],
    ),
    // Rules are for the processor's own architecture, and need no flags.
    ("LinuxSeccomp", &["architectures", "flags"]),
];

/// Members that the specification requires, and the crate sets to a default.
const REQUIRED: [(&str, &[&str]); 3] = [
    ("LinuxIOPriority", &["class"]),
    ("LinuxIdMapping", &["containerID", "hostID", "size"]),
    ("PosixRlimit", &["soft", "hard"]),
];

/// Reads a value into a type.
///
/// # Errors
/// The first member with a wrong type, by its path.
pub(super) fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T> {
    serde_path_to_error::deserialize(Typed(value)).map_err(|error| {
        let path = error.path().to_string();
        malformed(path.trim_matches('.'), error.inner())
    })
}

/// A parsed value as serde's source of types, stricter than `serde_json::Value`: an array is no object, and an error
/// has no value in it, which could be a secret. A member of an object with a type that is null is absent.
#[derive(Clone, Copy)]
struct Typed<'a>(&'a Value);

impl<'de> Deserializer<'de> for Typed<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.iter().map(Typed))),
            Value::Object(members) => {
                let members = members
                    .iter()
                    .map(|(key, value)| (key.as_str(), Typed(value)));
                visitor.visit_map(MapDeserializer::new(members))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(Fault("is not a string".into())),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Fault> {
        let Value::Object(members) = self.0 else {
            return Err(Fault("is not an object".into()));
        };
        let absent = |key: &&&str| members.get(**key).is_none_or(Value::is_null);
        if let Some(key) = keys(&REQUIRED, name).iter().find(absent) {
            return Err(de::Error::missing_field(key));
        }
        let untyped = keys(&UNTYPED, name);
        let members = members
            .iter()
            .filter(|(key, value)| !value.is_null() && !untyped.contains(&key.as_str()))
            .map(|(key, value)| (key.as_str(), Typed(value)));
        visitor.visit_map(MapDeserializer::new(members))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Fault> for Typed<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Returns the keys of the type `name` in one of the tables above.
fn keys(table: &[(&str, &'static [&'static str])], name: &str) -> &'static [&'static str] {
    let row = table.iter().find(|(of, _)| *of == name);
    row.map_or(&[], |(_, keys)| keys)
}

/// Reason why a value does not have a type.
#[derive(Debug)]
struct Fault(String);

impl de::Error for Fault {
    fn custom<T: Display>(why: T) -> Fault {
        Fault(why.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault(match expected.to_string().as_str() {
            "a boolean" => "is neither true nor false".into(),
            "a sequence" => "is not an array".into(),
            "a map" => "is not an object".into(),
            "path string" => "is not a string".into(),
            "i64" => "is not a whole number from -2^63 to 2^63 - 1".into(),
            "u32" => "is not a whole number from 0 to 2^32 - 1".into(),
            "u64" | "usize" => "is not a whole number from 0 to 2^64 - 1".into(),
            other => format!("is not {other}"),
        })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Fault {
        Fault(format!("is {variant:?}: expected {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Fault {
        Fault(format!("lacks {field:?}"))
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests;
