//! Images from definitions: a pure function of a file in TOML, the files it names and its base.
//!
//! Neither date, host name, umask nor the order of directories has a part in the result, so the
//! same definition gives the same digest everywhere.

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

/// Bytes of a definition.
pub const MAX_DEFINITION: usize = 1 << 20;
/// Bytes in a path of the image, PATH_MAX without its NUL.
const MAX_PATH: usize = 4095;
/// Bytes in one component of a path, NAME_MAX.
const MAX_COMPONENT: usize = 255;
/// How a layer marks what it removes (OCI layer.md, "Whiteouts"): not a name for a file.
const WHITEOUT: &str = ".wh.";

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Definition {
    /// The manifest whose layers come first; none makes an image from nothing.
    pub base: Option<Digest>,
    /// Replaces the base's, and with it the base's `cmd`.
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
    /// What the image's own layer holds.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
}

/// A file, or a directory with all it holds, that goes into the layer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it is, relative to the definition's directory and never outside it.
    pub source: String,
    /// Where it goes.
    pub path: ImagePath,
    /// The mode of regular files: by default 0755 where the source's owner may execute it, else
    /// 0644. Directories are 0755.
    pub mode: Option<Mode>,
    /// Whom it belongs to, and all it holds.
    #[serde(default)]
    pub owner: Owner,
}

impl Definition {
    /// Reads a definition; `what` names it in errors.
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

    /// Refuses what would make an image that cannot be started.
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
    /// The path, slash in front.
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
