//! `mounts` of config.json. A container has nothing writable and nothing of the host: each mount is provided by
//! the runtime anyway, bound read-only (files for name resolution), left out, or refused.

use super::config::{Changes, ParseContext, malformed, refuse};
use crate::base::error::Result;
use crate::runtime::container::bundle;
use crate::runtime::launch::NameFile;
use oci_spec::runtime;
use std::path::{Path, PathBuf};

/// One entry of `mounts`.
struct Mount<'a> {
    destination: &'a Path,
    kind: &'a str,
    source: &'a Path,
    options: &'a [String],
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
    mounts: &[runtime::Mount],
    context: &ParseContext<'_>,
    changes: &mut Changes,
) -> Result<Vec<(NameFile, PathBuf)>> {
    let mut names: Vec<(NameFile, PathBuf)> = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let mount = Mount::of(mount);
        if !mount.destination.is_absolute() {
            let why = "has a destination that is not absolute";
            return Err(malformed(&format!("mounts[{index}]"), why));
        }
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
    fn of(mount: &'a runtime::Mount) -> Mount<'a> {
        Mount {
            destination: mount.destination(),
            kind: mount.typ().as_deref().unwrap_or_default(),
            source: mount.source().as_deref().unwrap_or(Path::new("")),
            options: mount.options().as_deref().unwrap_or_default(),
        }
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
