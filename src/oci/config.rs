//! Reads a bundle's config.json (runtime-spec, config.md): what is asked for, what of it a read-only
//! container has, and what is refused.
//!
//! Strict where something is meant for this runtime, tolerant of keys that it does not know, as the
//! specification wants it.

use super::hooks::{self, Hooks};
use super::scope::Scope;
use super::seccomp::{Agent, Seccomp};
use super::{limits, linux, mounts, process};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::json::{self, Node};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::cgroup::Limits;
use crate::runtime::container::{Bundle, Subject};
use crate::runtime::launch::{NameFile, Setting};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// What names the document in errors.
pub(super) const WHAT: &str = "config.json";
/// Names a verified image of the store that takes the place of `root.path`.
const IMAGE: &str = "dev.imrun.image";

/// What a bundle asks for, checked.
pub struct Config {
    /// What the root is to be.
    pub subject: Subject,
    /// The process and what surrounds it.
    pub bundle: Bundle,
    /// `none`, `host` or `ns:PATH`.
    pub network: String,
    /// Settings of a network that is not its own.
    pub network_sysctls: Vec<Setting>,
    /// The uts namespace whose name it takes over.
    pub uts: Option<PathBuf>,
    /// The ipc namespace that it asks for, and does not get.
    pub ipc: Option<PathBuf>,
    /// Files with names.
    pub names: Vec<(NameFile, PathBuf)>,
    /// The most that it may do.
    pub capabilities: Capabilities,
    /// What it may use.
    pub limits: Limits,
    /// What is run at its turns.
    pub hooks: Hooks,
    /// The unit that its cgroup belongs to, where systemd manages the hierarchy.
    pub scope: Option<Scope>,
    /// Who answers what the bundle's filter asks.
    pub agent: Option<Agent>,
    /// For `state`.
    pub annotations: BTreeMap<String, String>,
}

/// How config.json is to be read.
pub struct ParseContext<'a> {
    /// The bundle's directory, absolute.
    pub directory: &'a Path,
    /// `--systemd-cgroup`: how `linux.cgroupsPath` is written.
    pub systemd: bool,
    /// The controllers of the host's cgroup hierarchy.
    pub controllers: &'a [String],
    /// The image that the caller demands, whatever the bundle says.
    pub image: Option<Digest>,
    /// Whether imrun's own filter asks nothing, so that the bundle's may.
    pub quiet: bool,
    /// Whether the source of a bind is a directory.
    pub is_directory: &'a dyn Fn(&Path) -> bool,
}

/// What was asked for and is not had, in the form of a side effect.
#[derive(Default)]
pub(super) struct Changes(pub Vec<Value>);

impl Changes {
    /// `path` was asked for `asked`, and became `became`.
    pub fn add(&mut self, path: &str, asked: impl Display, became: &str) {
        self.0.push(json!({
            "syscall": "request",
            "path": path,
            "asked": asked.to_string(),
            "became": became,
        }));
    }
}

/// The refusal of something in config.json.
pub(super) fn refuse(path: impl Display, why: impl Display) -> Error {
    Error::policy(format_args!("{WHAT} `{path}`"), why)
}

/// Something that makes no sense.
pub(super) fn wrong(path: impl Display, why: impl Display) -> Error {
    Error::usage(format_args!("{WHAT} `{path}`"), why)
}

impl Config {
    /// Reads config.json.
    pub fn parse(bytes: &[u8], context: &ParseContext<'_>) -> Result<Config> {
        let document = json::parse(WHAT, bytes)?;
        let root = Node::root(WHAT, &document);
        let minor = minor_version(root.need("ociVersion")?.text()?)?;
        let mut changes = Changes::default();
        let annotations = root.get("annotations")?.map(|node| node.text_map());
        let annotations = annotations.transpose()?.unwrap_or_default();
        let subject = subject(&root, &annotations, context, &mut changes)?;
        let names = mounts::read(&root, context, &mut changes)?;
        let (process, capabilities) = process::read(&root.need("process")?, &mut changes)?;
        let linux = linux::read(&root, context, &mut changes)?;
        let limits = limits::read(&root, context.controllers, &mut changes)?;
        let hooks = hooks::read(&root, minor)?;
        let (filter, agent) = match linux.seccomp {
            Some(Seccomp { filter, agent }) => (Some(filter), agent),
            None => (None, None),
        };
        let (sysctls, network_sysctls) = match linux.network.as_str() {
            "none" => (linux.sysctls, Vec::new()),
            _ => (Vec::new(), linux.sysctls),
        };
        Ok(Config {
            subject,
            network: linux.network,
            network_sysctls,
            uts: linux.uts,
            ipc: linux.ipc,
            names,
            capabilities,
            limits,
            hooks,
            scope: linux.scope,
            agent,
            annotations,
            bundle: Bundle {
                process,
                descriptors: Vec::new(),
                hostname: linux.hostname,
                domainname: linux.domainname,
                personality: linux.personality,
                sysctls,
                masked: linux.masked,
                filter,
                ids: linux.ids,
                cgroup: linux.cgroup,
                changes: changes.0,
            },
        })
    }
}

/// A member that is a string, if it is there and not empty.
pub(super) fn text(node: &Node<'_>, key: &str) -> Result<Option<String>> {
    let text = node.get(key)?.map(|node| node.text()).transpose()?;
    Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
}

/// The second number of a version 1.MINOR.PATCH (semver.org): those of the first one are compatible.
fn minor_version(version: &str) -> Result<u64> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers[..] {
        [Some(1), Some(minor), Some(_)] => Ok(minor),
        _ => Err(Error::unsupported(
            format_args!("{WHAT} `ociVersion` {version:?}"),
            "is no version 1.MINOR.PATCH",
        )),
    }
}

fn subject(
    root: &Node<'_>,
    annotations: &BTreeMap<String, String>,
    context: &ParseContext<'_>,
    changes: &mut Changes,
) -> Result<Subject> {
    let node = root.get("root")?;
    let readonly = match &node {
        Some(node) => node.get("readonly")?.map(|node| node.truth()).transpose()?,
        None => None,
    };
    if readonly != Some(true) {
        changes.add("/", "a writable root", "read-only");
    }
    let named = annotations.get(IMAGE).map(|digest| {
        digest
            .parse::<Digest>()
            .map_err(|error| wrong(format_args!("annotations.{IMAGE}"), error.why))
    });
    match (context.image, named.transpose()?) {
        (Some(image), Some(named)) if named != image => {
            let why = format_args!("is {named}, and the image of the container is {image}");
            return Err(refuse(format_args!("annotations.{IMAGE}"), why));
        }
        (Some(image), _) | (None, Some(image)) => return Ok(Subject::Image(image)),
        (None, None) => {}
    }
    let node = node.ok_or_else(|| root.error("lacks \"root\""))?;
    let path = Path::new(node.need("path")?.text()?);
    Ok(Subject::Directory(context.directory.join(path)))
}

#[cfg(test)]
mod tests;
