//! `--cap-add`: what an app may be given beyond its user's rights (capabilities(7)).
//!
//! They hold in the container's own user namespace alone. Those that would undo what imrun promises
//! of every container are refused, each with its reason.
#![forbid(unsafe_code)]

use crate::base::error::{Error, Result};

/// A capability that can be given to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    name: &'static str,
}

/// A set of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

const fn capability(number: u32, name: &'static str) -> Capability {
    Capability { number, name }
}

/// The numbers are those of linux/capability.h.
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

const CREDENTIALS: &str = "an app that changes its user or group would outlive imrun";
const FILES: &str = "it is for changing files, and none can be changed";
const HOST: &str = "it is for changing the host";
const KERNEL: &str = "it is for looking into or loading code into the kernel";
const LIMITS: &str = "it lifts the limits of the container";
const MEMORY: &str = "it is for changing other processes";

const REFUSED: [(&str, &str); 27] = [
    ("CAP_AUDIT_CONTROL", HOST),
    ("CAP_AUDIT_READ", HOST),
    ("CAP_BLOCK_SUSPEND", HOST),
    ("CAP_BPF", KERNEL),
    ("CAP_CHECKPOINT_RESTORE", MEMORY),
    (
        "CAP_DAC_READ_SEARCH",
        "it opens files by handle, out of the root",
    ),
    (
        "CAP_IPC_OWNER",
        "there are no System V objects in a container",
    ),
    ("CAP_LINUX_IMMUTABLE", FILES),
    ("CAP_MAC_ADMIN", HOST),
    ("CAP_MAC_OVERRIDE", HOST),
    ("CAP_MKNOD", "it makes device nodes, and none can be made"),
    (
        "CAP_NET_ADMIN",
        "it changes the network, which is the host's to decide",
    ),
    ("CAP_PERFMON", KERNEL),
    ("CAP_SETFCAP", FILES),
    ("CAP_SETGID", CREDENTIALS),
    ("CAP_SETUID", CREDENTIALS),
    ("CAP_SYSLOG", KERNEL),
    (
        "CAP_SYS_ADMIN",
        "it mounts file systems, and a container has but its own",
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

/// A capability by its name, in either case, with or without `CAP_`.
///
/// # Errors
/// A name that Linux does not have, or one that no container gets, with the reason.
pub fn parse(text: &str) -> Result<Capability> {
    let upper = text.to_ascii_uppercase();
    let name = format!("CAP_{}", upper.strip_prefix("CAP_").unwrap_or(&upper));
    if let Some(capability) = GRANTED.into_iter().find(|granted| granted.name == name) {
        return Ok(capability);
    }
    let what = format!("--cap-add {text}");
    if name == "CAP_ALL" {
        return Err(Error::policy(what, "no container may do everything")
            .hint("name those that the app needs, one --cap-add each"));
    }
    match REFUSED.iter().find(|(refused, _)| *refused == name) {
        Some((_, why)) if *why == CREDENTIALS => {
            Err(Error::policy(what, why).hint("--user starts it as the right one"))
        }
        Some((_, why)) => Err(Error::policy(what, why)),
        None => Err(
            Error::usage(what, "Linux has no such capability").hint(format_args!(
                "those that can be added: {}",
                names().join(", ")
            )),
        ),
    }
}

/// Those that a container can have.
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
    /// A bit for each capability's number.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Those of both sets.
    pub fn and(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// Their names, in the order of their numbers.
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
    fn what_would_undo_a_promise_is_refused_with_its_reason() {
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
    fn a_set_has_a_bit_for_each_and_tells_their_names() {
        let set: Capabilities = ["net_raw", "KILL", "NET_RAW"]
            .map(|name| parse(name).unwrap())
            .into_iter()
            .collect();
        assert_eq!(set.bits(), 1 << 13 | 1 << 5);
        assert_eq!(set.names(), ["CAP_KILL", "CAP_NET_RAW"]);
        assert_eq!(Capabilities::default().names(), [""; 0]);
    }
}
