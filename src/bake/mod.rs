//! Images from definitions: a pure function of a TOML file, the files that it names, and its base.
//!
//! The result does not depend on the date, the host name, the umask or the order of directories, so the same
//! definition gives the same digest everywhere.

mod image;
mod layer;
mod store;

pub use image::{Base, Image, Layer, image};
pub use store::into_store;

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::runtime::env::{Contract, Environment};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Maximum size of a definition, in bytes.
pub const MAX_DEFINITION: usize = 1 << 20;
/// Maximum length of a path in the image: PATH_MAX without its NUL.
const MAX_PATH: usize = 4095;
/// Maximum length of a component of a path: NAME_MAX.
const MAX_COMPONENT: usize = 255;
/// Prefix of names that remove files (image-spec, layer.md, "Whiteouts"); files cannot have it.
const WHITEOUT: &str = ".wh.";

/// Definition of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Definition {
    /// Manifest of the base image; `None` makes an image without one.
    pub base: Option<Digest>,
    /// Replaces the base's entrypoint and `cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the base's.
    pub cmd: Option<Vec<String>>,
    /// Added to the base's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Added to the base's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Replaces the base's.
    pub user: Option<String>,
    /// Replaces the base's.
    pub workdir: Option<ImagePath>,
    /// Replaces the base's.
    pub stop_signal: Option<String>,
    /// Files of the image's own layer.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
}

/// A file, or a directory with its content, to add to the layer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Source, relative to the definition's directory and inside it.
    pub source: String,
    /// Path in the image.
    pub path: ImagePath,
    /// Mode of regular files: by default 0755 if the source's owner may execute it, else 0644. Directories have 0755.
    pub mode: Option<Mode>,
    /// Owner of the file, or of the directory and its content.
    #[serde(default)]
    pub owner: Owner,
}

impl Definition {
    /// Parses a definition; `what` names it in errors.
    pub fn parse(what: &str, text: &str) -> Result<Definition> {
        if text.len() > MAX_DEFINITION {
            return Err(Error::usage(
                what,
                format_args!("is longer than {MAX_DEFINITION} bytes"),
            ));
        }
        let definition: Definition = toml::from_str(text).map_err(|e| {
            let before = e
                .span()
                .and_then(|span| text.get(..span.start))
                .unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Error::usage(format_args!("{what}, line {line}"), e.message())
        })?;
        definition.check(what)?;
        Ok(definition)
    }

    /// Refuses settings that would make an image that cannot be started.
    fn check(&self, what: &str) -> Result<()> {
        let mut environment = Environment::new();
        for (name, value) in &self.env {
            environment.set(what, name.as_ref(), value.as_ref())?;
        }
        if let Some(label) = self.labels.get(Contract::LABEL) {
            Contract::parse(label)?;
        }
        Ok(())
    }
}

/// An absolute path in an image without `.`, `..`, empty components or a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ImagePath(String);

impl ImagePath {
    /// Returns the path with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ImagePath {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<ImagePath, String> {
        let normal = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.len() <= MAX_COMPONENT
                && !part.starts_with(WHITEOUT)
                && !part.contains('\0')
        };
        let inside = text.strip_prefix('/');
        let good = inside.is_some_and(|inside| inside.is_empty() || inside.split('/').all(normal));
        if good && text.len() <= MAX_PATH {
            Ok(ImagePath(text))
        } else {
            Err(format!("{text:?} is not an absolute and normalised path"))
        }
    }
}

/// Permission bits, in TOML an octal string: `"0755"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mode(u32);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Mode, String> {
        let octal = !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let mode = u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| octal && *mode <= 0o7777);
        mode.map(Mode)
            .ok_or_else(|| format!("mode {text:?} is not an octal number up to 7777"))
    }
}

/// A user and a group by number, in TOML `"UID:GID"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Owner {
    uid: u16,
    gid: u16,
}

impl TryFrom<String> for Owner {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Owner, String> {
        let number = |digits: &str| {
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                digits.parse().ok()
            } else {
                None
            }
        };
        let owner = text.split_once(':').and_then(|(uid, gid)| {
            Some(Owner {
                uid: number(uid)?,
                gid: number(gid)?,
            })
        });
        owner.ok_or_else(|| format!("owner {text:?} is not UID:GID, two numbers up to 65535"))
    }
}

#[cfg(test)]
mod tests;
