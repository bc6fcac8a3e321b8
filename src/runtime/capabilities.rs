//! `--cap-add`: what an app may be given beyond its user's rights (capabilities(7)).
//!
//! They hold in the container's own user namespace alone. Those that would undo what imrun promises
//! of every container are refused, each with its reason.
#![forbid(unsafe_code)]

use crate::base::error::{Error, Result};
use caps::Capability;

/// A set of capabilities, in a register: the child that gets them may not allocate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

/// Capabilities that an app can have, in the order of their numbers.
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

const CREDENTIALS: &str = "an app that changes its user or group would outlive imrun";

/// Returns the reason why no container gets a capability that is not in [`GRANTED`].
fn refusal(capability: Capability) -> &'static str {
    match capability {
        Capability::CAP_SETGID | Capability::CAP_SETUID => CREDENTIALS,
        Capability::CAP_LINUX_IMMUTABLE | Capability::CAP_SETFCAP => {
            "it is for changing files, and none can be changed"
        }
        Capability::CAP_BPF
        | Capability::CAP_PERFMON
        | Capability::CAP_SYSLOG
        | Capability::CAP_SYS_MODULE => "it is for looking into or loading code into the kernel",
        Capability::CAP_CHECKPOINT_RESTORE | Capability::CAP_SYS_PTRACE => {
            "it is for changing other processes"
        }
        Capability::CAP_SYS_RESOURCE => "it lifts the limits of the container",
        Capability::CAP_DAC_READ_SEARCH => "it opens files by handle, out of the root",
        Capability::CAP_IPC_OWNER => "there are no System V objects in a container",
        Capability::CAP_MKNOD => "it makes device nodes, and none can be made",
        Capability::CAP_NET_ADMIN => "it changes the network, which is the host's to decide",
        Capability::CAP_SYS_ADMIN => "it mounts file systems, and a container has but its own",
        _ => "it is for changing the host",
    }
}

/// Reads a capability's name, in either case, with or without `CAP_`.
///
/// # Errors
/// A name that Linux does not have, or one that no container gets, with the reason.
pub fn parse(text: &str) -> Result<Capability> {
    // `caps::to_canonical` also takes letters beyond ASCII whose upper case is in it, such as U+017F for S.
    let upper = text.to_ascii_uppercase();
    let name = format!("CAP_{}", upper.strip_prefix("CAP_").unwrap_or(&upper));
    let what = format!("--cap-add {text}");
    if name == "CAP_ALL" {
        return Err(Error::policy(what, "no container may do everything")
            .hint("name those that the app needs, one --cap-add each"));
    }
    match name.parse() {
        Ok(capability) if GRANTED.contains(&capability) => Ok(capability),
        Ok(capability) => {
            let why = refusal(capability);
            let error = Error::policy(what, why);
            Err(if why == CREDENTIALS {
                error.hint("--user starts it as the right one")
            } else {
                error
            })
        }
        Err(_) => Err(
            Error::usage(what, "Linux has no such capability").hint(format_args!(
                "those that can be added: {}",
                names().join(", ")
            )),
        ),
    }
}

/// Returns the names of all capabilities that a container can have.
pub fn names() -> Vec<String> {
    GRANTED.into_iter().collect::<Capabilities>().names()
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(list: T) -> Self {
        Capabilities(list.into_iter().fold(0, |set, one| set | one.bitmask()))
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
        let (granted, refused): (Vec<_>, Vec<_>) = caps::all()
            .into_iter()
            .map(|capability| parse(&capability.to_string()))
            .partition(|parsed| parsed.is_ok());
        assert_eq!((granted.len(), refused.len()), (GRANTED.len(), 27));
        let policy = |error: Error| error.reason == Reason::Policy;
        assert!(refused.into_iter().all(|parsed| parsed.is_err_and(policy)));
    }

    #[test]
    fn a_set_has_a_bit_for_each_and_tells_their_names() {
        let set: Capabilities = ["net_raw", "KILL", "NET_RAW"]
            .map(|name| parse(name).unwrap())
            .into_iter()
            .collect();
        assert_eq!(set.bits(), 1 << 13 | 1 << 5);
        assert_eq!(set.names(), ["CAP_KILL", "CAP_NET_RAW"]);
        assert!(Capabilities::default().names().is_empty());
    }
}
