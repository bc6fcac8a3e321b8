//! Who the app runs as: `USER[:GROUP]` against the image's own /etc/passwd and /etc/group.
//!
//! A number is a number: it must fit, and is never looked up as a name (CVE-2024-40635,
//! CVE-2026-46680). Source: OCI config.md, `User`; passwd(5), group(5).

use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// The ids that each container has for its own, from 0 on.
pub const IDS: u32 = 65_536;
/// The one number that is no id: the kernel takes it for "leave it as it is" (setresuid(2)).
pub const NO_ID: u32 = u32::MAX;
/// Bytes of /etc/passwd or /etc/group that are read.
pub const MAX_DATABASE: usize = 4 << 20;

/// The ids a process gets, as seen inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user; below [`NO_ID`], and so are all others.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The supplementary groups, ascending. As containerd has it, `gid` is always one of them:
    /// else a file that denies the group would admit the process (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// The home directory that the image's passwd gives, if any.
    pub home: Option<Vec<u8>>,
}

impl User {
    /// Resolves `user`, or root where it is empty.
    ///
    /// A user in `passwd` has the groups that it gives and those of `group` that list the user's
    /// name. A group named by `user` itself replaces them all, as with Docker.
    pub fn resolve(user: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> Result<User> {
        let passwd = Database::new("/etc/passwd", passwd)?;
        let group = Database::new("/etc/group", group)?;
        // An empty half is what it would be without it: `root:` is root, `:0` is root's group 0.
        let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
        let name = if name.is_empty() { "0" } else { name };
        let group_name = Some(group_name).filter(|group_name| !group_name.is_empty());
        let account = find_account(&passwd, name)?;
        let gid = match group_name {
            Some(group_name) => find_gid(&group, group_name)?,
            None => account.gid,
        };
        let mut groups = BTreeSet::from([gid]);
        if let (None, Some(name)) = (group_name, &account.name) {
            groups.extend(memberships(&group, name)?);
        }
        Ok(User {
            uid: account.uid,
            gid,
            groups: groups.into_iter().collect(),
            home: account.home,
        })
    }
}

/// A file of lines, each of fields between colons.
struct Database<'a> {
    bytes: &'a [u8],
}

impl<'a> Database<'a> {
    fn new(path: &str, bytes: Option<&'a [u8]>) -> Result<Database<'a>> {
        let bytes = bytes.unwrap_or_default();
        if bytes.len() > MAX_DATABASE {
            let why = format_args!(
                "is {} bytes long, more than the {MAX_DATABASE} that are read",
                bytes.len()
            );
            return Err(Error::policy(format_args!("{path} of the image"), why));
        }
        Ok(Database { bytes })
    }

    /// The lines whose first `N` fields are there; the rest of a line is in the last field.
    ///
    /// Malformed lines, comments and NIS entries are passed over, as getpwent(3) does.
    fn lines<const N: usize>(&self) -> impl Iterator<Item = [&'a [u8]; N]> {
        self.bytes.split(|b| *b == b'\n').filter_map(|line| {
            if matches!(line.first(), None | Some(b'#' | b'+' | b'-' | b':')) {
                return None;
            }
            let mut fields = line.split(|b| *b == b':');
            let mut found = [&b""[..]; N];
            for field in &mut found {
                *field = fields.next()?;
            }
            Some(found)
        })
    }
}

/// What a line of passwd, or a bare number, says of a user.
struct Account {
    name: Option<Vec<u8>>,
    uid: u32,
    gid: u32,
    home: Option<Vec<u8>>,
}

fn find_account(passwd: &Database, user: &str) -> Result<Account> {
    let number = parse_number(&format!("user {user}"), user)?;
    for [name, _, uid, gid, _, home] in passwd.lines() {
        let (Some(uid), Some(gid)) = (field_id(uid), field_id(gid)) else {
            continue;
        };
        let found = match number {
            Some(number) => u64::from(number) == uid,
            None => name == user.as_bytes(),
        };
        if found {
            return Ok(Account {
                name: Some(name.to_vec()),
                uid: within(&format!("user {user}"), uid)?,
                gid: within(&format!("the group of user {user}"), gid)?,
                home: Some(home.to_vec()).filter(|home| !home.is_empty()),
            });
        }
    }
    match number {
        Some(uid) => Ok(Account {
            name: None,
            uid,
            gid: 0,
            home: None,
        }),
        None => Err(Error::usage(
            format_args!("user {user:?}"),
            "is not in the image's /etc/passwd",
        )
        .hint("a number needs no entry there")),
    }
}

fn find_gid(database: &Database, group: &str) -> Result<u32> {
    let what = format!("group {group}");
    if let Some(gid) = parse_number(&what, group)? {
        return Ok(gid);
    }
    let gid = database
        .lines()
        .filter(|[name, _, _]| *name == group.as_bytes())
        .find_map(|[_, _, gid]| field_id(gid));
    match gid {
        Some(gid) => within(&what, gid),
        None => Err(Error::usage(
            format_args!("group {group:?}"),
            "is not in the image's /etc/group",
        )
        .hint("a number needs no entry there")),
    }
}

/// The groups that list the user by name.
fn memberships(group: &Database, user: &[u8]) -> Result<BTreeSet<u32>> {
    let mut gids = BTreeSet::new();
    for [name, _, gid, members] in group.lines() {
        let Some(gid) = field_id(gid) else {
            continue;
        };
        if members.split(|b| *b == b',').any(|member| member == user) {
            gids.insert(within(
                &format!("group {}", String::from_utf8_lossy(name)),
                gid,
            )?);
        }
    }
    Ok(gids)
}

/// The number that an all-digit `text` is, `None` for a name.
fn parse_number(what: &str, text: &str) -> Result<Option<u32>> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    // What does not fit 64 bits does not fit an id either.
    within(what, text.parse().unwrap_or(u64::MAX)).map(Some)
}

/// An id of a database; one that is no number makes its line malformed.
fn field_id(field: &[u8]) -> Option<u64> {
    let digits = !field.is_empty() && field.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(field)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

fn within(what: &str, id: u64) -> Result<u32> {
    match u32::try_from(id) {
        Ok(id) if id != NO_ID => Ok(id),
        _ => Err(Error::policy(
            what,
            "is beyond 4294967294, the last id of Linux",
        )),
    }
}

#[cfg(test)]
mod tests;
