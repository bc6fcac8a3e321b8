//! Strict JSON parser and canonical JSON writer.
//!
//! A document that two parsers could read differently is refused: a duplicate key, bytes after
//! the value, invalid UTF-8. Source: RFC 8259, section 4; RFC 8785 for the canonical form.

mod node;

pub use node::Node;

use crate::base::error::{Error, Result};
use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Maximum nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;

/// Parses the value in `bytes`; `what` names the document in the error.
pub fn parse(what: &str, bytes: &[u8]) -> Result<Value> {
    let wrong =
        |why: serde_json::Error| Error::digest(what, format_args!("not strict JSON: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|e| {
        Error::digest(
            what,
            format_args!("not strict JSON: invalid UTF-8 at byte {}", e.valid_up_to()),
        )
    })?;
    let mut from = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: MAX_DEPTH }
        .deserialize(&mut from)
        .map_err(wrong)?;
    from.end().map_err(wrong)?;
    Ok(value)
}

/// Builds a `Value` as serde_json does, but refuses duplicate keys and deep nesting.
#[derive(Clone, Copy)]
struct Strict {
    /// Number of further levels allowed.
    depth: usize,
}

impl Strict {
    fn inner<E: de::Error>(self) -> std::result::Result<Strict, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Strict { depth }),
            None => Err(E::custom(format_args!("more than {MAX_DEPTH} levels deep"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> std::result::Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(value) = from.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> std::result::Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            object.insert(key, from.next_value_seed(inner)?);
        }
        Ok(Value::Object(object))
    }
}

/// Encodes `value` with sorted keys and without white space: equal values give equal bytes.
///
/// RFC 8785 for null, booleans, strings, integers, arrays and objects; imrun writes no fractions.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, to: &mut String) {
    match value {
        Value::Array(list) => {
            write_between(to, ['[', ']'], list, |to, value| write(value, to));
        }
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            // RFC 8785, section 3.2.3: by UTF-16 code units, which is not the order of UTF-8.
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            write_between(to, ['{', '}'], members, |to, (key, value)| {
                to.push_str(&Value::from(key.as_str()).to_string());
                to.push(':');
                write(value, to);
            });
        }
        // serde_json writes a scalar with the shortest escapes, in lower case, as the RFC wants.
        scalar => to.push_str(&scalar.to_string()),
    }
}

fn write_between<T>(
    to: &mut String,
    [open, close]: [char; 2],
    items: impl IntoIterator<Item = T>,
    mut write_item: impl FnMut(&mut String, T),
) {
    to.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            to.push(',');
        }
        write_item(to, item);
    }
    to.push(close);
}

#[cfg(test)]
mod tests;
