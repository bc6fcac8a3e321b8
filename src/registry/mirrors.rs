//! Servers in this host's configuration for an image: its mirrors, and the registry itself.
//!
//! A rule of `registries.conf` takes precedence; `hosts.toml` applies to names without one.

use super::endpoint::{self, Endpoint};
use super::hosts_toml::{self, Use};
use super::registries_conf::Rules;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::image::reference::Reference;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Maximum bytes of a configuration file.
const MAX_FILE: u64 = 1 << 20;
/// Variable with the directory that contains a directory with a `hosts.toml` for each registry.
const HOSTS_DIR: &str = "IMRUN_HOSTS_DIR";
/// Variable with the only `registries.conf` to read.
const REGISTRIES_CONF: &str = "CONTAINERS_REGISTRIES_CONF";
/// Directories of containerd, nerdctl and Docker with a directory for each registry.
const USUAL_HOSTS_DIRS: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];

/// Returns the servers to pull from, in the order to ask them.
pub fn to_pull(name: &Reference) -> Result<Vec<Endpoint>> {
    endpoints(name, Use::Pull)
}

/// Returns the server to push to: the first host of `hosts.toml` that accepts pushes, never a mirror of
/// `registries.conf`.
pub fn to_push(name: &Reference) -> Result<Endpoint> {
    let all = endpoints(name, Use::Push)?;
    let first = all.into_iter().next();
    first.ok_or_else(|| {
        Error::policy(
            format_args!("image {name}"),
            "this host's configuration has no server to push to",
        )
    })
}

fn endpoints(name: &Reference, to: Use) -> Result<Vec<Endpoint>> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut rules = Rules::default();
    for file in rule_files(variable)? {
        if let Some(text) = text(&file)? {
            rules.add(&file, &text)?;
        }
    }
    if let Some(mut endpoints) = rules.endpoints(name)? {
        endpoints.retain(|endpoint| to == Use::Pull || !endpoint.is_mirror);
        return Ok(endpoints);
    }
    for file in host_files(variable, &name.registry) {
        if let Some(text) = text(&file)? {
            return hosts_toml::endpoints(&file, &text, name, to);
        }
    }
    Ok(vec![Endpoint::of(name)])
}

/// Returns the files with rules, the most general first. The variable names the only one; a user's file
/// replaces the host's.
fn rule_files(variable: impl Fn(&str) -> Option<OsString>) -> Result<Vec<PathBuf>> {
    if let Some(file) = variable(REGISTRIES_CONF) {
        return Ok(vec![file.into()]);
    }
    let host = PathBuf::from("/etc/containers/registries.conf");
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(Path::new(&variable("HOME")?).join(".config")));
    let own = config.map(|config| config.join("containers/registries.conf"));
    let main = own
        .clone()
        .filter(|file| file.exists())
        .unwrap_or_else(|| host.clone());
    let mut all = vec![main];
    for base in [Some(host), own].into_iter().flatten() {
        all.extend(drop_ins(&base.with_extension("conf.d"))?);
    }
    Ok(all)
}

/// Returns the files `*.conf` of a directory, sorted by name.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let call = || format!("readdir({directory:?})");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).context(call)? {
        let file = entry.context(call)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the files that may configure a registry. Not every file system allows a colon in a
/// directory's name.
fn host_files(variable: impl Fn(&str) -> Option<OsString>, registry: &str) -> Vec<PathBuf> {
    let parents = match variable(HOSTS_DIR) {
        Some(directory) => vec![PathBuf::from(directory)],
        None => USUAL_HOSTS_DIRS.map(PathBuf::from).to_vec(),
    };
    let names = [
        endpoint::portable(registry),
        registry.to_string(),
        "_default".to_string(),
    ];
    let file = |parent: &PathBuf, name: &String| parent.join(name).join("hosts.toml");
    let of = |parent: &PathBuf| {
        names
            .iter()
            .map(|name| file(parent, name))
            .collect::<Vec<_>>()
    };
    parents.iter().flat_map(of).collect()
}

fn text(file: &Path) -> Result<Option<String>> {
    let Some(bytes) = files::read_if_there(file, MAX_FILE)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|_| Error::usage(file.display(), "is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_directory_has_its_name_with_or_without_a_colon() {
        let set = |name: &str| (name == HOSTS_DIR).then(|| OsString::from("/d"));
        let expected = [
            "/d/r.example_5000_/hosts.toml",
            "/d/r.example:5000/hosts.toml",
            "/d/_default/hosts.toml",
        ];
        assert_eq!(
            host_files(set, "r.example:5000"),
            expected.map(PathBuf::from)
        );
    }

    #[test]
    fn a_users_file_replaces_the_hosts_and_drop_ins_are_added() {
        let home = tempfile::tempdir().unwrap();
        let own = home.path().join("containers");
        std::fs::create_dir_all(own.join("registries.conf.d")).unwrap();
        for file in [
            "registries.conf",
            "registries.conf.d/b.conf",
            "registries.conf.d/a.conf",
            "registries.conf.d/c",
        ] {
            std::fs::write(own.join(file), "").unwrap();
        }
        let in_home = |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.path().into());
        let files = rule_files(in_home).unwrap();
        assert_eq!(files[0], own.join("registries.conf"));
        let last =
            ["registries.conf.d/a.conf", "registries.conf.d/b.conf"].map(|file| own.join(file));
        assert_eq!(files[files.len() - 2..], last);
        let alone = |name: &str| (name == REGISTRIES_CONF).then(|| OsString::from("/one"));
        assert_eq!(rule_files(alone).unwrap(), [PathBuf::from("/one")]);
    }
}
