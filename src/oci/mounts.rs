//! `mounts` of config.json: what of them a container has that nothing can be written in, and into
//! which nothing of the host's comes.

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

/// What becomes of it.
enum Handling {
    /// The runtime has one of its own there.
    Provided,
    /// It is bound, read-only.
    Name(NameFile),
    /// It is left out: what was asked for.
    Omitted(&'static str),
}

/// The file systems that show the container itself: every container has them, at their own places.
const PROVIDED: [(&str, &str); 5] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("cgroup", "/sys/fs/cgroup"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/dev"),
];

/// Files that engines put there for themselves.
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
                format_args!("a container has no {kind:?} but the runtime's own"),
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
            return Ok(Handling::Omitted("a file of the engine's"));
        }
        if self.destination == Path::new("/dev/shm") {
            return Ok(Handling::Omitted("memory that is shared as files"));
        }
        let writable = !self.has("ro") && !self.has("rro");
        if writable && (context.is_directory)(&context.directory.join(self.source)) {
            return Ok(Handling::Omitted(bundle::WRITABLE));
        }
        let error = refuse(
            format_args!("mounts, {:?}", self.destination),
            format_args!(
                "{:?} of the host would be configuration that no digest names",
                self.source
            ),
        );
        Err(error.hint(match self.destination.to_str() {
            Some(path) if path.starts_with("/var/run/secrets/kubernetes.io") => {
                "automountServiceAccountToken: false"
            }
            // Podman adds an entry for a user whom the image does not know.
            Some("/etc/passwd" | "/etc/group") => "podman run --passwd=false leaves it out; bake the user into the image, or run by numbers",
            _ => "bake files into the image, configure by environment variables",
        }))
    }

    /// Kubernetes lets a pod choose where it is, and the host's side is always here.
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
