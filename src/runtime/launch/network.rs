//! The container's network, and the host's name files that come with it.

use super::host_file::{Bind, HostFile};
use super::namespace::open_namespace;
use super::sysctl::{self, Setting};
use crate::base::error::{Context, Error, Reason, Result};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use std::ffi::CStr;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// A name file that is bound over a placeholder of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFile {
    /// `/etc/resolv.conf`
    ResolvConf,
    /// `/etc/hosts`
    Hosts,
    /// `/etc/hostname`
    Hostname,
}

impl NameFile {
    /// Returns the name file at `path`, if it is one.
    pub fn of(path: &Path) -> Option<NameFile> {
        let all = [NameFile::ResolvConf, NameFile::Hosts, NameFile::Hostname];
        all.into_iter().find(|file| Path::new(file.path()) == path)
    }

    fn path(self) -> &'static str {
        match self {
            NameFile::ResolvConf => RESOLV_CONF,
            NameFile::Hosts => HOSTS,
            NameFile::Hostname => "/etc/hostname",
        }
    }

    fn target(self) -> &'static CStr {
        match self {
            NameFile::ResolvConf => c"etc/resolv.conf",
            NameFile::Hosts => c"etc/hosts",
            NameFile::Hostname => c"etc/hostname",
        }
    }

    /// Returns its key in the launch record.
    fn key(self) -> &'static str {
        match self {
            NameFile::ResolvConf => "resolvConf",
            NameFile::Hosts => "hosts",
            NameFile::Hostname => "hostname",
        }
    }
}
/// Maximum number of name servers that resolvers use (resolv.conf(5), MAXNS).
const MAX_DNS: usize = 3;

/// Network options: `--net` and `--dns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    mode: Mode,
    names: Source,
    sysctls: Vec<Setting>,
}

/// Source of the name files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// The host's files, if the container has a network; with these name servers, if any.
    Host(Vec<IpAddr>),
    /// These files and no others.
    Files(Vec<(NameFile, PathBuf)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// Network namespace of the container's own, with loopback only.
    None,
    /// Network namespace of the host.
    Host,
    /// Existing network namespace.
    Namespace(PathBuf),
}

impl Network {
    /// Parses `mode`: `none`, `host` or `ns:PATH`. The name servers replace the host's.
    pub fn new(mode: &str, dns: Vec<IpAddr>) -> Result<Network> {
        let parsed = match mode {
            "none" => Mode::None,
            "host" => Mode::Host,
            _ => match mode.strip_prefix("ns:").filter(|path| !path.is_empty()) {
                Some(path) => Mode::Namespace(path.into()),
                None => {
                    return Err(Error::usage(
                        format_args!("--net {mode}"),
                        "expected none, host or ns:PATH",
                    ));
                }
            },
        };
        if parsed == Mode::None && !dns.is_empty() {
            return Err(Error::usage("--dns", "the container has no network")
                .hint("add --net host or --net ns:PATH"));
        }
        if dns.len() > MAX_DNS {
            return Err(Error::usage(
                "--dns",
                format_args!("resolvers use {MAX_DNS} name servers at most (resolv.conf(5))"),
            ));
        }
        Ok(Network {
            mode: parsed,
            names: Source::Host(dns),
            sysctls: Vec::new(),
        })
    }

    /// Parses `mode` as [`Network::new`] does. The engine has made `files` for the container.
    pub fn with_files(mode: &str, files: Vec<(NameFile, PathBuf)>) -> Result<Network> {
        Ok(Network {
            names: Source::Files(files),
            ..Network::new(mode, Vec::new())?
        })
    }

    /// Adds sysctls to set in a namespace that the engine has made for the container.
    pub fn with_sysctls(self, sysctls: Vec<Setting>) -> Network {
        Network { sysctls, ..self }
    }

    /// Opens the host's objects: the namespace and the name files.
    ///
    /// # Errors
    /// The path is not a network namespace, or a name file cannot be read.
    pub fn attach(&self) -> Result<Attachment> {
        let namespace = match &self.mode {
            Mode::Namespace(path) => Some(open_network(path)?),
            Mode::None | Mode::Host => None,
        };
        Ok(Attachment {
            mode: self.mode.clone(),
            namespace,
            names: self.names()?,
            sysctls: self.sysctls.clone(),
        })
    }

    fn names(&self) -> Result<Vec<(NameFile, HostFile)>> {
        let dns = match (&self.names, &self.mode) {
            (Source::Files(files), _) => {
                let open = |(name, path): &(NameFile, PathBuf)| {
                    Ok((*name, HostFile::open(path, "it is the source of a mount")?))
                };
                return files.iter().map(open).collect();
            }
            (Source::Host(_), Mode::None) => return Ok(Vec::new()),
            (Source::Host(dns), _) => dns,
        };
        let resolv_conf = if dns.is_empty() {
            HostFile::open(
                Path::new(RESOLV_CONF),
                "set name servers with --dns ADDRESS",
            )?
        } else {
            HostFile::made(resolv_conf(dns).into_bytes())
        };
        let hint = "the host needs a hosts file: hosts(5)";
        let hosts = HostFile::open(Path::new(HOSTS), hint)?;
        Ok(vec![
            (NameFile::ResolvConf, resolv_conf),
            (NameFile::Hosts, hosts),
        ])
    }
}

fn resolv_conf(servers: &[IpAddr]) -> String {
    servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect()
}

/// An opened network, for one launch.
pub struct Attachment {
    mode: Mode,
    namespace: Option<File>,
    names: Vec<(NameFile, HostFile)>,
    sysctls: Vec<Setting>,
}

impl Attachment {
    /// Returns the entry of the launch record: mode, namespace path, digests of the name files.
    pub fn record(&self) -> Value {
        let mut record = match &self.mode {
            Mode::None => json!({ "mode": "none" }),
            Mode::Host => json!({ "mode": "host" }),
            Mode::Namespace(path) => json!({ "mode": "ns", "path": path.to_string_lossy() }),
        };
        for (name, file) in &self.names {
            record[name.key()] = json!(file.digest);
        }
        for Setting { path, value, .. } in &self.sysctls {
            let value = String::from_utf8_lossy(value);
            record["sysctls"][&*path.to_string_lossy()] = json!(value);
        }
        record
    }

    /// Returns true if the container's user namespace owns the network namespace. Only then may the
    /// container mount sysfs.
    pub(super) fn owned(&self) -> bool {
        self.mode == Mode::None
    }

    pub(super) fn clone_flag(&self) -> u64 {
        if self.owned() {
            libc::CLONE_NEWNET as u64
        } else {
            0
        }
    }

    /// Returns the mount points of a container.
    pub(super) fn mount_points(&self) -> Vec<&'static str> {
        let sysfs = self.owned().then_some("/sys");
        let names = self.names.iter().map(|(name, _)| name.path());
        ["/", "/proc", "/sys/fs/cgroup"]
            .into_iter()
            .chain(sysfs)
            .chain(names)
            .collect()
    }

    /// Makes copies of the name files in the directory `stage`, to be mounted in the root.
    pub(super) fn binds(&self, stage: &Path) -> Result<Vec<Bind>> {
        let bind = |(name, file): &(NameFile, HostFile)| file.bind(name.target(), stage);
        self.names.iter().map(bind).collect()
    }

    /// Moves this thread, and no other, into the network namespace, if one is given; a child that is
    /// cloned there stays in it. Sets the sysctls that belong there.
    pub(super) fn enter(&self) -> Result<()> {
        let Some(namespace) = &self.namespace else {
            return Ok(());
        };
        let path = "/proc/thread-self/ns/net";
        let home = File::open(path).context(|| format!("open({path:?})"))?;
        if !self.sysctls.is_empty() && is_same(namespace, &home)? {
            let why = "the namespace is the host's, whose settings a container must not change";
            return Err(Error::policy(Setting::field(&self.sysctls[0].name), why));
        }
        setns(namespace, CloneFlags::CLONE_NEWNET).context(|| "setns(CLONE_NEWNET)")?;
        self.sysctls.iter().try_for_each(sysctl::set_here)
    }
}

fn is_same(one: &File, other: &File) -> Result<bool> {
    let inode = |file: &File| file.metadata().map(|status| (status.dev(), status.ino()));
    let pair = inode(one).and_then(|one| Ok((one, inode(other)?)));
    let (one, other) = pair.context(|| "fstat(network namespace)")?;
    Ok(one == other)
}

fn open_network(path: &Path) -> Result<File> {
    let what = format!("--net ns:{}", path.display());
    let open = open_namespace(&what, path, CloneFlags::CLONE_NEWNET);
    open.map_err(|error| match error.reason {
        Reason::Usage => error.hint("create one with ip netns add NAME: /run/netns/NAME"),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modes_are_none_host_and_a_namespace_path() {
        for (text, mode) in [
            ("none", Mode::None),
            ("host", Mode::Host),
            ("ns:/run/netns/a", Mode::Namespace("/run/netns/a".into())),
        ] {
            assert_eq!(Network::new(text, Vec::new()).unwrap().mode, mode);
        }
        for wrong in ["", "bridge", "ns:", "ns", "container:x", "None"] {
            let error = Network::new(wrong, Vec::new()).unwrap_err();
            assert_eq!(error.reason, Reason::Usage, "{wrong:?} was taken");
        }
    }

    #[test]
    fn name_servers_need_a_network_and_there_are_at_most_three() {
        let server: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(
            Network::new("none", vec![server]).unwrap_err().what,
            "--dns"
        );
        assert_eq!(
            Network::new("host", vec![server; 4]).unwrap_err().what,
            "--dns"
        );
        Network::new("host", vec![server; 3]).unwrap();
        Network::new("ns:/n", vec![server]).unwrap();
    }

    #[test]
    fn each_name_server_has_a_line_of_its_own() {
        let servers = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(
            resolv_conf(&servers),
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
        );
    }
}
