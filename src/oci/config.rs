//! Parser of a bundle's config.json (runtime-spec, config.md). It checks every setting: a read-only container gets
//! it, gets something else instead (reported as a side effect), or the parser refuses the bundle.
//!
//! Settings that imrun knows are checked strictly; unknown keys are ignored, as the specification demands.

use super::document::{self, Document};
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
use oci_spec::runtime::Root;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Name of the document in errors.
pub(super) const WHAT: &str = "config.json";
/// Annotation with the digest of a verified image of the store, which replaces `root.path`.
const IMAGE: &str = "dev.imrun.image";

/// Settings of a bundle, checked.
pub struct Config {
    /// Root of the container.
    pub subject: Subject,
    /// Process, namespaces, cgroup and filter.
    pub bundle: Bundle,
    /// Network: `none`, `host` or `ns:PATH`.
    pub network: String,
    /// Sysctls of a network namespace that others have made.
    pub network_sysctls: Vec<Setting>,
    /// UTS namespace from which the container's own takes its host name.
    pub uts: Option<PathBuf>,
    /// IPC namespace that the bundle names. It must exist, but the container gets its own.
    pub ipc: Option<PathBuf>,
    /// Files for name resolution, such as /etc/resolv.conf, with their sources on the host.
    pub names: Vec<(NameFile, PathBuf)>,
    /// Upper limit of the app's capabilities.
    pub capabilities: Capabilities,
    /// Resource limits.
    pub limits: Limits,
    /// Lifecycle hooks.
    pub hooks: Hooks,
    /// Systemd unit of the container's cgroup, if systemd manages the hierarchy.
    pub scope: Option<Scope>,
    /// Process that answers the notifications of the bundle's filter.
    pub agent: Option<Agent>,
    /// Annotations, shown by `state`.
    pub annotations: BTreeMap<String, String>,
}

/// Facts about the host and the caller that the parser depends on.
pub struct ParseContext<'a> {
    /// The bundle's directory, absolute.
    pub directory: &'a Path,
    /// True with `--systemd-cgroup`: `linux.cgroupsPath` is `SLICE:PREFIX:NAME`.
    pub systemd: bool,
    /// Controllers of the host's cgroup hierarchy.
    pub controllers: &'a [String],
    /// Image that the caller demands; it overrides the bundle's root.
    pub image: Option<Digest>,
    /// True if imrun's own filter has no listener, so that the bundle's filter may have one.
    pub quiet: bool,
    /// Returns true if the source of a bind mount is a directory.
    pub is_directory: &'a dyn Fn(&Path) -> bool,
}

/// Settings that the container does not get as the bundle asked, in the form of side effects.
#[derive(Default)]
pub(super) struct Changes(pub Vec<Value>);

impl Changes {
    /// Adds a change of the setting `path` from `asked` to `became`.
    pub fn add(&mut self, path: &str, asked: impl Display, became: &str) {
        self.0.push(json!({
            "syscall": "request",
            "path": path,
            "asked": asked.to_string(),
            "became": became,
        }));
    }
}

/// Returns the error for a valid setting that imrun refuses by policy.
pub(super) fn refuse(path: impl Display, why: impl Display) -> Error {
    Error::policy(format_args!("{WHAT} `{path}`"), why)
}

/// Returns the error for a setting with an invalid value.
pub(super) fn wrong(path: impl Display, why: impl Display) -> Error {
    Error::usage(format_args!("{WHAT} `{path}`"), why)
}

/// Returns the error for a value that does not have the type of `path`; an empty path is the whole document.
pub(super) fn malformed(path: &str, why: impl Display) -> Error {
    match path {
        "" => Error::digest(WHAT, why),
        path => Error::digest(WHAT, format_args!("`{path}` {why}")),
    }
}

impl Config {
    /// Parses and checks config.json.
    ///
    /// # Errors
    /// The first setting that is invalid, or that a container cannot have.
    pub fn parse(bytes: &[u8], context: &ParseContext<'_>) -> Result<Config> {
        let value = json::parse(WHAT, bytes)?;
        let root = Node::root(WHAT, &value);
        // Before anything else: another version may have other types.
        let minor = minor_version(root.need("ociVersion")?.text()?)?;
        let document: Document = document::read(&value)?;
        let mut changes = Changes::default();
        let subject = subject(&document, context, &mut changes)?;
        let names = mounts::read(&document.mounts, context, &mut changes)?;
        let (process, capabilities) =
            process::read(&document.process, &root.need("process")?, &mut changes)?;
        let linux = linux::read(&document, &root.need("linux")?, context, &mut changes)?;
        let limits = limits::read(
            &document.linux,
            &root.need("linux")?,
            context.controllers,
            &mut changes,
        )?;
        let hooks = hooks::read(&document.hooks.unwrap_or_default(), minor)?;
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
            annotations: document.annotations,
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

/// Returns a text; `None` if it is absent or empty.
pub(super) fn text<T: AsRef<OsStr>>(text: &Option<T>) -> Option<&T> {
    text.as_ref().filter(|text| !text.as_ref().is_empty())
}

/// Returns MINOR of a version 1.MINOR.PATCH (semver.org). All versions 1 are compatible.
fn minor_version(version: &str) -> Result<u64> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers[..] {
        [Some(1), Some(minor), Some(_)] => Ok(minor),
        _ => Err(Error::unsupported(
            format_args!("{WHAT} `ociVersion` {version:?}"),
            "expected a version 1.MINOR.PATCH",
        )),
    }
}

fn subject(
    document: &Document,
    context: &ParseContext<'_>,
    changes: &mut Changes,
) -> Result<Subject> {
    let root = document.root.as_ref();
    if root.and_then(Root::readonly) != Some(true) {
        changes.add("/", "a writable root", "read-only");
    }
    let named = document.annotations.get(IMAGE).map(|digest| {
        digest
            .parse::<Digest>()
            .map_err(|error| wrong(format_args!("annotations.{IMAGE}"), error.why))
    });
    match (context.image, named.transpose()?) {
        (Some(image), Some(named)) if named != image => {
            let why = format_args!("is {named}, but the container's image is {image}");
            return Err(refuse(format_args!("annotations.{IMAGE}"), why));
        }
        (Some(image), _) | (None, Some(image)) => return Ok(Subject::Image(image)),
        (None, None) => {}
    }
    let root = root.ok_or_else(|| malformed("", "lacks \"root\""))?;
    // An absent path is an empty one in the crate's type: it would be the bundle's directory.
    if root.path().as_os_str().is_empty() {
        return Err(malformed("root", "lacks \"path\""));
    }
    Ok(Subject::Directory(context.directory.join(root.path())))
}

#[cfg(test)]
mod tests;
