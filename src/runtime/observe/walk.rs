//! Resolution of an app's path, name by name (path_resolution(7)).
//!
//! The kernel cannot resolve it for imrun: the links of /proc lead elsewhere for imrun than for the app's
//! thread.

use super::caller::{Caller, Found, Place, ReadResult, Rights, Target, Unread, kind, path_of};
use crate::base::sys::open::openat2;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Maximum number of links in a path (MAXSYMLINKS).
const LINKS: u32 = 40;
/// Maximum number of names. A path has 2,048 at most, but its links can add more.
const STEPS: u32 = 4096;

/// State of a walk.
struct Walk<'a> {
    caller: &'a Caller,
    /// Current directory, without links.
    here: PathBuf,
    /// Owner, group and mode of `here`.
    rights: Rights,
    /// Names that follow, in reverse order.
    rest: Vec<OsString>,
    links: u32,
    steps: u32,
    /// True if the walk follows a link in the last name.
    follow: bool,
    is_per_process: bool,
    is_foreign: bool,
}

/// Follows `name` from the directory `start`. If `follow` is set, also follows a link in the last name.
pub fn walk(caller: &Caller, start: &Path, name: &[u8], follow: bool) -> ReadResult<Target> {
    if !start.is_absolute() {
        // A descriptor of a pipe, or a directory that is no longer reachable.
        let path = start.join(OsStr::from_bytes(name));
        return Ok(absent(path, start, Found::Unreachable(Errno::ENOTDIR)));
    }
    let (_, status) = lookup(caller, start).map_err(Unread)?;
    let mut walk = Walk {
        caller,
        here: start.to_owned(),
        rights: Rights::of(&status),
        rest: Vec::new(),
        links: 0,
        steps: 0,
        follow: follow || name.ends_with(b"/"),
        is_per_process: false,
        is_foreign: false,
    };
    walk.prepend(Path::new(OsStr::from_bytes(name)));
    let target = walk.run()?;
    Ok(Target {
        is_per_process: walk.is_per_process,
        is_foreign: walk.is_foreign,
        ..target
    })
}

impl Walk<'_> {
    /// Puts a path before the names that follow.
    fn prepend(&mut self, path: &Path) {
        let names = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        self.rest.extend(names);
        if path.is_absolute() {
            self.here = "/".into();
        }
    }

    fn run(&mut self) -> ReadResult<Target> {
        while let Some(name) = self.rest.pop() {
            if name == ".." {
                self.here.pop();
                continue;
            }
            if let Some(target) = self.step(&name)? {
                return Ok(target);
            }
        }
        let (handle, status) = lookup(self.caller, &self.here).map_err(Unread)?;
        Ok(found(self.here.clone(), handle, &status))
    }

    /// Continues to `name`; returns the target if the walk ends there.
    fn step(&mut self, name: &OsStr) -> ReadResult<Option<Target>> {
        let path = self.here.join(name);
        self.steps += 1;
        if self.steps > STEPS {
            return Ok(Some(self.stop(path, Errno::ELOOP)));
        }
        if !self.caller.has_access(1, self.rights) {
            return Ok(Some(self.stop(path, Errno::EACCES)));
        }
        let (handle, status) = match lookup(self.caller, &path) {
            Ok(there) => there,
            Err(errno) => return Ok(Some(self.stop(path, errno))),
        };
        let is_last = self.rest.is_empty();
        match kind(&status) {
            Found::Link if !is_last || self.follow => self.follow_link(path, &handle),
            Found::Directory if !is_last => {
                (self.here, self.rights) = (path, Rights::of(&status));
                Ok(None)
            }
            _ if is_last => Ok(Some(found(path, handle, &status))),
            _ => Ok(Some(self.stop(path, Errno::ENOTDIR))),
        }
    }

    /// Ends the walk at `path`, which does not exist, with the names that would follow.
    fn stop(&self, path: PathBuf, errno: Errno) -> Target {
        let rest = self.rest.iter().rev();
        let whole = rest.fold(path, |path, name| path.join(name));
        let found = if errno != Errno::ENOENT || !self.rest.is_empty() {
            Found::Unreachable(errno)
        } else {
            Found::Nothing
        };
        absent(whole, &self.here, found)
    }

    fn follow_link(&mut self, path: PathBuf, link: &OwnedFd) -> ReadResult<Option<Target>> {
        self.links += 1;
        if self.links > LINKS {
            return Ok(Some(self.stop(path, Errno::ELOOP)));
        }
        let file_system = fstatfs(link).map_err(Unread)?;
        if file_system.filesystem_type() == PROC_SUPER_MAGIC {
            if let Some(own) = self.own_directory(&path) {
                self.is_per_process = true;
                self.prepend(&own);
                return Ok(None);
            }
            if let Some(process) = owner(&path) {
                self.is_per_process = true;
                self.is_foreign |= self.caller.own_process().as_deref() != Some(process);
                return self.follow_process_link(path);
            }
        }
        let target = readlinkat(link, "").map_err(Unread)?;
        self.prepend(Path::new(&target));
        Ok(None)
    }

    /// Returns the target of `/proc/self` and `/proc/thread-self`, which lead elsewhere for imrun.
    fn own_directory(&self, path: &Path) -> Option<PathBuf> {
        let own = self.caller.own_process();
        match path.to_str()? {
            "/proc/self" => Some(own?.into()),
            "/proc/thread-self" => {
                Some(format!("{}/task/{}", own?, self.caller.own_thread()?).into())
            }
            _ => None,
        }
    }

    /// Follows a link like /proc/1/cwd or /proc/1/fd/3, which leads to an object and not to a path.
    fn follow_process_link(&mut self, path: PathBuf) -> ReadResult<Option<Target>> {
        let relative = path.strip_prefix("/").unwrap_or(&path);
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let target = openat(self.caller.root()?, relative, flags, Mode::empty());
        let target = match target.and_then(Target::of) {
            Ok(target) => target,
            Err(errno) => return Ok(Some(self.stop(path, errno))),
        };
        match (target.place.found, target.place.rights) {
            (Found::Directory, Some(rights)) if !self.rest.is_empty() => {
                (self.here, self.rights) = (target.place.path, rights);
                Ok(None)
            }
            _ if self.rest.is_empty() => Ok(Some(target)),
            _ => Ok(Some(self.stop(path, Errno::ENOTDIR))),
        }
    }
}

/// Returns the id of the process that a link in /proc belongs to; `None` for links that lead to paths.
fn owner(path: &Path) -> Option<&str> {
    let mut names = path.iter().skip(2);
    let process = names.next()?.to_str()?;
    let is_number = process.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && names.next().is_some()).then_some(process)
}

/// Opens a path without links from the container's root (O_PATH).
fn lookup(caller: &Caller, path: &Path) -> nix::Result<(OwnedFd, FileStat)> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let root = caller.root().map_err(|Unread(errno)| errno)?;
    let handle = openat2(root, path, how)?;
    let status = fstat(&handle)?;
    Ok((handle, status))
}

fn found(path: PathBuf, handle: OwnedFd, status: &FileStat) -> Target {
    // As seen through the container's own mounts, if the kernel reports it.
    let path = path_of(handle.as_fd())
        .ok()
        .filter(|path| path.is_absolute())
        .unwrap_or(path);
    let place = Place {
        nearest: path.clone(),
        path,
        found: kind(status),
        rights: Some(Rights::of(status)),
    };
    Target {
        place,
        handle: Some(handle),
        is_per_process: false,
        is_foreign: false,
    }
}

/// Makes the target of a name that leads to no object; `found` gives the reason.
fn absent(path: PathBuf, nearest: &Path, found: Found) -> Target {
    let place = Place {
        path,
        nearest: nearest.to_owned(),
        found,
        rights: None,
    };
    Target {
        place,
        handle: None,
        is_per_process: false,
        is_foreign: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    /// Follows `name` from a directory of this process; returns the target relative to it.
    fn resolve(top: &Path, name: &str, follow: bool) -> (String, Found) {
        let caller = Caller::new(std::process::id() as i32);
        let place = walk(&caller, top, name.as_bytes(), follow).unwrap().place;
        let path = place.path.strip_prefix(top).unwrap_or(&place.path);
        (path.to_str().unwrap().to_owned(), place.found)
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        std::fs::write(top.join("file"), "").unwrap();
        std::fs::create_dir(top.join("sub")).unwrap();
        symlink("file", top.join("link")).unwrap();
        symlink("sub/../none/x", top.join("dangling")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        (dir, top)
    }

    #[test]
    fn missing_names_are_told_from_existing_ones() {
        let (_dir, top) = directory();
        let found = |name, follow| resolve(&top, name, follow);
        assert_eq!(found("", true), (String::new(), Found::Directory));
        assert_eq!(found("file", true), ("file".into(), Found::File));
        assert_eq!(found("link", true), ("file".into(), Found::File));
        assert_eq!(found("link", false), ("link".into(), Found::Link));
        assert_eq!(found("new", true), ("new".into(), Found::Nothing));
        assert_eq!(
            found("sub//./new", true),
            ("sub/new".into(), Found::Nothing)
        );
        assert_eq!(found("sub/../file", true), ("file".into(), Found::File));
        let way = |name| found(name, true).1;
        assert_eq!(way("none/new"), Found::Unreachable(Errno::ENOENT));
        assert_eq!(way("dangling"), Found::Unreachable(Errno::ENOENT));
        assert_eq!(way("file/new"), Found::Unreachable(Errno::ENOTDIR));
        assert_eq!(way("loop"), Found::Unreachable(Errno::ELOOP));
        assert_eq!(way("/dev/null"), Found::Stream);
        assert_eq!(
            way(&"x".repeat(300)),
            Found::Unreachable(Errno::ENAMETOOLONG)
        );
    }

    #[test]
    fn the_links_of_proc_lead_where_they_do_for_the_process() {
        let (_dir, top) = directory();
        let file = std::fs::File::open(top.join("file")).unwrap();
        let through = |link: String| {
            let caller = Caller::new(std::process::id() as i32);
            walk(&caller, &top, link.as_bytes(), true).unwrap()
        };
        let descriptor = file.as_raw_fd();
        for link in [
            format!("/proc/self/fd/{descriptor}"),
            format!("/dev/fd/{descriptor}"),
            format!("/proc/{}/fd/{descriptor}", std::process::id()),
            format!("/proc/self/root{}/file", top.display()),
        ] {
            let target = through(link.clone());
            assert_eq!(target.place.path, top.join("file"), "{link}");
            assert_eq!(target.place.found, Found::File, "{link}");
            assert!(target.is_per_process, "{link}");
        }
        let (end, _other) = std::io::pipe().unwrap();
        let target = through(format!("/proc/self/fd/{}", end.as_raw_fd()));
        assert_eq!(target.place.found, Found::Outside);
        let new = through("/proc/self/cwd/none-at-all".into()).place;
        assert_eq!(
            new.path,
            std::env::current_dir().unwrap().join("none-at-all")
        );
        assert_eq!(new.found, Found::Nothing);
        let missing = through("/proc/self/fd/987654".into()).place.found;
        assert_eq!(missing, Found::Nothing);
        let init = through("/proc/1/root/dev/null".into());
        assert!(init.is_foreign || init.place.found == Found::Unreachable(Errno::EACCES));
        assert!(!through("/proc/self/root/dev/null".into()).is_foreign);
    }

    #[test]
    fn a_walk_through_a_loop_of_links_ends() {
        let (_dir, top) = directory();
        symlink("sub/../".repeat(400), top.join("long")).unwrap();
        let found = resolve(&top, &"long/".repeat(30), true).1;
        assert_eq!(found, Found::Unreachable(Errno::ELOOP));
    }
}
