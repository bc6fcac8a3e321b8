//! Which of the host's users and groups those of a container are.

use crate::error::{Context, Error, Result};
use crate::user::IDS;
use nix::unistd::Pid;
use std::fmt::Write as _;

/// So many ids that follow one another (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first, in the container.
    pub inside: u32,
    /// The first, on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The ids of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
    /// Whether the owners of the root's files are mapped in the same way.
    pub(super) shifted: bool,
}

impl Ids {
    /// A range of the host's ids that nobody else has.
    pub fn own(first: u32) -> Ids {
        let range = IdRange {
            inside: 0,
            outside: first,
            count: IDS,
        };
        Ids::mapped(vec![range], vec![range])
    }

    /// What a bundle says.
    pub fn mapped(users: Vec<IdRange>, groups: Vec<IdRange>) -> Ids {
        Ids {
            users,
            groups,
            shifted: true,
        }
    }

    /// Those that an ordinary user has to give ([`Owners::ranges`]): where it is one alone, the
    /// container's user is it; where there are more, the container's are the same.
    ///
    /// [`Owners::ranges`]: crate::unpacked::Owners::ranges
    pub fn of_a_user([users, groups]: [Vec<u32>; 2], uid: u32, gid: u32) -> Ids {
        if users == [1] && groups == [1] {
            return Ids::alone(uid, gid);
        }
        Ids {
            users: same(&users),
            groups: same(&groups),
            shifted: false,
        }
    }

    fn alone(uid: u32, gid: u32) -> Ids {
        Ids::unshifted((uid, 1), (gid, 1))
    }

    /// From the host's 0 on: the first of them in the container, and how many. The files' owners stay.
    fn unshifted(users: (u32, u32), groups: (u32, u32)) -> Ids {
        let range = |(inside, count)| {
            vec![IdRange {
                inside,
                outside: 0,
                count,
            }]
        };
        Ids {
            users: range(users),
            groups: range(groups),
            shifted: false,
        }
    }

    /// Whether the container has a user 0 and a group 0.
    pub(super) fn have_root(&self) -> bool {
        self.user(0).is_ok() && self.group(0).is_ok()
    }

    /// The host's own, in a user namespace all the same: for a root whose file system cannot map
    /// its owners.
    pub fn of_the_host() -> Ids {
        Ids::unshifted((0, u32::MAX), (0, u32::MAX))
    }

    /// Whether the owners of the root's files are mapped in the same way.
    pub fn shifted(&self) -> bool {
        self.shifted
    }

    /// What a user's number in the container is short of its number on the host, modulo 2^32.
    pub fn first_user(&self) -> u32 {
        let user_0 = |range: &IdRange| range.outside.wrapping_sub(range.inside);
        self.users.first().map_or(0, user_0)
    }

    /// The host's number of a user of the container.
    pub(super) fn user(&self, id: u32) -> Result<u32> {
        outside(&self.users, id).ok_or_else(|| missing("user", id))
    }

    /// The host's number of a group of the container.
    pub(super) fn group(&self, id: u32) -> Result<u32> {
        outside(&self.groups, id).ok_or_else(|| missing("group", id))
    }

    /// Gives them to the user namespace of `pid`, which has none yet.
    pub(super) fn write(&self, pid: Pid) -> Result<()> {
        for (file, ranges) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            let path = format!("/proc/{pid}/{file}");
            std::fs::write(&path, table(ranges)).context(|| format!("write({path:?})"))?;
        }
        Ok(())
    }
}

/// Each range as it is, up to the last id that a container may have.
fn same(counts: &[u32]) -> Vec<IdRange> {
    let mut first = 0;
    let range = |count: &u32| {
        let count = (*count).min(IDS - first);
        let range = IdRange {
            inside: first,
            outside: first,
            count,
        };
        first += count;
        range
    };
    let mut ranges: Vec<_> = counts.iter().map(range).collect();
    ranges.retain(|range| range.count > 0);
    ranges
}

fn table(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        writeln!(text, "{} {} {}", range.inside, range.outside, range.count)
            .expect("a string takes all that is written");
    }
    text
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges
        .iter()
        .find(|range| id >= range.inside && id - range.inside < range.count)?;
    range.outside.checked_add(id - range.inside)
}

fn missing(kind: &str, id: u32) -> Error {
    Error::policy(format_args!("{kind} {id}"), "is beyond the container's ids")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user_are_mapped_one_by_one() {
        let ids = Ids::of_a_user([vec![1, 65_536, 65_536], vec![1, 9]], 77, 8);
        assert_eq!(table(&ids.users), "0 0 1\n1 1 65535\n");
        assert_eq!(table(&ids.groups), "0 0 1\n1 1 9\n");
        let alone = Ids::of_a_user([vec![1], vec![1]], 77, 8);
        assert_eq!(alone, Ids::alone(77, 8));
    }

    #[test]
    fn an_id_is_looked_up_in_its_range_and_refused_beyond_all() {
        let ids = Ids::own(524_288);
        assert_eq!(ids.user(0).unwrap(), 524_288);
        assert_eq!(ids.group(65_535).unwrap(), 589_823);
        assert_eq!(ids.user(65_536).unwrap_err().what, "user 65536");
        assert_eq!(Ids::of_the_host().user(70_000).unwrap(), 70_000);
        assert_eq!(table(&ids.users), "0 524288 65536\n");
        let alone = Ids::alone(1000, 100);
        assert_eq!(
            (alone.user(1000).unwrap(), alone.group(100).unwrap()),
            (0, 0)
        );
        assert!(alone.user(0).is_err() && !alone.have_root());
        assert_eq!(0u32.wrapping_sub(alone.first_user()), 1000);
        let top = IdRange {
            inside: 0,
            outside: u32::MAX,
            count: 2,
        };
        assert!(Ids::mapped(vec![top], vec![top]).user(1).is_err());
    }
}
