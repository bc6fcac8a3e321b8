//! The runtime state: which containers run, which ids they own, and what a killed imrun left.
//!
//! ```text
//! ROOT/ID/lock        locked (flock(2)) for as long as the container's supervisor lives
//! ROOT/ID/cgroup      its cgroup, as soon as that is made: place beneath the hierarchy's root, inode
//! ROOT/ID/state.json  what `imrun ps` shows
//! ROOT/ID/lines       the counters of each sink, a line each: six numbers of twenty digits, a failure
//! ROOT/names/NAME     locked by the container of that name
//! ROOT/.N             an entry that is being made by the owner of the N-th range of ids
//! /run/imrun/ids/N    locked by the container that owns the N-th range of ids, whatever its ROOT
//! ```
//! It holds no environment values and no log bytes.
#![forbid(unsafe_code)]

mod lines;

use crate::cgroup::{Cgroup, Made};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::ids;
use crate::paths;
use crate::ship::Counters;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::user::IDS;

pub use lines::Lines;

/// The range that systemd keeps for containers (systemd, UIDS-GIDS.md: 524288 to 1879048191).
const FIRST_ID: u32 = 524_288;
const RANGES: u32 = (1_879_048_192 - FIRST_ID) / IDS;

/// What is known of a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// 64 hex digits, random.
    pub id: String,
    /// `--name`, unique among the running.
    pub name: Option<String>,
    /// The manifest's digest.
    pub image: String,
    /// The digest of the launch record.
    pub launch: String,
    /// The integrity level that held.
    pub integrity: String,
    /// The first sink, without credentials.
    pub sink: String,
    /// All of them.
    pub sinks: Vec<Sink>,
    /// The supervisor's process id.
    pub supervisor: i32,
    /// The app's process id.
    pub pid: i32,
    /// RFC 3339, UTC.
    pub started: String,
    /// The program and its arguments.
    pub args: Vec<String>,
}

/// A sink of a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sink {
    /// Without credentials.
    pub url: String,
    /// What became of the lines, up to a second ago.
    #[serde(default)]
    pub lines: Counters,
    /// Its last answer, while it refuses lines or makes no progress.
    #[serde(default)]
    pub failure: Option<String>,
}

/// Where ranges of ids are claimed: one place for the host, as the ids are the host's.
const IDS_CLAIMED: &str = "/run/imrun/ids";

/// The file of an entry that says where the cgroup is.
const CGROUP: &str = "cgroup";

/// The directory of `--root`.
pub struct Runtime {
    dir: PathBuf,
    ids: PathBuf,
    names: PathBuf,
}

/// A container's entry, locked by its supervisor; dropping it removes the entry.
pub struct Entry {
    dir: PathBuf,
    _lock: File,
    ids: Ids,
    name: Option<Claim>,
}

/// A range of 65,536 user and group ids that no other container has.
struct Ids {
    number: u32,
    claim: Claim,
}

/// A file that is locked for as long as its owner lives.
struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Runtime {
    /// Opens the directory, making it (0700) if it is not there.
    pub fn open(dir: &Path) -> Result<Runtime> {
        match ids::is_ordinary()? {
            // Who has no id but his own claims none of the host's.
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

    /// Enters container `id`, and claims its name and ids for it.
    ///
    /// # Errors
    /// Another container has that name.
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
                // The first error is the one to tell.
                let removed = files::remove_tree(&ids.building(&self.dir));
                let mut claims = [Some(ids.claim), name].into_iter().flatten();
                let given_back = claims.try_for_each(Claim::give_back);
                removed.and(given_back).and(Err(error))
            }
        }
    }

    /// Locked before it has its name: a sweep never sees it without a lock.
    fn make_entry(&self, id: &str, ids: &Ids) -> Result<(PathBuf, File)> {
        let building = ids.building(&self.dir);
        // Of an owner that was killed while it made one.
        files::remove_tree(&building)?;
        files::make_directory(&building)?;
        let lock = lock_new(&building.join("lock"))?;
        let dir = self.dir.join(id);
        std::fs::rename(&building, &dir).context(|| format!("rename({building:?}, {dir:?})"))?;
        Ok((dir, lock))
    }

    fn claim_name(&self, name: &str) -> Result<Claim> {
        let _turn = turn(&self.names)?;
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

    /// The containers whose supervisor lives.
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

    /// The running container of that name, id or unambiguous start of an id.
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
            0 => {
                Err(Error::usage(name, "no running container has that name or id").hint("imrun ps"))
            }
            _ => Err(Error::usage(
                name,
                "more than one running container's id starts so",
            )),
        }
    }

    /// Ends and removes what supervisors that were killed left behind.
    pub fn sweep(&self) -> Result<()> {
        for id in self.entries()? {
            let dir = self.dir.join(&id);
            let lock = dir.join("lock");
            let locked = try_lock(&lock, false)?;
            // Without one its supervisor died while it removed the entry, the lock first.
            if locked.is_none() && lock.exists() {
                continue;
            }
            sweep_cgroup(&id, &dir.join(CGROUP))?;
            files::remove_tree(&dir)?;
        }
        for name in file_names(&self.dir)? {
            let Some(number) = name.strip_prefix('.') else {
                continue;
            };
            if let Some(owner) = Claim::take(self.ids.join(number))? {
                files::remove_tree(&self.dir.join(&name))?;
                owner.give_back()?;
            }
        }
        sweep_claims(&self.ids)?;
        self.sweep_names()
    }

    fn sweep_names(&self) -> Result<()> {
        let _turn = turn(&self.names)?;
        sweep_claims(&self.names)
    }

    /// Names of the entries: directories with the name of a container id.
    fn entries(&self) -> Result<Vec<String>> {
        let names = file_names(&self.dir)?;
        Ok(names.into_iter().filter(|name| name.len() == 64).collect())
    }
}

impl Entry {
    /// The first of the container's ids, on the host.
    pub fn first_id(&self) -> u32 {
        FIRST_ID + self.ids.number * IDS
    }

    /// Leaves word of the container's cgroup, for who cleans up. Not before it is made: until then
    /// there may be another's at its place.
    pub fn record_cgroup(&self, made: &Made) -> Result<()> {
        let file = self.dir.join(CGROUP);
        let text =
            serde_json::to_vec(made).map_err(|e| Error::system(format_args!("{file:?}"), e))?;
        files::replace(&file, &text, files::PRIVATE)
    }

    /// Shows the container to `imrun ps`.
    pub fn publish(&self, status: &Status) -> Result<()> {
        let file = self.dir.join("state.json");
        let text =
            serde_json::to_vec(status).map_err(|e| Error::system(format_args!("{file:?}"), e))?;
        files::replace(&file, &text, files::PRIVATE)
    }

    /// The file that its counters go to.
    pub fn lines(&self) -> Result<Lines> {
        Lines::create(self.dir.join("lines"))
    }

    /// Where the container's own runtime files go.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Removes the entry and gives the ids and the name back.
    pub fn remove(self) -> Result<()> {
        files::remove_tree(&self.dir)?;
        self.ids.claim.give_back()?;
        self.name.map_or(Ok(()), Claim::give_back)
    }
}

impl Ids {
    /// The entry that the owner is making in the directory of the runtime state.
    fn building(&self, directory: &Path) -> PathBuf {
        directory.join(format!(".{}", self.number))
    }
}

impl Claim {
    /// None when another container has it.
    fn take(path: PathBuf) -> Result<Option<Claim>> {
        let lock = try_lock(&path, true)?;
        Ok(lock.map(|_lock| Claim { path, _lock }))
    }

    fn give_back(self) -> Result<()> {
        std::fs::remove_file(&self.path).context(|| format!("unlink({:?})", self.path))
    }
}

/// Ends and removes the cgroup that `file` is a record of.
fn sweep_cgroup(id: &str, file: &Path) -> Result<()> {
    let bytes = match std::fs::read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Cgroup::remove_empty(id),
        bytes => bytes.context(|| format!("read({file:?})"))?,
    };
    // A record that was not written to its end is none.
    let Ok(made) = serde_json::from_slice::<Made>(&bytes) else {
        return Cgroup::remove_empty(id);
    };
    Cgroup::existing(&made)?.map_or(Ok(()), Cgroup::remove)
}

/// Nobody else has it until the file is dropped. Who looks whether a claim is owned holds it for a
/// moment, and must not be taken for its owner.
fn turn(directory: &Path) -> Result<File> {
    let file = File::open(directory).context(|| format!("open({directory:?})"))?;
    file.lock().context(|| format!("flock({directory:?})"))?;
    Ok(file)
}

/// Gives back what nobody owns any more.
fn sweep_claims(directory: &Path) -> Result<()> {
    for name in file_names(directory)? {
        let path = directory.join(name);
        if let Some(_lock) = try_lock(&path, false)? {
            Claim { path, _lock }.give_back()?;
        }
    }
    Ok(())
}

fn file_names(directory: &Path) -> Result<Vec<String>> {
    let list = std::fs::read_dir(directory).context(|| format!("readdir({directory:?})"))?;
    list.map(|entry| {
        let entry = entry.context(|| format!("readdir({directory:?})"))?;
        Ok(entry.file_name().to_string_lossy().into_owned())
    })
    .collect()
}

/// How far down imrun's part of the directory is closed to others: files in it are private from the start.
fn depth(name: &str) -> Option<u32> {
    let building = name.strip_prefix('.').unwrap_or("-");
    let own = ["ids", "names", "verified", "oci"].contains(&name)
        || name.len() == 64
        || building.bytes().all(|byte| byte.is_ascii_digit());
    own.then_some(0)
}

/// Who else could write there could name any process as a container.
fn refuse_foreign(directory: &Path) -> Result<()> {
    if paths::is_own(directory, 0o022)? {
        return Ok(());
    }
    let why = "is not a directory of this user's that nobody else can write to";
    Err(Error::policy(format_args!("{directory:?}"), why).hint("--root names another one"))
}

fn lock_new(path: &Path) -> Result<File> {
    try_lock(path, true)?.ok_or_else(|| {
        Error::system(
            format_args!("flock({path:?})"),
            "is locked by another process",
        )
    })
}

/// Locks the file, made first if `create`; None when another process has it, or it is gone.
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
        // Its last owner may have removed the name between open and flock.
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
    fn two_containers_never_share_a_name_or_ids_and_nothing_stays_behind() {
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
        assert_eq!(
            three.first_id(),
            524_288,
            "ids that were given back are used again"
        );
        three.remove().unwrap();
        two.remove().unwrap();
        for directory in ["ids", "names"] {
            let left = std::fs::read_dir(dir.path().join(directory)).unwrap();
            assert_eq!(left.count(), 0);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_name_is_not_taken_because_others_look_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::with_ids(dir.path(), &dir.path().join("ids")).unwrap();
        // As a sweep that has come upon the claim of somebody who was killed.
        let looking = turn(&runtime.names).unwrap();
        let claim = Claim::take(runtime.names.join("web")).unwrap().unwrap();
        std::thread::scope(|scope| {
            let enter = scope.spawn(|| runtime.enter(ID, Some("web")));
            // Enough for the other thread to be there already, as a rule.
            std::thread::sleep(std::time::Duration::from_millis(50));
            claim.give_back().unwrap();
            drop(looking);
            enter.join().unwrap().unwrap().remove().unwrap();
        });
    }

    #[test]
    fn an_entry_that_cannot_be_made_leaves_no_claim() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::with_ids(dir.path(), &dir.path().join("ids")).unwrap();
        // A directory that is not empty cannot be renamed over.
        std::fs::create_dir_all(dir.path().join(ID).join("full")).unwrap();
        assert!(runtime.enter(ID, None).is_err());
        assert!(!dir.path().join(".0").exists());
        assert!(!dir.path().join("ids/0").exists());
    }

    #[test]
    fn a_sweep_removes_what_a_killed_supervisor_was_making_or_removing() {
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
