//! Mapping of a container's users and groups to those of the host.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Error, Result};
use crate::runtime::user::{IDS, NO_ID};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::ops::Range;

/// Spare ids, which neither Debian (policy, 9.2.2) nor systemd (UIDS-GIDS.md) assigns to a user or a
/// service. Their host ids serve ids beyond the container's own range.
const SPARE: Range<u32> = 60_578..61_184;
/// Maximum length of an id table, in bytes: less than a page (user_namespaces(7)). At that length it has
/// at most the 340 ranges that the kernel maps.
const MAX_TABLE: usize = 4095;

/// A range of consecutive ids (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the container.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

/// Ids of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
    /// True if the owners of the root's files are mapped in the same way.
    pub shifted: bool,
}

impl Ids {
    /// Maps the container's ids to a range of the host's that nobody else uses.
    pub fn own(first: u32) -> Ids {
        let range = IdRange {
            inside: 0,
            outside: first,
            count: IDS,
        };
        Ids::mapped(vec![range], vec![range])
    }

    /// Maps the ids as a bundle specifies.
    pub fn mapped(users: Vec<IdRange>, groups: Vec<IdRange>) -> Ids {
        Ids {
            users,
            groups,
            shifted: true,
        }
    }

    /// Adds the ids of the app's user and groups that are not mapped yet. Each takes the place of a spare
    /// one ([`SPARE`]), so that the container needs no more ids of the host.
    ///
    /// # Errors
    /// There are not enough spare ids.
    pub fn with(self, user: u32, groups: &[u32]) -> Result<Ids> {
        Ok(Ids {
            users: extended(self.users, &[user], "user")?,
            groups: extended(self.groups, groups, "group")?,
            ..self
        })
    }

    /// Maps the ids that an ordinary user has ([`Owners::ranges`]). If that is a single one, the
    /// container's user is mapped to it; if there are more, the ids stay the same.
    ///
    /// [`Owners::ranges`]: crate::base::ids::Owners::ranges
    pub fn of_a_user([users, groups]: [Vec<u32>; 2], uid: u32, gid: u32) -> Ids {
        if users == [1] && groups == [1] {
            return Ids::alone(uid, gid);
        }
        Ids {
            users: identity_ranges(&users),
            groups: identity_ranges(&groups),
            shifted: false,
        }
    }

    fn alone(uid: u32, gid: u32) -> Ids {
        Ids::unshifted((uid, 1), (gid, 1))
    }

    /// Maps ids from the host's 0 on: each pair is the first id in the container and the number of ids.
    /// The owners of files are not mapped.
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

    /// Returns true if the container has a user 0 and a group 0.
    pub fn have_root(&self) -> bool {
        self.user(0).is_ok() && self.group(0).is_ok()
    }

    /// Maps all ids to themselves, still in a user namespace: for a root whose file system cannot map
    /// owners.
    pub fn of_the_host() -> Ids {
        Ids::unshifted((0, u32::MAX), (0, u32::MAX))
    }

    /// True if the owners of the root's files are mapped in the same way.
    pub fn shifted(&self) -> bool {
        self.shifted
    }

    /// Returns the container's id for a user of the host, if it is mapped.
    pub fn user_inside(&self, outside: u32) -> Option<u32> {
        let holds =
            |range: &&IdRange| outside >= range.outside && outside - range.outside < range.count;
        let range = self.users.iter().find(holds)?;
        range.inside.checked_add(outside - range.outside)
    }

    /// Returns the host's id for a user of the container.
    pub fn user(&self, id: u32) -> Result<u32> {
        outside(&self.users, id).ok_or_else(|| unmapped("user", id))
    }

    /// Returns the host's id for a group of the container.
    pub fn group(&self, id: u32) -> Result<u32> {
        outside(&self.groups, id).ok_or_else(|| unmapped("group", id))
    }

    /// Writes the id maps of the user namespace of `pid`, which are still empty.
    pub fn write(&self, pid: Pid) -> Result<()> {
        for (file, ranges) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            let path = format!("/proc/{pid}/{file}");
            std::fs::write(&path, table(ranges)).context(|| format!("write({path:?})"))?;
        }
        Ok(())
    }
}

/// Checks the ranges of a bundle as the kernel does (user_namespaces(7)), and that they have id 0, which owns the
/// container's mounts and settings. No ranges are valid.
///
/// # Errors
/// The reason why a container cannot have them.
pub fn check(ranges: &[IdRange]) -> std::result::Result<(), String> {
    let end = |first: u32, count: u32| u64::from(first) + u64::from(count);
    for (index, range) in ranges.iter().enumerate() {
        let IdRange {
            inside,
            outside,
            count,
        } = *range;
        if count == 0 {
            return Err(format!("the range of container ID {inside} has size 0"));
        }
        if end(inside, count) > NO_ID.into() || end(outside, count) > NO_ID.into() {
            return Err(format!(
                "the range of container ID {inside} has ids beyond the last"
            ));
        }
        let overlaps = |first: u32, of: u32, other: u32, other_of: u32| {
            u64::from(first) < end(other, other_of) && u64::from(other) < end(first, of)
        };
        if let Some(other) = ranges[..index].iter().find(|other| {
            overlaps(inside, count, other.inside, other.count)
                || overlaps(outside, count, other.outside, other.count)
        }) {
            let other = other.inside;
            return Err(format!(
                "the ranges of container IDs {other} and {inside} overlap"
            ));
        }
    }
    if table(ranges).len() > MAX_TABLE {
        return Err("has more ranges than the kernel takes".into());
    }
    if ranges.is_empty() || ranges.iter().any(|range| range.inside == 0) {
        Ok(())
    } else {
        Err("maps no container ID 0, which owns the container's mounts and settings".into())
    }
}

/// Maps each range to itself, up to the last id that a container may have.
fn identity_ranges(counts: &[u32]) -> Vec<IdRange> {
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

/// Returns `ranges` with the ids of `wanted` added that no range contains.
fn extended(ranges: Vec<IdRange>, wanted: &[u32], kind: &str) -> Result<Vec<IdRange>> {
    let is_missing = |id: &u32| outside(&ranges, *id).is_none();
    let mut missing: Vec<_> = wanted.iter().copied().filter(is_missing).collect();
    missing.sort_unstable();
    missing.dedup();
    let (Some(first), count) = (missing.first().copied(), missing.len() as u32) else {
        return Ok(ranges);
    };
    let refuse = || unmapped(kind, first);
    if missing.contains(&NO_ID) {
        return Err(unmapped(kind, NO_ID));
    }
    let is_free = |start: &u32| {
        let place = *start..start + count;
        place.end <= SPARE.end && !wanted.iter().any(|id| place.contains(id))
    };
    let place = SPARE.clone().find(is_free).ok_or_else(refuse)?;
    let mut all = ranges;
    let spare = take(&mut all, place, count).ok_or_else(refuse)?;
    for (id, host) in missing.into_iter().zip(spare..) {
        append(&mut all, id, host);
    }
    if table(&all).len() <= MAX_TABLE {
        Ok(all)
    } else {
        Err(refuse())
    }
}

/// Removes `count` ids from `first` on from one of the ranges; returns the first of their host ids.
fn take(ranges: &mut Vec<IdRange>, first: u32, count: u32) -> Option<u32> {
    let fits = |range: &IdRange| {
        range.inside <= first && first + count <= range.inside.saturating_add(range.count)
    };
    let whole = ranges.remove(ranges.iter().position(fits)?);
    let before = first - whole.inside;
    let spare = whole.outside + before;
    ranges.push(IdRange {
        count: before,
        ..whole
    });
    ranges.push(IdRange {
        inside: first + count,
        outside: spare + count,
        count: whole.count - before - count,
    });
    ranges.retain(|range| range.count > 0);
    Some(spare)
}

/// Adds one id, to the last range if it follows directly.
fn append(ranges: &mut Vec<IdRange>, inside: u32, outside: u32) {
    match ranges.last_mut() {
        Some(last)
            if last.inside.checked_add(last.count) == Some(inside)
                && last.outside + last.count == outside =>
        {
            last.count += 1;
        }
        _ => ranges.push(IdRange {
            inside,
            outside,
            count: 1,
        }),
    }
}

fn table(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        writeln!(text, "{} {} {}", range.inside, range.outside, range.count)
            .expect("writing to a String cannot fail");
    }
    text
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges
        .iter()
        .find(|range| id >= range.inside && id - range.inside < range.count)?;
    range.outside.checked_add(id - range.inside)
}

fn unmapped(kind: &str, id: u32) -> Error {
    Error::policy(
        format_args!("{kind} {id}"),
        "is not mapped in the container",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_beyond_the_containers_range_takes_the_place_of_a_spare_one() {
        let groups = [1_000_680_000, 5, 60_578, 1_000_680_001, 70_000];
        let ids = Ids::own(524_288).with(1_000_680_000, &groups).unwrap();
        assert_eq!(ids.user(1_000_680_000).unwrap(), 524_288 + 60_578);
        assert_eq!(ids.user_inside(524_288 + 60_578), Some(1_000_680_000));
        assert_eq!(ids.user(60_578).unwrap_err().what, "user 60578");
        for usual in [0, 1000, 60_577, 60_579, 65_534] {
            assert_eq!(ids.user(usual).unwrap(), 524_288 + usual);
        }
        // 60578 is wanted as a group, and stays.
        assert_eq!(
            table(&ids.groups),
            "0 524288 60579\n60582 584870 4954\n70000 584867 1\n1000680000 584868 2\n"
        );
        assert_eq!(Ids::own(9).with(65_535, &[0]).unwrap(), Ids::own(9));
    }

    #[test]
    fn an_id_without_a_spare_place_and_an_invalid_one_are_refused() {
        let far = |count: u32| (0..count).map(|n| 100_000 + 2 * n).collect::<Vec<_>>();
        let ids = Ids::own(524_288).with(0, &far(250)).unwrap();
        assert!(ids.groups.len() == 252 && table(&ids.groups).len() < 4096);
        let error = Ids::own(524_288).with(0, &far(260)).unwrap_err();
        assert_eq!(error.what, "group 100000");
        // A small range has no spare ids.
        let few = Ids::of_a_user([vec![1, 1000], vec![1, 1000]], 0, 0);
        assert_eq!(few.with(70_000, &[]).unwrap_err().what, "user 70000");
        // The identity mapping contains every id.
        let all = Ids::of_the_host();
        assert_eq!(all.clone().with(4_294_967_294, &[70_000]).unwrap(), all);
    }

    #[test]
    fn ranges_that_the_kernel_would_refuse_or_without_an_id_0_are_refused_with_the_reason() {
        let range = |(inside, outside, count)| IdRange {
            inside,
            outside,
            count,
        };
        let check =
            |list: &[(u32, u32, u32)]| check(&list.iter().copied().map(range).collect::<Vec<_>>());
        check(&[]).unwrap();
        check(&[(0, 1000, 5), (5, 1005, 1), (6, 0, 1000)]).unwrap();
        check(&[(0, 0, u32::MAX)]).unwrap();
        let many: Vec<_> = (0..400).map(|n| (2 * n, 100_000 + 2 * n, 1)).collect();
        for (list, why) in [
            (&[(0, 1000, 5), (4, 2000, 5)][..], "overlap"),
            (&[(0, 1000, 5), (5, 1004, 5)], "overlap"),
            (&[(5, 9, 2), (0, 1000, 50)], "overlap"),
            (&[(1, 1000, 5)], "no container ID 0"),
            (&[(0, 1000, 0)], "size 0"),
            (&[(0, u32::MAX, 2)], "beyond the last"),
            (&[(0, 0, 1), (u32::MAX, 9, 1)], "beyond the last"),
            (&many, "more ranges"),
        ] {
            let error = check(list).unwrap_err();
            assert!(error.contains(why), "{list:?}: {error}");
        }
    }

    #[test]
    fn the_ranges_of_a_user_are_mapped_to_themselves() {
        let ids = Ids::of_a_user([vec![1, 65_536, 65_536], vec![1, 9]], 77, 8);
        assert_eq!(table(&ids.users), "0 0 1\n1 1 65535\n");
        assert_eq!(table(&ids.groups), "0 0 1\n1 1 9\n");
        let alone = Ids::of_a_user([vec![1], vec![1]], 77, 8);
        assert_eq!(alone, Ids::alone(77, 8));
    }

    #[test]
    fn an_id_is_mapped_by_its_range_and_refused_outside_all_ranges() {
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
        assert_eq!(
            (alone.user_inside(0), alone.user_inside(1)),
            (Some(1000), None)
        );
        let top = IdRange {
            inside: 0,
            outside: u32::MAX,
            count: 2,
        };
        assert!(Ids::mapped(vec![top], vec![top]).user(1).is_err());
    }
}
