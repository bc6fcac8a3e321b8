//! The runtime state: running containers, their ids, and remains of a killed imrun.
//!
//! ```text
//! ROOT/ID/lock        locked (flock(2)) as long as the container's supervisor lives
//! ROOT/ID/cgroup      its cgroup, once created: path beneath the hierarchy's root, inode
//! ROOT/ID/state.json  status, for `imrun ps`
//! ROOT/ID/lines       line counters, one line per sink: six numbers of twenty digits, a failure
//! ROOT/names/NAME     locked by the container with that name
//! ROOT/.N             entry under construction, by the owner of the N-th range of ids
//! /run/imrun/ids/N    locked by the container that owns the N-th range of ids, whatever its ROOT
//! ```
//! It contains no environment values and no log lines.
#![forbid(unsafe_code)]

mod lines;

use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::ids;
use crate::base::paths;
use crate::logs::Counters;
use crate::runtime::cgroup::{Cgroup, CgroupIdentity};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::runtime::user::IDS;

pub use lines::Lines;

/// First id of the range that systemd reserves for containers (systemd, UIDS-GIDS.md: 524288 to
/// 1879048191).
const FIRST_ID: u32 = 524_288;
const RANGES: u32 = (1_879_048_192 - FIRST_ID) / IDS;

/// Status of a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Container id: 64 random hex digits.
    pub id: String,
    /// `--name`, unique among the running containers.
    pub name: Option<String>,
    /// Digest of the manifest.
    pub image: String,
    /// Digest of the launch record.
    pub launch: String,
    /// Integrity level of the launch.
    pub integrity: String,
    /// URL of the first sink, without credentials.
    pub sink: String,
    /// All sinks.
    pub sinks: Vec<Sink>,
    /// Process id of the supervisor.
    pub supervisor: i32,
    /// Process id of the app.
    pub pid: i32,
    /// Start time: RFC 3339, UTC.
    pub started: String,
    /// Program and its arguments.
    pub args: Vec<String>,
}

/// A sink of a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sink {
    /// URL, without credentials.
    pub url: String,
    /// Line counters, at most a second old.
    #[serde(default)]
    pub lines: Counters,
    /// Its last answer, while it refuses lines or makes no progress.
    #[serde(default)]
    pub failure: Option<String>,
}

/// Directory of the claimed id ranges: one for the whole host, as the ids are the host's.
const IDS_CLAIMED: &str = "/run/imrun/ids";

/// Name of the entry's file that identifies the cgroup.
const CGROUP: &str = "cgroup";

/// The directory `--root`.
pub struct Runtime {
    dir: PathBuf,
    ids: PathBuf,
    names: PathBuf,
}

/// A container's entry, locked by its supervisor. [`Entry::remove`] removes it; after a mere drop, the
/// next sweep does.
pub struct Entry {
    dir: PathBuf,
    _lock: File,
    ids: Ids,
    name: Option<Claim>,
}

/// A range of 65,536 user and group ids that no other container uses.
struct Ids {
    number: u32,
    claim: Claim,
}

/// A file that is locked as long as its owner lives.
struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Runtime {
    /// Opens the directory, creating it (0700) if necessary.
    pub fn open(dir: &Path) -> Result<Runtime> {
        match ids::is_ordinary()? {
            // A user who has only his own ids claims none of the host's.
            true => Self::with_ids(dir, &dir.join("ids")),
            false => Self::with_ids(dir, Path::new(IDS_CLAIMED)),
        }
    }

    fn with_ids(dir: &Path, ids: &Path) -> Result<Runtime> {
        let (dir, ids, names) = (dir.to_owned(), ids.to_owned(), dir.join("names"));
        for directory in [&dir, &ids, &names] {
            files::make_directory(directory)?;
        }
        refuse_foreign(&dir)?;
        for directory in [Some(&*dir), ids.parent()].into_iter().flatten() {
            files::close_to_others(directory, depth)?;
        }
        Ok(Runtime { dir, ids, names })
    }

    /// Creates the entry of container `id`, and claims its name and ids.
    ///
    /// # Errors
    /// A running container has that name.
    pub fn enter(&self, id: &str, name: Option<&str>) -> Result<Entry> {
        let name = name.map(|name| self.claim_name(name)).transpose()?;
        let ids = self.claim_ids()?;
        match self.make_entry(id, &ids) {
            Ok((dir, lock)) => Ok(Entry {
                dir,
                _lock: lock,
                ids,
                name,
            }),
            Err(error) => {
                // Return the first error.
                let removed = files::remove_tree(&ids.building(&self.dir));
                let mut claims = [Some(ids.claim), name].into_iter().flatten();
                let released = claims.try_for_each(Claim::release);
                removed.and(released).and(Err(error))
            }
        }
    }

    /// Creates the entry's directory. It is locked before it is renamed into place, so that a sweep never
    /// sees it without a lock.
    fn make_entry(&self, id: &str, ids: &Ids) -> Result<(PathBuf, File)> {
        let building = ids.building(&self.dir);
        // Left by an owner that was killed while it created an entry.
        files::remove_tree(&building)?;
        files::make_directory(&building)?;
        let lock = lock_new(&building.join("lock"))?;
        let dir = self.dir.join(id);
        std::fs::rename(&building, &dir).context(|| format!("rename({building:?}, {dir:?})"))?;
        Ok((dir, lock))
    }

    fn claim_name(&self, name: &str) -> Result<Claim> {
        let _lock = lock_claims(&self.names)?;
        Claim::take(self.names.join(name))?.ok_or_else(|| {
            Error::usage(
                format_args!("--name {name}"),
                "a running container has that name",
            )
            .hint(format_args!("imrun stop {name}"))
        })
    }

    fn claim_ids(&self) -> Result<Ids> {
        for number in 0..RANGES {
            if let Some(claim) = Claim::take(self.ids.join(number.to_string()))? {
                return Ok(Ids { number, claim });
            }
        }
        Err(Error::unsupported(
            "ids",
            format_args!("all {RANGES} ranges of ids are taken"),
        ))
    }

    /// Returns the running containers, the oldest first.
    pub fn list(&self) -> Result<Vec<Status>> {
        let mut running = Vec::new();
        for id in self.entries()? {
            let file = self.dir.join(&id).join("state.json");
            match std::fs::read(&file) {
                Ok(bytes) => {
                    let mut status: Status = serde_json::from_slice(&bytes)
                        .map_err(|e| Error::system(format_args!("{file:?}"), e))?;
                    lines::read(&self.dir.join(&id).join("lines"), &mut status.sinks)?;
                    running.push(status);
                }
                // Not started yet, or gone meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(|| format!("read({file:?})")),
            }
        }
        running.sort_by(|a: &Status, b| a.started.cmp(&b.started));
        Ok(running)
    }

    /// Returns the running container with a name, an id or an unambiguous prefix of an id.
    pub fn find(&self, name: &str) -> Result<Status> {
        let mut found: Vec<_> = self
            .list()?
            .into_iter()
            .filter(|c| {
                c.name.as_deref() == Some(name) || (name.len() >= 4 && c.id.starts_with(name))
            })
            .collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(
                Error::usage(name, "no running container has that name or id")
                    .hint("run imrun ps to list them"),
            ),
            _ => Err(Error::usage(
                name,
                "is the prefix of more than one running container's id",
            )),
        }
    }

    /// Ends and removes what killed supervisors left behind.
    pub fn sweep(&self) -> Result<()> {
        for id in self.entries()? {
            let dir = self.dir.join(&id);
            let lock = dir.join("lock");
            let locked = try_lock(&lock, false)?;
            // Without the file, the supervisor died while it removed the entry, which begins with the
            // lock.
            if locked.is_none() && lock.exists() {
                continue;
            }
            sweep_cgroup(&id, &dir.join(CGROUP))?;
            files::remove_tree(&dir)?;
        }
        for name in files::names(&self.dir)? {
            let Some(number) = name.strip_prefix('.') else {
                continue;
            };
            if let Some(owner) = Claim::take(self.ids.join(number))? {
                files::remove_tree(&self.dir.join(&name))?;
                owner.release()?;
            }
        }
        sweep_claims(&self.ids)?;
        self.sweep_names()
    }

    fn sweep_names(&self) -> Result<()> {
        let _lock = lock_claims(&self.names)?;
        sweep_claims(&self.names)
    }

    /// Returns the names of the entries: directories named like a container id.
    fn entries(&self) -> Result<Vec<String>> {
        let names = files::names(&self.dir)?;
        Ok(names.into_iter().filter(|name| name.len() == 64).collect())
    }
}

impl Entry {
    /// Returns the first of the container's ids on the host.
    pub fn first_id(&self) -> u32 {
        FIRST_ID + self.ids.number * IDS
    }

    /// Records the container's cgroup for a later cleanup. Call it only once the cgroup exists: before,
    /// another one may have its place.
    pub fn record_cgroup(&self, identity: &CgroupIdentity) -> Result<()> {
        let file = self.dir.join(CGROUP);
        let text =
            serde_json::to_vec(identity).map_err(|e| Error::system(format_args!("{file:?}"), e))?;
        files::replace(&file, &text, files::PRIVATE)
    }

    /// Publishes the status for `imrun ps`.
    pub fn publish(&self, status: &Status) -> Result<()> {
        let file = self.dir.join("state.json");
        let text =
            serde_json::to_vec(status).map_err(|e| Error::system(format_args!("{file:?}"), e))?;
        files::replace(&file, &text, files::PRIVATE)
    }

    /// Creates the file of the line counters.
    pub fn lines(&self) -> Result<Lines> {
        Lines::create(self.dir.join("lines"))
    }

    /// Returns the directory for the container's runtime files.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Removes the entry and releases the ids and the name.
    pub fn remove(self) -> Result<()> {
        files::remove_tree(&self.dir)?;
        self.ids.claim.release()?;
        self.name.map_or(Ok(()), Claim::release)
    }
}

impl Ids {
    /// Returns the path of the entry under construction.
    fn building(&self, directory: &Path) -> PathBuf {
        directory.join(format!(".{}", self.number))
    }
}

impl Claim {
    /// Locks the file; `None` if another container has locked it.
    fn take(path: PathBuf) -> Result<Option<Claim>> {
        let lock = try_lock(&path, true)?;
        Ok(lock.map(|_lock| Claim { path, _lock }))
    }

    fn release(self) -> Result<()> {
        std::fs::remove_file(&self.path).context(|| format!("unlink({:?})", self.path))
    }
}

/// Ends and removes the cgroup that `file` identifies.
fn sweep_cgroup(id: &str, file: &Path) -> Result<()> {
    let bytes = match std::fs::read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Cgroup::remove_empty(id),
        bytes => bytes.context(|| format!("read({file:?})"))?,
    };
    // An incomplete record counts as none.
    let Ok(identity) = serde_json::from_slice::<CgroupIdentity>(&bytes) else {
        return Cgroup::remove_empty(id);
    };
    Cgroup::existing(&identity)?.map_or(Ok(()), Cgroup::remove)
}

/// Locks a directory of claims until the file is dropped. A sweep locks each claim for a moment, and must
/// not be mistaken for its owner.
fn lock_claims(directory: &Path) -> Result<File> {
    let file = File::open(directory).context(|| format!("open({directory:?})"))?;
    file.lock().context(|| format!("flock({directory:?})"))?;
    Ok(file)
}

/// Releases the claims that nobody owns any more.
fn sweep_claims(directory: &Path) -> Result<()> {
    for name in files::names(directory)? {
        let path = directory.join(name);
        if let Some(_lock) = try_lock(&path, false)? {
            Claim { path, _lock }.release()?;
        }
    }
    Ok(())
}

/// Returns the depth to which imrun's part of the directory is closed to others: files in it are private
/// from the start.
fn depth(name: &str) -> Option<u32> {
    let building = name.strip_prefix('.').unwrap_or("-");
    let own = ["ids", "names", "verified", "oci"].contains(&name)
        || name.len() == 64
        || building.bytes().all(|byte| byte.is_ascii_digit());
    own.then_some(0)
}

/// Refuses a directory that another user can write to: he could present any process as a container.
fn refuse_foreign(directory: &Path) -> Result<()> {
    if paths::is_own(directory, 0o022)? {
        return Ok(());
    }
    let why = "must be a directory of this user that nobody else can write to";
    Err(Error::policy(format_args!("{directory:?}"), why).hint("choose another one with --root"))
}

fn lock_new(path: &Path) -> Result<File> {
    try_lock(path, true)?.ok_or_else(|| {
        Error::system(
            format_args!("flock({path:?})"),
            "is locked by another process",
        )
    })
}

/// Locks the file, creating it first if `create` is set. `None` if another process has locked it, or it
/// does not exist.
fn try_lock(path: &Path, create: bool) -> Result<Option<File>> {
    loop {
        let file = match OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .mode(0o600)
            .open(path)
        {
            Ok(file) => file,
            Err(error) if !create && error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(|| format!("open({path:?})")),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).context(|| format!("flock({path:?})"));
            }
        }
        // The last owner may have removed the name between open and flock.
        let links = file
            .metadata()
            .context(|| format!("fstat({path:?})"))?
            .nlink();
        match (links, create) {
            (1.., _) => return Ok(Some(file)),
            (0, true) => continue,
            (0, false) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn two_containers_never_share_a_name_or_ids_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let ids = dir.path().join("ids");
        let runtime = Runtime::with_ids(dir.path(), &ids).unwrap();
        let one = runtime.enter(ID, Some("web")).unwrap();
        let taken = runtime.enter(ID, Some("web")).err().unwrap();
        assert_eq!(taken.what, "--name web");
        let two = runtime.enter(&ID.replace('0', "f"), None).unwrap();
        assert_eq!(one.first_id(), 524_288);
        assert_eq!(two.first_id(), 524_288 + 65_536);
        one.remove().unwrap();
        let three = runtime.enter(ID, Some("web")).unwrap();
        assert_eq!(three.first_id(), 524_288, "released ids are used again");
        three.remove().unwrap();
        two.remove().unwrap();
        for directory in ["ids", "names"] {
            let left = std::fs::read_dir(dir.path().join(directory)).unwrap();
            assert_eq!(left.count(), 0);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_name_does_not_count_as_taken_while_a_sweep_examines_it() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::with_ids(dir.path(), &dir.path().join("ids")).unwrap();
        // Like a sweep that examines the claim of a killed owner.
        let looking = lock_claims(&runtime.names).unwrap();
        let claim = Claim::take(runtime.names.join("web")).unwrap().unwrap();
        std::thread::scope(|scope| {
            let enter = scope.spawn(|| runtime.enter(ID, Some("web")));
            // Usually long enough for the other thread to reach the lock.
            std::thread::sleep(std::time::Duration::from_millis(50));
            claim.release().unwrap();
            drop(looking);
            enter.join().unwrap().unwrap().remove().unwrap();
        });
    }

    #[test]
    fn an_entry_that_cannot_be_created_leaves_no_claim() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::with_ids(dir.path(), &dir.path().join("ids")).unwrap();
        // rename(2) does not replace a directory that is not empty.
        std::fs::create_dir_all(dir.path().join(ID).join("full")).unwrap();
        assert!(runtime.enter(ID, None).is_err());
        assert!(!dir.path().join(".0").exists());
        assert!(!dir.path().join("ids/0").exists());
    }

    #[test]
    fn a_sweep_removes_what_a_killed_supervisor_was_creating_or_removing() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::with_ids(dir.path(), &dir.path().join("ids")).unwrap();
        std::fs::create_dir(dir.path().join(".0")).unwrap();
        std::fs::write(dir.path().join("ids/0"), "").unwrap();
        std::fs::create_dir(dir.path().join(ID)).unwrap();
        let living = runtime.enter(&ID.replace('0', "f"), None).unwrap();
        std::fs::write(dir.path().join("ids/7"), "").unwrap();
        std::fs::create_dir(dir.path().join(".7")).unwrap();
        runtime.sweep().unwrap();
        for gone in [".0", ".7", "ids/7", ID] {
            assert!(!dir.path().join(gone).exists(), "{gone}");
        }
        assert!(living.path().join("lock").exists());
        living.remove().unwrap();
    }
}
