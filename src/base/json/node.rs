//! Typed access to a parsed document, with errors that contain the path.

use crate::base::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Display;

/// A value inside a document, with its path.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    what: &'a str,
    path: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// Returns the root of a document; `what` names it in errors.
    pub fn root(what: &'a str, value: &'a Value) -> Node<'a> {
        Node {
            what,
            path: String::new(),
            value,
        }
    }

    /// Returns an error about this value: "`layers[2].size` WHY".
    pub fn error(&self, why: impl Display) -> Error {
        match self.path.as_str() {
            "" => Error::digest(self.what, why),
            path => Error::digest(self.what, format_args!("`{path}` {why}")),
        }
    }

    /// Returns the document's name.
    pub fn what(&self) -> &'a str {
        self.what
    }

    /// Returns the members of an object.
    pub fn object(&self) -> Result<&'a Map<String, Value>> {
        self.value
            .as_object()
            .ok_or_else(|| self.error("is not an object"))
    }

    /// Returns true if an object has the key, even with null.
    pub fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// Returns an optional member; null counts as absent, because Docker writes it so.
    pub fn get(&self, key: &str) -> Result<Option<Node<'a>>> {
        let value = self.object()?.get(key).filter(|value| !value.is_null());
        Ok(value.map(|value| self.member(key, value)))
    }

    /// Returns a required member.
    pub fn need(&self, key: &str) -> Result<Node<'a>> {
        self.get(key)?
            .ok_or_else(|| self.error(format_args!("lacks {key:?}")))
    }

    /// Returns all members of an object, with their keys.
    pub fn members(&self) -> Result<Vec<(&'a str, Node<'a>)>> {
        let members = self.object()?.iter();
        Ok(members
            .map(|(key, value)| (key.as_str(), self.member(key, value)))
            .collect())
    }

    /// Returns the elements of an array.
    pub fn list(&self) -> Result<Vec<Node<'a>>> {
        let list = self
            .value
            .as_array()
            .ok_or_else(|| self.error("is not an array"))?;
        Ok(list
            .iter()
            .enumerate()
            .map(|(index, value)| self.element(index, value))
            .collect())
    }

    /// Returns a string.
    pub fn text(&self) -> Result<&'a str> {
        self.value
            .as_str()
            .ok_or_else(|| self.error("is not a string"))
    }

    /// Returns a boolean.
    pub fn truth(&self) -> Result<bool> {
        self.value
            .as_bool()
            .ok_or_else(|| self.error("is neither true nor false"))
    }

    /// Returns a size: a whole number from 0 to 2^63 - 1 (image-spec, descriptor.md: an int64).
    pub fn size(&self) -> Result<u64> {
        let size = self
            .value
            .as_u64()
            .filter(|size| i64::try_from(*size).is_ok());
        size.ok_or_else(|| self.error("is not a whole number from 0 to 2^63 - 1"))
    }

    /// Returns a whole number from 0 to 2^64 - 1.
    pub fn word(&self) -> Result<u64> {
        self.value
            .as_u64()
            .ok_or_else(|| self.error("is not a whole number from 0 to 2^64 - 1"))
    }

    /// Returns a whole number from -2^63 to 2^63 - 1.
    pub fn integer(&self) -> Result<i64> {
        self.value
            .as_i64()
            .ok_or_else(|| self.error("is not a whole number from -2^63 to 2^63 - 1"))
    }

    /// Returns true for an empty string, list or object, false, and 0.
    pub fn is_nothing(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(object) => object.is_empty(),
        }
    }

    /// Returns an array of strings.
    pub fn texts(&self) -> Result<Vec<String>> {
        self.list()?
            .iter()
            .map(|node| Ok(node.text()?.to_string()))
            .collect()
    }

    /// Returns an object whose values are strings.
    pub fn text_map(&self) -> Result<BTreeMap<String, String>> {
        let members = self.members()?.into_iter();
        members
            .map(|(key, node)| Ok((key.to_string(), node.text()?.to_string())))
            .collect()
    }

    fn member(&self, key: &str, value: &'a Value) -> Node<'a> {
        let path = match self.path.as_str() {
            "" => key.to_string(),
            path => format!("{path}.{key}"),
        };
        Node {
            what: self.what,
            path,
            value,
        }
    }

    fn element(&self, index: usize, value: &'a Value) -> Node<'a> {
        Node {
            what: self.what,
            path: format!("{}[{index}]", self.path),
            value,
        }
    }
}
