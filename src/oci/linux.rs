//! `linux` of config.json, except its resources.

use super::config::{Changes, ParseContext, malformed, refuse, text, wrong};
use super::document::Document;
use super::scope::Scope;
use super::seccomp::{self, Seccomp};
use crate::base::error::Result;
use crate::base::json::Node;
use crate::runtime::id_map::{self, IdRange};
use crate::runtime::launch::{Setting, is_mask};
use oci_spec::runtime::{self, LinuxIdMapping, LinuxNamespaceType};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

/// Settings of `linux`, and the names of the UTS namespace.
pub(super) struct Linux {
    pub network: String,
    pub uts: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub ids: Option<(Vec<IdRange>, Vec<IdRange>)>,
    pub cgroup: Option<PathBuf>,
    pub scope: Option<Scope>,
    /// Sysctls of the network namespace.
    pub sysctls: Vec<Setting>,
    pub personality: u64,
    pub masked: Vec<CString>,
    pub seccomp: Option<Seccomp>,
    pub hostname: Option<String>,
    pub domainname: Option<CString>,
}

/// Devices of /dev that a bundle may list.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    // Engines list them although the specification leaves them to the runtime.
    "/dev/ptmx",
    "/dev/console",
];

/// Keys that imrun refuses, and the reason.
const REFUSED_KEYS: [(&str, &str); 4] = [
    ("intelRdt", "the host decides how its caches are shared"),
    ("memoryPolicy", "the host decides where its memory is"),
    (
        "netDevices",
        "imrun moves no network device of the host into a container",
    ),
    ("timeOffsets", "a container has the host's clocks"),
];

/// Hint about shared pid namespaces. CRI shares one in a pod unless the pod says otherwise.
const PID_NAMESPACE_HINT: &str =
    "a pod has shareProcessNamespace: false; for crictl, namespace_options has pid: 1";

/// Reads and checks the settings. `node` is `linux`, for the members that are not in its type.
pub(super) fn read(
    document: &Document,
    node: &Node<'_>,
    context: &ParseContext<'_>,
    changes: &mut Changes,
) -> Result<Linux> {
    let linux = &document.linux;
    let namespaces = Namespaces::read(linux, changes)?;
    for (key, why) in REFUSED_KEYS {
        // An empty memory policy is invalid, so it is refused as well.
        if let Some(node) = node.get(key)?
            && (key == "memoryPolicy" || !node.is_nothing())
        {
            return Err(refuse(format_args!("linux.{key}"), why));
        }
    }
    refuse_devices(node)?;
    check_propagation(linux)?;
    let (cgroup, scope) = cgroup(linux, context.systemd)?;
    let hostname = uts_name(linux, "hostname", &document.hostname)?;
    let domainname = uts_name(linux, "domainname", &document.domainname)?;
    Ok(Linux {
        cgroup,
        scope,
        sysctls: sysctls(linux, &namespaces, changes)?,
        masked: masked(linux)?,
        seccomp: linux
            .seccomp()
            .as_ref()
            .map(|seccomp| seccomp::read(seccomp, context.quiet))
            .transpose()?,
        personality: personality(node)?,
        hostname,
        domainname: domainname
            .map(|name| CString::new(name).map_err(|_| wrong("domainname", "has a NUL byte")))
            .transpose()?,
        ids: ids(linux, namespaces.user)?,
        network: namespaces.network,
        uts: namespaces.uts,
        ipc: namespaces.ipc,
    })
}

struct Namespaces {
    network: String,
    uts: Option<PathBuf>,
    ipc: Option<PathBuf>,
    user: bool,
}

impl Namespaces {
    fn read(linux: &runtime::Linux, changes: &mut Changes) -> Result<Namespaces> {
        let seen = Namespaces::list(linux)?;
        Namespaces::check(&seen, changes)?;
        Ok(Namespaces {
            network: match seen.get("network") {
                None => "host".into(),
                Some(None) => "none".into(),
                Some(Some(path)) => format!("ns:{}", path.display()),
            },
            uts: match seen.get("uts") {
                None => Some("/proc/self/ns/uts".into()),
                Some(path) => path.cloned(),
            },
            ipc: seen.get("ipc").copied().flatten().cloned(),
            user: seen.contains_key("user"),
        })
    }

    /// Returns the kinds of namespaces, with the paths of existing ones.
    fn list(linux: &runtime::Linux) -> Result<BTreeMap<&'static str, Option<&PathBuf>>> {
        let mut seen = BTreeMap::new();
        for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
            let kind = kind(namespace.typ());
            if seen.insert(kind, text(namespace.path())).is_some() {
                let path = format!("linux.namespaces[{index}]");
                return Err(malformed(
                    &path,
                    format_args!("names {kind:?} a second time"),
                ));
            }
        }
        Ok(seen)
    }

    /// Refuses namespaces that a container cannot have, and reports those that it gets differently.
    fn check(seen: &BTreeMap<&str, Option<&PathBuf>>, changes: &mut Changes) -> Result<()> {
        for (kind, path) in seen {
            match (*kind, path) {
                ("time", _) => {
                    let why = "a container has the host's clocks";
                    return Err(refuse("linux.namespaces, time", why));
                }
                ("pid" | "mount" | "user" | "cgroup", Some(_)) => {
                    let why = "a container never shares this namespace";
                    let error = refuse(format_args!("linux.namespaces, {kind}"), why);
                    return Err(match *kind {
                        "pid" => error.hint(PID_NAMESPACE_HINT),
                        _ => error,
                    });
                }
                // A shared IPC namespace would be memory that outlives the container.
                ("ipc", Some(path)) => {
                    changes.add("linux.namespaces, ipc", path.display(), "its own");
                }
                ("uts", Some(path)) => {
                    let became = "its own, of the same name";
                    changes.add("linux.namespaces, uts", path.display(), became);
                }
                _ => {}
            }
        }
        for kind in ["pid", "ipc"] {
            if !seen.contains_key(kind) {
                let field = format!("linux.namespaces, {kind}");
                changes.add(&field, "the host's", "its own");
            }
        }
        Ok(())
    }
}

/// Returns the specification's name of a namespace. `Display` of the crate's type has other names for two of them.
fn kind(namespace: LinuxNamespaceType) -> &'static str {
    match namespace {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

/// Returns the id mappings of users and groups, if the bundle has them.
fn ids(
    linux: &runtime::Linux,
    has_namespace: bool,
) -> Result<Option<(Vec<IdRange>, Vec<IdRange>)>> {
    let read = |list: &Option<Vec<LinuxIdMapping>>| -> Vec<IdRange> {
        list.iter().flatten().map(range).collect()
    };
    let (users, groups) = (read(linux.uid_mappings()), read(linux.gid_mappings()));
    for (key, ranges) in [("uidMappings", &users), ("gidMappings", &groups)] {
        id_map::check(ranges).map_err(|why| wrong(format_args!("linux.{key}"), why))?;
    }
    match (users.is_empty(), groups.is_empty()) {
        (true, true) => Ok(None),
        (false, false) if has_namespace => Ok(Some((users, groups))),
        (false, false) => Err(wrong(
            "linux.uidMappings",
            "there is no user namespace to map ids in",
        )),
        _ => Err(wrong(
            "linux.uidMappings",
            "expected together with linux.gidMappings, or not at all",
        )),
    }
}

fn range(mapping: &LinuxIdMapping) -> IdRange {
    IdRange {
        inside: mapping.container_id(),
        outside: mapping.host_id(),
        count: mapping.size(),
    }
}

/// Returns the cgroup's path relative to the root of the hierarchy, and its systemd unit for a
/// `cgroupsPath` of the form `SLICE:PREFIX:NAME`.
fn cgroup(linux: &runtime::Linux, systemd: bool) -> Result<(Option<PathBuf>, Option<Scope>)> {
    let Some(path) = text(linux.cgroups_path()) else {
        return Ok((None, None));
    };
    let text = path.to_str().expect("it was text");
    let (path, scope) = if systemd || is_of_slice(text) {
        slice_path(text)?
    } else {
        (path.clone(), None)
    };
    let plain = |part: &Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.components().all(|part| plain(&part)) || path.file_name().is_none() {
        return Err(wrong(
            "linux.cgroupsPath",
            "expected a path without `..`, below the root of the hierarchy",
        ));
    }
    let path = path.strip_prefix("/").unwrap_or(&path).to_owned();
    Ok((Some(path), scope))
}

/// Returns true for a path of the form `SLICE.slice:PREFIX:NAME`. containerd writes it without `--systemd-cgroup`
/// if the pod's cgroup has this form: it passes that option to runc's shim only.
fn is_of_slice(path: &str) -> bool {
    let slice = path.split(':').next().unwrap_or_default();
    path.split(':').count() == 3 && slice.ends_with(".slice") && !path.contains('/')
}

/// Translates `SLICE:PREFIX:NAME` to a path: `a-b.slice` is inside `a.slice` (systemd.slice(5)).
fn slice_path(text: &str) -> Result<(PathBuf, Option<Scope>)> {
    let parts: Vec<_> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return Err(wrong("linux.cgroupsPath", "expected SLICE:PREFIX:NAME"));
    };
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let stem = slice
        .strip_suffix(".slice")
        .filter(|stem| !stem.contains('/'))
        .ok_or_else(|| {
            wrong(
                "linux.cgroupsPath",
                "the first part is not a slice: expected NAME.slice",
            )
        })?;
    let mut path = PathBuf::new();
    if stem != "-" {
        for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
            path.push(format!("{}.slice", &stem[..end]));
        }
    }
    let unit = match (prefix, name.ends_with(".slice")) {
        (_, true) => return Ok((path.join(name), None)),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    };
    path.push(&unit);
    let slice = slice.to_owned();
    Ok((path, Some(Scope { slice, unit })))
}

/// Reads a name of the UTS namespace: a field of its own, or a sysctl.
fn uts_name(linux: &runtime::Linux, field: &str, name: &Option<String>) -> Result<Option<String>> {
    let key = format!("kernel.{field}");
    let set = |key: &str| linux.sysctl().as_ref()?.get(key);
    let set = set(&key).or_else(|| set(&key.replace('.', "/")));
    match (text(name), set) {
        (Some(named), Some(set)) if named != set => {
            let why = format_args!("is {set:?}, but `{field}` is {named:?}");
            Err(wrong(format_args!("linux.sysctl {key:?}"), why))
        }
        (named, set) => Ok(named.or(set).cloned()),
    }
}

/// Reads the execution domain (personality(2)).
fn personality(linux: &Node<'_>) -> Result<u64> {
    const LINUX32: u64 = 8; // PER_LINUX32, linux/personality.h
    let Some(node) = linux.get("personality")?.filter(|node| !node.is_nothing()) else {
        return Ok(0);
    };
    if node.get("flags")?.is_some_and(|flags| !flags.is_nothing()) {
        let why = "the specification defines no flags, and those of Linux remove protections";
        return Err(refuse("linux.personality, flags", why));
    }
    match node.need("domain")?.text()? {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(LINUX32),
        other => {
            let why = format_args!("expected LINUX or LINUX32, found {other:?}");
            Err(wrong("linux.personality, domain", why))
        }
    }
}

fn refuse_devices(linux: &Node<'_>) -> Result<()> {
    let list = linux.get("devices")?;
    for node in list.map_or(Ok(Vec::new()), |list| list.list())? {
        let path = node.need("path")?.text()?;
        if !DEVICES.contains(&path) {
            let why = "/dev has null, zero, full, random, urandom and tty only";
            return Err(refuse(format_args!("linux.devices, {path:?}"), why));
        }
    }
    Ok(())
}

/// Checks the mode of mount propagation, which has no effect: nothing is mounted in a running container.
fn check_propagation(linux: &runtime::Linux) -> Result<()> {
    const KNOWN: [&str; 8] = [
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "unbindable",
        "runbindable",
    ];
    match text(linux.rootfs_propagation()) {
        Some(mode) if !KNOWN.contains(&mode.as_str()) => Err(wrong(
            "linux.rootfsPropagation",
            "unknown mode of propagation",
        )),
        _ => Ok(()),
    }
}

/// Reads the sysctls of the network. [`uts_name`] reads those of the UTS namespace.
fn sysctls(
    linux: &runtime::Linux,
    namespaces: &Namespaces,
    changes: &mut Changes,
) -> Result<Vec<Setting>> {
    let field = |name: &str| format!("linux.sysctl {name:?}");
    let (mut sysctls, mut paths) = (Vec::new(), BTreeSet::new());
    // Sorted: the crate's maps have no order.
    let settings: BTreeMap<_, _> = linux.sysctl().iter().flatten().collect();
    for (name, value) in settings {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if !name.bytes().all(plain) || name.contains("..") {
            return Err(wrong(field(name), "is not a valid name of a sysctl"));
        }
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        if !paths.insert(path.clone()) {
            let why = "is given twice, with dots and with slashes";
            return Err(wrong(field(name), why));
        }
        let of_uts = ["kernel/hostname", "kernel/domainname"];
        let of_ipc = ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"];
        if of_ipc.iter().any(|start| path.starts_with(start)) {
            changes.add(
                &field(name),
                value,
                "the kernel's default: a container makes no System V objects and no message queues",
            );
        } else if path.starts_with("net/") && namespaces.network != "host" {
            sysctls.push(Setting {
                path: CString::new(format!("sys/{path}")).expect("the name is plain"),
                value: value.clone().into_bytes(),
                name: name.clone(),
            });
        } else if path.starts_with("net/") {
            let why = "belongs to the host: the container has no network namespace of its own";
            return Err(refuse(field(name), why));
        } else if !of_uts.contains(&path.as_str()) {
            let why = "belongs to the host, or does not exist: a container cannot set it";
            return Err(refuse(field(name), why));
        }
    }
    Ok(sysctls)
}

/// Reads the masked paths that imrun does not mask in every container. `linux.readonlyPaths` needs no code:
/// everything is read-only.
fn masked(linux: &runtime::Linux) -> Result<Vec<CString>> {
    let mut masked = Vec::new();
    for path in linux.masked_paths().iter().flatten() {
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        let wrong = |why| wrong(format_args!("linux.maskedPaths {path:?}"), why);
        let components = || Path::new(path).components();
        if !path.starts_with('/') || !components().all(plain) || components().count() < 2 {
            return Err(wrong("expected an absolute path without `.` and `..`"));
        }
        let path: PathBuf = components().collect();
        let path = path.to_str().expect("it was text").to_owned();
        let path_string = CString::new(path.as_str()).map_err(|_| wrong("has a NUL byte"))?;
        if is_of_one_process(&path) {
            let why =
                "leads to files that each process has of its own: no mount covers those of all";
            return Err(refuse(format_args!("linux.maskedPaths {path:?}"), why));
        }
        if !is_mask(&path) && !masked.contains(&path_string) {
            masked.push(path_string);
        }
    }
    Ok(masked)
}

/// Returns true for a path into the directory of a process, also by one of procfs's links to it (proc(5)).
fn is_of_one_process(path: &str) -> bool {
    let name = path
        .strip_prefix("/proc/")
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default();
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number || ["self", "thread-self", "mounts", "net"].contains(&name)
}
