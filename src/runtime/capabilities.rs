//! `--cap-add`: capabilities that an app can be given (capabilities(7)).
//!
//! They apply in the container's own user namespace only. imrun refuses those that would undo its
//! guarantees, each with a reason.
#![forbid(unsafe_code)]

use crate::base::error::{Error, Result};
use caps::Capability;

/// A set of capabilities. It is a number because the child that applies it cannot allocate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

/// Capabilities that can be added, in the order of their numbers.
const GRANTED: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_BROADCAST,
    Capability::CAP_NET_RAW,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SYS_NICE,
    Capability::CAP_LEASE,
    Capability::CAP_AUDIT_WRITE,
];

const CREDENTIALS: &str = "an app that changes its user or group could survive imrun";

/// Returns the reason why no container gets a capability that is not in [`GRANTED`].
fn refusal(capability: Capability) -> &'static str {
    match capability {
        Capability::CAP_SETGID | Capability::CAP_SETUID => CREDENTIALS,
        Capability::CAP_LINUX_IMMUTABLE | Capability::CAP_SETFCAP => {
            "it allows changing files, and a container cannot change any"
        }
        Capability::CAP_BPF
        | Capability::CAP_PERFMON
        | Capability::CAP_SYSLOG
        | Capability::CAP_SYS_MODULE => "it allows inspecting the kernel or loading code into it",
        Capability::CAP_CHECKPOINT_RESTORE | Capability::CAP_SYS_PTRACE => {
            "it allows changing other processes"
        }
        Capability::CAP_SYS_RESOURCE => "it allows raising the container's limits",
        Capability::CAP_DAC_READ_SEARCH => "it allows opening files outside the root by handle",
        Capability::CAP_IPC_OWNER => "there are no System V objects in a container",
        Capability::CAP_MKNOD => {
            "it allows creating device nodes, and a container cannot create any"
        }
        Capability::CAP_NET_ADMIN => "it allows changing the network, which the host configures",
        Capability::CAP_SYS_ADMIN => "it allows mounts, and a container's mounts are fixed",
        _ => "it allows changing the host",
    }
}

/// Parses the name of a capability, in either case, with or without `CAP_`.
///
/// # Errors
/// The name is unknown to Linux, or no container gets that capability; the error has the reason.
pub fn parse(text: &str) -> Result<Capability> {
    // `caps::to_canonical` is not used: it accepts letters beyond ASCII, such as U+017F for S.
    let upper = text.to_ascii_uppercase();
    let name = format!("CAP_{}", upper.strip_prefix("CAP_").unwrap_or(&upper));
    let what = format!("--cap-add {text}");
    if name == "CAP_ALL" {
        return Err(Error::policy(what, "no container may do everything")
            .hint("add each capability that the app needs with its own --cap-add"));
    }
    match name.parse() {
        Ok(capability) if GRANTED.contains(&capability) => Ok(capability),
        Ok(capability) => {
            let why = refusal(capability);
            let error = Error::policy(what, why);
            Err(if why == CREDENTIALS {
                error.hint("start the app as the right user with --user")
            } else {
                error
            })
        }
        Err(_) => Err(Error::usage(what, "Linux has no such capability")
            .hint(format_args!("available: {}", names().join(", ")))),
    }
}

/// Returns the names of the capabilities that can be added.
pub fn names() -> Vec<String> {
    GRANTED.into_iter().collect::<Capabilities>().names()
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(list: T) -> Self {
        Capabilities(list.into_iter().fold(0, |set, one| set | one.bitmask()))
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

    /// Returns the names, in the order of their numbers.
    pub fn names(self) -> Vec<String> {
        let held = GRANTED.iter().filter(|one| self.0 & one.bitmask() != 0);
        held.map(Capability::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Reason;

    #[test]
    fn a_capability_is_named_in_either_case_with_or_without_its_prefix() {
        for text in ["CAP_NET_RAW", "NET_RAW", "net_raw", "cap_net_raw"] {
            assert_eq!(parse(text).unwrap(), Capability::CAP_NET_RAW, "{text}");
        }
        for text in [
            "",
            "CAP_",
            "NET RAW",
            "CAP_CAP_KILL",
            "ROOT",
            "13",
            "CAP_LEA\u{17f}E",
        ] {
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
        let (granted, refused): (Vec<_>, Vec<_>) = caps::all()
            .into_iter()
            .map(|capability| parse(&capability.to_string()))
            .partition(|parsed| parsed.is_ok());
        assert_eq!((granted.len(), refused.len()), (GRANTED.len(), 27));
        let policy = |error: Error| error.reason == Reason::Policy;
        assert!(refused.into_iter().all(|parsed| parsed.is_err_and(policy)));
    }

    #[test]
    fn a_set_has_a_bit_and_a_name_for_each_capability() {
        let set: Capabilities = ["net_raw", "KILL", "NET_RAW"]
            .map(|name| parse(name).unwrap())
            .into_iter()
            .collect();
        assert_eq!(set.bits(), 1 << 13 | 1 << 5);
        assert_eq!(set.names(), ["CAP_KILL", "CAP_NET_RAW"]);
        assert!(Capabilities::default().names().is_empty());
    }
}
