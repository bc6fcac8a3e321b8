//! `--cap-add`: capabilities that an app can be given (capabilities(7)).
//!
//! They apply in the container's own user namespace only. imrun refuses those that would undo its
//! guarantees, each with a reason.
#![forbid(unsafe_code)]

use crate::base::error::{Error, Result};

/// A capability that can be given to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    name: &'static str,
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

const fn capability(number: u32, name: &'static str) -> Capability {
    Capability { number, name }
}

/// Capabilities that can be added; numbers from linux/capability.h.
const GRANTED: [Capability; 14] = [
    capability(0, "CAP_CHOWN"),
    capability(1, "CAP_DAC_OVERRIDE"),
    capability(3, "CAP_FOWNER"),
    capability(4, "CAP_FSETID"),
    capability(5, "CAP_KILL"),
    capability(8, "CAP_SETPCAP"),
    capability(10, "CAP_NET_BIND_SERVICE"),
    capability(11, "CAP_NET_BROADCAST"),
    capability(13, "CAP_NET_RAW"),
    capability(14, "CAP_IPC_LOCK"),
    capability(18, "CAP_SYS_CHROOT"),
    capability(23, "CAP_SYS_NICE"),
    capability(28, "CAP_LEASE"),
    capability(29, "CAP_AUDIT_WRITE"),
];

const CREDENTIALS: &str = "an app that changes its user or group could survive imrun";
const FILES: &str = "it allows changing files, and a container cannot change any";
const HOST: &str = "it allows changing the host";
const KERNEL: &str = "it allows inspecting the kernel or loading code into it";
const LIMITS: &str = "it allows raising the container's limits";
const MEMORY: &str = "it allows changing other processes";

const REFUSED: [(&str, &str); 27] = [
    ("CAP_AUDIT_CONTROL", HOST),
    ("CAP_AUDIT_READ", HOST),
    ("CAP_BLOCK_SUSPEND", HOST),
    ("CAP_BPF", KERNEL),
    ("CAP_CHECKPOINT_RESTORE", MEMORY),
    (
        "CAP_DAC_READ_SEARCH",
        "it allows opening files outside the root by handle",
    ),
    (
        "CAP_IPC_OWNER",
        "there are no System V objects in a container",
    ),
    ("CAP_LINUX_IMMUTABLE", FILES),
    ("CAP_MAC_ADMIN", HOST),
    ("CAP_MAC_OVERRIDE", HOST),
    (
        "CAP_MKNOD",
        "it allows creating device nodes, and a container cannot create any",
    ),
    (
        "CAP_NET_ADMIN",
        "it allows changing the network, which the host configures",
    ),
    ("CAP_PERFMON", KERNEL),
    ("CAP_SETFCAP", FILES),
    ("CAP_SETGID", CREDENTIALS),
    ("CAP_SETUID", CREDENTIALS),
    ("CAP_SYSLOG", KERNEL),
    (
        "CAP_SYS_ADMIN",
        "it allows mounts, and a container's mounts are fixed",
    ),
    ("CAP_SYS_BOOT", HOST),
    ("CAP_SYS_MODULE", KERNEL),
    ("CAP_SYS_PACCT", HOST),
    ("CAP_SYS_PTRACE", MEMORY),
    ("CAP_SYS_RAWIO", HOST),
    ("CAP_SYS_RESOURCE", LIMITS),
    ("CAP_SYS_TIME", HOST),
    ("CAP_SYS_TTY_CONFIG", HOST),
    ("CAP_WAKE_ALARM", HOST),
];

/// Parses the name of a capability, in either case, with or without `CAP_`.
///
/// # Errors
/// The name is unknown to Linux, or no container gets that capability; the error has the reason.
pub fn parse(text: &str) -> Result<Capability> {
    let upper = text.to_ascii_uppercase();
    let name = format!("CAP_{}", upper.strip_prefix("CAP_").unwrap_or(&upper));
    if let Some(capability) = GRANTED.into_iter().find(|granted| granted.name == name) {
        return Ok(capability);
    }
    let what = format!("--cap-add {text}");
    if name == "CAP_ALL" {
        return Err(Error::policy(what, "no container may do everything")
            .hint("add each capability that the app needs with its own --cap-add"));
    }
    match REFUSED.iter().find(|(refused, _)| *refused == name) {
        Some((_, why)) if *why == CREDENTIALS => {
            Err(Error::policy(what, why).hint("start the app as the right user with --user"))
        }
        Some((_, why)) => Err(Error::policy(what, why)),
        None => Err(Error::usage(what, "Linux has no such capability")
            .hint(format_args!("available: {}", names().join(", ")))),
    }
}

/// Returns the names of the capabilities that can be added.
pub fn names() -> [&'static str; GRANTED.len()] {
    GRANTED.map(|capability| capability.name)
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(list: T) -> Self {
        Capabilities(
            list.into_iter()
                .fold(0, |set, capability| set | 1 << capability.number),
        )
    }
}

impl Capabilities {
    /// Returns a bit mask, by the capabilities' numbers.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Returns the intersection.
    pub fn and(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// Returns the names, in the order of the numbers.
    pub fn names(self) -> Vec<&'static str> {
        let held = GRANTED
            .iter()
            .filter(|capability| self.0 & (1 << capability.number) != 0);
        held.map(|capability| capability.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Reason;

    #[test]
    fn a_capability_is_named_in_either_case_with_or_without_its_prefix() {
        for text in ["CAP_NET_RAW", "NET_RAW", "net_raw", "cap_net_raw"] {
            assert_eq!(
                parse(text).unwrap(),
                capability(13, "CAP_NET_RAW"),
                "{text}"
            );
        }
        for text in ["", "CAP_", "NET RAW", "CAP_CAP_KILL", "ROOT", "13"] {
            assert_eq!(parse(text).unwrap_err().reason, Reason::Usage, "{text:?}");
        }
    }

    #[test]
    fn a_capability_that_would_undo_a_guarantee_is_refused_with_its_reason() {
        for name in [
            "ALL",
            "SYS_ADMIN",
            "SYS_MODULE",
            "SYS_PTRACE",
            "MKNOD",
            "SETUID",
        ] {
            assert_eq!(parse(name).unwrap_err().reason, Reason::Policy, "{name}");
        }
        assert!(parse("SYS_ADMIN").unwrap_err().why.contains("mounts"));
    }

    #[test]
    fn every_capability_of_linux_is_either_granted_or_refused() {
        const LAST: usize = 40; // CAP_LAST_CAP: CAP_CHECKPOINT_RESTORE
        let refused = REFUSED.iter().map(|(name, _)| *name);
        let all: std::collections::BTreeSet<_> = names().into_iter().chain(refused).collect();
        assert_eq!(all.len(), LAST + 1);
    }

    #[test]
    fn a_set_has_a_bit_and_a_name_for_each_capability() {
        let set: Capabilities = ["net_raw", "KILL", "NET_RAW"]
            .map(|name| parse(name).unwrap())
            .into_iter()
            .collect();
        assert_eq!(set.bits(), 1 << 13 | 1 << 5);
        assert_eq!(set.names(), ["CAP_KILL", "CAP_NET_RAW"]);
        assert_eq!(Capabilities::default().names(), [""; 0]);
    }
}
