//! `mounts` of config.json. A container has nothing writable and nothing of the host: each mount is provided by
//! the runtime anyway, bound read-only (files for name resolution), left out, or refused.

use super::config::{Changes, ParseContext, refuse};
use crate::base::error::Result;
use crate::base::json::Node;
use crate::runtime::container::bundle;
use crate::runtime::launch::NameFile;
use std::path::{Path, PathBuf};

/// One entry of `mounts`.
struct Mount<'a> {
    destination: &'a Path,
    kind: &'a str,
    source: &'a Path,
    options: Vec<String>,
}

/// Decision about a mount.
enum Handling {
    /// The runtime mounts its own there.
    Provided,
    /// The file is bound read-only.
    Name(NameFile),
    /// The mount is left out and reported under this name.
    Omitted(&'static str),
}

/// File systems that every container has: type and mount point.
const PROVIDED: [(&str, &str); 5] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("cgroup", "/sys/fs/cgroup"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/dev"),
];

/// Files that engines mount for their own use.
const ENGINE_FILES: [&str; 3] = ["/run/.containerenv", "/.dockerenv", "/dev/termination-log"];

pub(super) fn read(
    root: &Node<'_>,
    context: &ParseContext<'_>,
    changes: &mut Changes,
) -> Result<Vec<(NameFile, PathBuf)>> {
    let mut names: Vec<(NameFile, PathBuf)> = Vec::new();
    let list = root.get("mounts")?;
    for node in list.map_or(Ok(Vec::new()), |list| list.list())? {
        let mount = Mount::read(&node)?;
        match mount.handling(context)? {
            Handling::Provided => {}
            Handling::Name(name) => {
                names.retain(|(other, _)| *other != name);
                names.push((name, context.directory.join(mount.source)));
            }
            Handling::Omitted(what) => {
                changes.add(&mount.destination.to_string_lossy(), what, "absent");
            }
        }
    }
    Ok(names)
}

impl<'a> Mount<'a> {
    fn read(node: &Node<'a>) -> Result<Mount<'a>> {
        let part = |key| match node.get(key)? {
            Some(node) => node.text(),
            None => Ok(""),
        };
        let destination = Path::new(node.need("destination")?.text()?);
        if !destination.is_absolute() {
            return Err(node.error("has a destination that is not absolute"));
        }
        Ok(Mount {
            destination,
            kind: part("type")?,
            source: Path::new(part("source")?),
            options: match node.get("options")? {
                Some(options) => options.texts()?,
                None => Vec::new(),
            },
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|other| other == option)
    }

    fn is_bind(&self) -> bool {
        self.kind == "bind" || self.has("bind") || self.has("rbind")
    }

    fn handling(&self, context: &ParseContext<'_>) -> Result<Handling> {
        if self.is_bind() {
            return self.bind_handling(context);
        }
        let place = self.destination;
        if PROVIDED
            .iter()
            .any(|(kind, own)| *kind == self.kind && Path::new(own) == place)
        {
            return Ok(Handling::Provided);
        }
        match self.kind {
            "tmpfs" | "ramfs" => Ok(Handling::Omitted(bundle::IN_MEMORY)),
            "devpts" => Ok(Handling::Omitted("terminals")),
            "mqueue" => Ok(Handling::Omitted("message queues")),
            kind => Err(refuse(
                format_args!("mounts, {place:?}"),
                format_args!(
                    "a container has no file system of type {kind:?} except the runtime's own"
                ),
            )),
        }
    }

    fn bind_handling(&self, context: &ParseContext<'_>) -> Result<Handling> {
        if let Some(name) = NameFile::of(self.destination) {
            return Ok(Handling::Name(name));
        }
        if PROVIDED
            .iter()
            .any(|(_, own)| Path::new(own) == self.destination)
            && self.source == self.destination
        {
            return Ok(Handling::Provided);
        }
        if ENGINE_FILES
            .iter()
            .any(|path| Path::new(path) == self.destination)
            || self.is_termination_log()
        {
            return Ok(Handling::Omitted("a file of the engine"));
        }
        if self.destination == Path::new("/dev/shm") {
            return Ok(Handling::Omitted("shared memory files"));
        }
        let writable = !self.has("ro") && !self.has("rro");
        if writable && (context.is_directory)(&context.directory.join(self.source)) {
            return Ok(Handling::Omitted(bundle::WRITABLE));
        }
        let error = refuse(
            format_args!("mounts, {:?}", self.destination),
            format_args!(
                "{:?} of the host would be configuration outside the image's digest",
                self.source
            ),
        );
        Err(error.hint(match self.destination.to_str() {
            Some(path) if path.starts_with("/var/run/secrets/kubernetes.io") => {
                "automountServiceAccountToken: false"
            }
            // Podman adds an entry for a user that the image does not have.
            Some("/etc/passwd" | "/etc/group") => "podman run --passwd=false omits it; bake the user into the image, or use numeric ids",
            _ => "bake files into the image, or configure by environment variables",
        }))
    }

    /// Returns true for the termination log of Kubernetes: a pod chooses its destination, but the source has a
    /// fixed form.
    fn is_termination_log(&self) -> bool {
        let parts: Vec<_> = self
            .source
            .iter()
            .filter_map(|part| part.to_str())
            .collect();
        matches!(parts[..], ["/", .., "pods", _, "containers", _, _])
    }
}

#[cfg(test)]
mod tests;
