//! What an image runs on.

use super::read_text;
use crate::error::{Error, Result};
use crate::json::Node;
use std::fmt;
use std::str::FromStr;

/// An operating system and a processor, in Go's words: `linux/arm64/v8`.
///
/// Normalised as containerd does, so that equal platforms are equal values: `x86_64` is `amd64`,
/// `amd64/v1` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// `linux` for everything that imrun can run.
    pub os: String,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// `v7`, `v3`, …, where it is not the architecture's usual one.
    pub variant: Option<String>,
}

impl Platform {
    /// The normalised platform.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let variant = variant.map(str::to_lowercase).filter(|v| !v.is_empty());
        let (architecture, variant) = normalise(architecture.to_lowercase(), variant);
        Platform {
            os: os.to_lowercase(),
            architecture,
            variant,
        }
    }

    /// This machine's.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform::new("linux", architecture, None)
    }

    pub(super) fn read(node: &Node) -> Result<Platform> {
        let os = node.need("os")?.text()?;
        let architecture = node.need("architecture")?.text()?;
        let variant = read_text(node, "variant")?;
        Ok(Platform::new(os, architecture, variant.as_deref()))
    }

    /// The platform that an image config names. What it leaves out stays empty, and an arm config
    /// that has no variant may be of any: containerd's default would make each a `v7`.
    pub(super) fn of_config(root: &Node) -> Result<Platform> {
        let text = |key| Ok(read_text(root, key)?.unwrap_or_default());
        let (os, architecture) = (text("os")?, text("architecture")?);
        let variant = read_text(root, "variant")?;
        let platform = Platform::new(&os, &architecture, variant.as_deref());
        match (architecture.to_lowercase().as_str(), &variant) {
            ("arm", None) => Ok(Platform {
                variant: None,
                ..platform
            }),
            _ => Ok(platform),
        }
    }

    /// The same with what it leaves out taken from `other`.
    pub(super) fn or(&self, other: &Platform) -> Platform {
        let text = |own: &String, other: &String| match own.is_empty() {
            true => other.clone(),
            false => own.clone(),
        };
        let silent = self.architecture.is_empty()
            || self.architecture == "arm" && self.architecture == other.architecture;
        Platform {
            os: text(&self.os, &other.os),
            architecture: text(&self.architecture, &other.architecture),
            variant: match &self.variant {
                None if silent => other.variant.clone(),
                own => own.clone(),
            },
        }
    }

    /// How well an image for `other` suits this platform: 0 is the same, `None` not at all.
    ///
    /// As containerd has it, a lower variant of the processor suits too. Its fallbacks to another
    /// architecture (386 on amd64, arm on arm64) do not: the system call filter kills those.
    pub fn distance(&self, other: &Platform) -> Option<u32> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        if self.variant == other.variant {
            return Some(0);
        }
        self.level()?.checked_sub(other.level()?)
    }

    /// The variant as a number that grows with what the processor can do.
    fn level(&self) -> Option<u32> {
        let usual = match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            "arm" => "v7",
            _ => return None,
        };
        let text = self.variant.as_deref().unwrap_or(usual).strip_prefix('v')?;
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let (major, minor): (u8, u8) = (major.parse().ok()?, minor.parse().ok()?);
        Some(u32::from(major) << 8 | u32::from(minor))
    }
}

/// containerd's `platforms.normalizeArch`.
fn normalise(architecture: String, variant: Option<String>) -> (String, Option<String>) {
    let as_text = (architecture.as_str(), variant.as_deref());
    let (architecture, variant) = match as_text {
        ("i386", _) => ("386", None),
        ("amd64" | "x86_64" | "x86-64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("arm64" | "aarch64", None | Some("8" | "v8" | "v8.0")) => ("arm64", None),
        ("arm64" | "aarch64", Some("9" | "v9.0")) => ("arm64", Some("v9")),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        other => other,
    };
    (architecture.to_string(), variant.map(str::to_string))
}

impl FromStr for Platform {
    type Err = Error;

    /// `OS/ARCHITECTURE[/VARIANT]`.
    fn from_str(text: &str) -> Result<Platform> {
        let known = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [os, architecture] if parts.iter().all(|part| known(part)) => {
                Ok(Platform::new(os, architecture, None))
            }
            [os, architecture, variant] if parts.iter().all(|part| known(part)) => {
                Ok(Platform::new(os, architecture, Some(variant)))
            }
            _ => Err(Error::usage(
                format_args!("platform {text:?}"),
                "is not OS/ARCHITECTURE[/VARIANT]",
            )
            .hint("such as linux/amd64 or linux/arm/v7")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |text: &str| {
            if text.is_empty() {
                "unknown".into()
            } else {
                text.to_string()
            }
        };
        write!(f, "{}/{}", known(&self.os), known(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
