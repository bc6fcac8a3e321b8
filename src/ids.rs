//! The users and groups of the user namespace that this process is in.
#![forbid(unsafe_code)]

use crate::error::{Context, Error, Result};
use nix::unistd::geteuid;
use std::fmt;
use std::sync::OnceLock;

/// The ids that this process has: from 0 on, so many. A file of any other owner becomes 0's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    users: u32,
    groups: u32,
}

impl Owners {
    /// Every id, as root of the host has them.
    pub const ALL: Owners = Owners {
        users: u32::MAX,
        groups: u32::MAX,
    };

    /// Those of the user namespace that this process is in (user_namespaces(7)). They are read once:
    /// who enters another one (`rootless::enter`) does so before anybody asks.
    pub fn own() -> Result<Owners> {
        static OWN: OnceLock<Owners> = OnceLock::new();
        match OWN.get() {
            Some(own) => Ok(*own),
            None => Self::read().map(|own| *OWN.get_or_init(|| own)),
        }
    }

    fn read() -> Result<Owners> {
        let count = |ranges: Vec<u32>| ranges.into_iter().fold(0, u32::saturating_add);
        let [users, groups] = Self::ranges()?.map(count);
        Ok(Owners { users, groups })
    }

    /// The same ids, of users and of groups, as ranges that the kernel maps one by one: how many there
    /// are in each.
    pub fn ranges() -> Result<[Vec<u32>; 2]> {
        let read = |path: &str| {
            let text = std::fs::read_to_string(path).context(|| format!("read({path:?})"))?;
            ranges(&text).ok_or_else(|| Error::unsupported(path, "id 0 is not in it"))
        };
        Ok([read("/proc/self/uid_map")?, read("/proc/self/gid_map")?])
    }

    /// Whether it is root of the host: then device nodes can be made, too.
    pub fn are_all(self) -> bool {
        self == Owners::ALL
    }

    /// The user that a file of user `id` belongs to.
    pub fn user(self, id: u32) -> u32 {
        if id < self.users { id } else { 0 }
    }

    /// The group that a file of group `id` belongs to.
    pub fn group(self, id: u32) -> u32 {
        if id < self.groups { id } else { 0 }
    }
}

/// `all`, or the two numbers.
impl fmt::Display for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.are_all() {
            true => f.write_str("all"),
            false => write!(f, "{}-{}", self.users, self.groups),
        }
    }
}

/// Whether this process is not root of the host.
pub fn is_ordinary() -> Result<bool> {
    Ok(!geteuid().is_root() || !Owners::own()?.are_all())
}

/// The ranges that follow one another from 0 on, in a table in the form of /proc/PID/uid_map.
fn ranges(table: &str) -> Option<Vec<u32>> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace();
        let first: u32 = numbers.next()?.parse().ok()?;
        Some((first, numbers.nth(1)?.parse::<u32>().ok()?))
    };
    let mut ranges: Vec<_> = table.lines().filter_map(line).collect();
    ranges.sort_unstable();
    let mut end = 0u32;
    ranges.retain(|(first, count)| {
        let follows = *first == end;
        end = end.saturating_add(if follows { *count } else { 0 });
        follows
    });
    let counts: Vec<_> = ranges.into_iter().map(|(_, count)| count).collect();
    Some(counts).filter(|counts| !counts.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_from_0_to_the_first_gap() {
        let all = "         0          0 4294967295\n";
        assert_eq!(ranges(all), Some(vec![u32::MAX]));
        assert_eq!(ranges("0 1000 1\n"), Some(vec![1]));
        let several = ranges("1 100000 65536\n0 1000 1\n");
        assert_eq!(several, Some(vec![1, 65_536]));
        assert_eq!(ranges("0 1000 1\n5 100000 10\n"), Some(vec![1]));
        for without in ["", "1 1000 1\n", "0\n", "x y z\n"] {
            assert_eq!(ranges(without), None, "{without:?}");
        }
    }

    #[test]
    fn owners_that_cannot_be_given_become_0() {
        let one = Owners {
            users: 1,
            groups: 1,
        };
        assert_eq!([one.user(0), one.user(1), one.group(999)], [0, 0, 0]);
        assert_eq!(Owners::ALL.user(999), 999);
        assert_eq!([one, Owners::ALL].map(|o| o.to_string()), ["1-1", "all"]);
    }
}
