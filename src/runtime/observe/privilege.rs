//! Calls with which a program changes its user, groups or root, which no container may do. Daemons that
//! start as root and switch to another user fail here.

use super::caller::Caller;
use nix::errno::Errno;

// linux/capability.h
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_CHROOT: u32 = 18;

/// Ids that a call sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// User ids, in that number of arguments.
    Users(usize),
    /// Group ids, in that number of arguments.
    Groups(usize),
    /// The supplementary groups.
    Supplementary,
}

/// Returns the errno of a call that sets ids; `None` if the thread may set them.
pub fn errno(caller: &Caller, ids: Ids, arguments: &[u64; 6]) -> Option<Errno> {
    let (held, map, capability, count) = match ids {
        Ids::Users(count) => (caller.users(), "uid_map", CAP_SETUID, count),
        Ids::Groups(count) => (caller.groups(), "gid_map", CAP_SETGID, count),
        // The kernel refuses it before it looks at the groups.
        Ids::Supplementary => return (!caller.is_capable(CAP_SETGID)).then_some(Errno::EPERM),
    };
    let wanted: Vec<u32> = arguments[..count].iter().map(|id| *id as u32).collect();
    let mut errno = None;
    for (place, id) in wanted.iter().enumerate() {
        // -1 leaves one of several ids unchanged.
        if count > 1 && *id == u32::MAX {
            continue;
        }
        match caller.host_id(map, *id) {
            None => return Some(Errno::EINVAL),
            Some(id) if own_ids(&held, count, place).any(|own| own == id) => {}
            Some(_) if caller.is_capable(capability) => {}
            Some(_) => errno = Some(Errno::EPERM),
        }
    }
    errno
}

/// Returns the ids that any process may set in that argument, out of its real, effective and saved one
/// (setreuid(2)).
fn own_ids(held: &[u32], count: usize, place: usize) -> impl Iterator<Item = u32> {
    let [real, effective, saved] = [held.first(), held.get(1), held.get(2)];
    let allowed = match (count, place) {
        (1, _) => [real, saved, None],
        (2, 0) => [real, effective, None],
        _ => [real, effective, saved],
    };
    allowed.into_iter().flatten().copied()
}

/// Returns the ids of a call as text; -1 is an id that stays the same.
pub fn to_text(ids: Ids, arguments: &[u64; 6]) -> String {
    let count = match ids {
        Ids::Users(count) | Ids::Groups(count) => count,
        Ids::Supplementary => return format!("{} groups", arguments[0] as i32),
    };
    let words = arguments[..count].iter().map(|id| (*id as i32).to_string());
    words.collect::<Vec<_>>().join(",")
}

/// Returns true if the thread may change its root directory.
pub fn may_change_root(caller: &Caller) -> bool {
    caller.is_capable(CAP_SYS_CHROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_always_set_its_own_ids() {
        let held = [1, 2, 3, 4];
        let own = |count, place| own_ids(&held, count, place).collect::<Vec<_>>();
        assert_eq!(own(1, 0), [1, 3], "setuid");
        assert_eq!(own(2, 0), [1, 2], "setreuid, the real one");
        assert_eq!(own(2, 1), [1, 2, 3], "setreuid, the effective one");
        assert_eq!(own(3, 2), [1, 2, 3], "setresuid");
    }

    #[test]
    fn ids_are_written_as_they_were_given() {
        let same = u64::from(u32::MAX);
        assert_eq!(to_text(Ids::Users(1), &[33, 7, 0, 0, 0, 0]), "33");
        assert_eq!(to_text(Ids::Groups(3), &[33, same, 0, 0, 0, 0]), "33,-1,0");
        assert_eq!(to_text(Ids::Supplementary, &[2, 0, 0, 0, 0, 0]), "2 groups");
    }
}
