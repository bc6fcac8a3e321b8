//! Which network a container sees, and the host's names that come with it.

use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::sys::mount;
use serde_json::{Value, json};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;

/// `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// A namespace of its own with nothing but loopback.
    None,
    /// The host's, with its resolv.conf and hosts file, or those named here.
    Host {
        /// Bound over /etc/resolv.conf.
        resolv_conf: PathBuf,
        /// Bound over /etc/hosts.
        hosts: PathBuf,
    },
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Network::None),
            "host" => Ok(Network::Host {
                resolv_conf: "/etc/resolv.conf".into(),
                hosts: "/etc/hosts".into(),
            }),
            _ => Err(Error::usage(
                format_args!("--net {text}"),
                "is neither none nor host",
            )),
        }
    }
}

/// A file of the host, to be bound read-only over a placeholder of the image.
pub(super) struct Bind {
    /// A detached mount.
    pub mount: OwnedFd,
    /// Where it goes, relative to the root.
    pub target: &'static CStr,
}

impl Network {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Network::None => "none",
            Network::Host { .. } => "host",
        }
    }

    /// For the launch record: the mode, and the digests of the files that come from the host.
    pub fn record(&self) -> Result<Value> {
        let Network::Host { resolv_conf, hosts } = self else {
            return Ok(json!({ "mode": self.name() }));
        };
        let digest = |path: &PathBuf| {
            std::fs::read(path)
                .context(|| format!("read({path:?})"))
                .map(|bytes| Digest::sha256(&bytes))
        };
        Ok(
            json!({ "mode": self.name(), "resolvConf": digest(resolv_conf)?, "hosts": digest(hosts)? }),
        )
    }

    pub(super) fn clone_flag(&self) -> u64 {
        match self {
            Network::None => libc::CLONE_NEWNET as u64,
            Network::Host { .. } => 0,
        }
    }

    /// A sysfs shows the network namespace that its mounter owns; without one the kernel refuses it.
    pub(super) fn owned(&self) -> bool {
        *self == Network::None
    }

    /// The mount points of a container, sorted.
    pub(super) fn mount_points(&self) -> Vec<&'static str> {
        match self {
            Network::None => vec!["/", "/proc", "/sys", "/sys/fs/cgroup"],
            Network::Host { .. } => vec![
                "/",
                "/etc/hosts",
                "/etc/resolv.conf",
                "/proc",
                "/sys/fs/cgroup",
            ],
        }
    }

    pub(super) fn binds(&self) -> Result<Vec<Bind>> {
        let Network::Host { resolv_conf, hosts } = self else {
            return Ok(Vec::new());
        };
        [(resolv_conf, c"etc/resolv.conf"), (hosts, c"etc/hosts")]
            .into_iter()
            .map(|(source, target)| {
                let path = CString::new(source.as_os_str().as_encoded_bytes())
                    .map_err(|_| Error::usage(format_args!("{source:?}"), "has a NUL byte"))?;
                let mount = mount::open_tree_clone(&path)
                    .context(|| format!("open_tree({source:?}, OPEN_TREE_CLONE)"))?;
                let attributes = mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC;
                mount::set_attributes(mount.as_fd(), attributes)
                    .context(|| format!("mount_setattr({source:?}, MOUNT_ATTR_RDONLY)"))?;
                Ok(Bind { mount, target })
            })
            .collect()
    }
}
