//! Platform of an image.

use super::read_text;
use crate::base::error::{Error, Result};
use crate::base::json::Node;
use std::fmt;
use std::str::FromStr;

/// An operating system and a processor, named as in Go: `linux/arm64/v8`.
///
/// Values are normalised as in containerd, so that equal platforms are equal values: `x86_64` is
/// `amd64`, `amd64/v1` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// Operating system; imrun runs only `linux`.
    pub os: String,
    /// Processor architecture: `amd64`, `arm64`, ….
    pub architecture: String,
    /// Variant: `v7`, `v3`, …; `None` for the architecture's usual one.
    pub variant: Option<String>,
}

impl Platform {
    /// Creates a normalised platform.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let variant = variant.map(str::to_lowercase).filter(|v| !v.is_empty());
        let (architecture, variant) = normalise(architecture.to_lowercase(), variant);
        Platform {
            os: os.to_lowercase(),
            architecture,
            variant,
        }
    }

    /// Returns the platform of this machine.
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

    /// Reads the platform of an image config. Omitted fields stay empty; an arm config without a
    /// variant may be for any, where containerd's default is `v7`.
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

    /// Fills the empty fields from `other`.
    pub(super) fn or(&self, other: &Platform) -> Platform {
        let text = |own: &String, other: &String| {
            if own.is_empty() {
                other.clone()
            } else {
                own.clone()
            }
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

    /// Returns the distance of an image for `other` from this platform: 0 if equal, `None` if unsuitable.
    ///
    /// As in containerd, a lower variant of the processor is suitable. Its fallbacks to another
    /// architecture (386 on amd64, arm on arm64) are not: the seccomp filter kills such processes.
    pub fn distance(&self, other: &Platform) -> Option<u32> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        if self.variant == other.variant {
            return Some(0);
        }
        self.level()?.checked_sub(other.level()?)
    }

    /// Returns the variant as a number that grows with the processor's features.
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

/// Normalises like containerd's `platforms.normalizeArch`.
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

    /// Parses `OS/ARCHITECTURE[/VARIANT]`.
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
                "expected OS/ARCHITECTURE[/VARIANT]",
            )
            .hint("for example linux/amd64 or linux/arm/v7")),
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
