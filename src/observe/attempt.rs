//! What a call would have changed, and what the kernel says to it.

use super::calls::{Action, Call, Subject};
use super::scene::{Found, Place, Scene, join};
use crate::error::Result;
use crate::sys::seccomp::Notification;
use nix::errno::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A call as it was made, with what its pointers lead to.
pub struct Attempt<'a> {
    /// Which call.
    pub call: &'static Call,
    arguments: [u64; 6],
    /// Who made it.
    pub scene: &'a Scene,
    /// What it names, as the app wrote it; for a descriptor what that is of. Empty: nothing.
    pub name: Vec<u8>,
}

/// A call that would have changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it would have changed, where it says.
    pub place: Option<Place>,
    /// The call's other name, where it has two.
    pub other: Option<PathBuf>,
    /// What it fails with. It is what imrun expects: only the kernel knows, and a user's rights or
    /// the app's own filter can make it another.
    pub errno: Errno,
}

impl<'a> Attempt<'a> {
    /// Reads what the call names.
    ///
    /// # Errors
    /// The thread's memory or directories cannot be read: it is gone, or passed a wrong pointer.
    pub fn read(call: &'static Call, told: &Notification, scene: &'a Scene) -> Result<Attempt<'a>> {
        let arguments = told.arguments;
        let name = match call.subject {
            Subject::Path(place) | Subject::At(_, place) | Subject::Queue(place) => {
                match arguments[place] {
                    0 => Vec::new(),
                    address => scene.string(address)?,
                }
            }
            Subject::Address(place, length) => socket_path(scene, arguments, place, length)?,
            Subject::Descriptor(_) | Subject::Nothing => Vec::new(),
        };
        Ok(Attempt {
            call,
            arguments,
            scene,
            name,
        })
    }

    /// The flags of an open.
    pub fn flags(&self) -> Option<i32> {
        self.call.open_flags(&self.arguments)
    }

    /// What the call comes to; None where it changes no file system, whatever becomes of it.
    pub fn judge(&self) -> Result<Option<Verdict>> {
        let nameless = |errno| Verdict {
            place: None,
            other: None,
            errno,
        };
        match self.call.action {
            Action::Keep(errno) => return Ok(self.makes_an_object().then(|| nameless(errno))),
            Action::Forbidden if self.name.is_empty() => return Ok(Some(nameless(Errno::EPERM))),
            Action::Make
                if matches!(self.call.subject, Subject::Address(..)) && self.name.is_empty() =>
            {
                return Ok(None);
            }
            _ => {}
        }
        let place = self.place()?;
        let device = is_device(place.path.as_os_str().as_bytes());
        if device && self.call.action != Action::Forbidden {
            return Ok(None);
        }
        let mut errno = match self.errno(&place) {
            Some(errno) => errno,
            None => return Ok(None),
        };
        let other = self.other()?;
        if let (Action::Make, Some(Place { found, .. })) = (self.call.action, &other)
            && let Found::Nothing | Found::NoWay(_) = found
        {
            errno = missing(*found);
        }
        Ok(Some(Verdict {
            place: Some(place),
            other: other.map(|place| place.path),
            errno,
        }))
    }

    /// System V's objects are made for a key that is nobody's, or where that is asked for.
    fn makes_an_object(&self) -> bool {
        let flags = match self.call.number() {
            libc::SYS_msgget => self.arguments[1],
            libc::SYS_shmget | libc::SYS_semget => self.arguments[2],
            _ => return true, // mq_open, of which the filter saw the flags
        };
        flags as i32 & libc::IPC_CREAT != 0 || self.arguments[0] as i32 == libc::IPC_PRIVATE
    }

    fn place(&self) -> Result<Place> {
        match self.call.subject {
            Subject::Descriptor(place) => self.scene.descriptor(self.arguments[place] as i32),
            // futimens(3), and AT_EMPTY_PATH: the descriptor itself.
            Subject::At(directory, _) if self.name.is_empty() => {
                match self.arguments[directory] as i32 {
                    libc::AT_FDCWD => self.follow(libc::AT_FDCWD, &self.name),
                    descriptor => self.scene.descriptor(descriptor),
                }
            }
            Subject::At(directory, _) => self.follow(self.arguments[directory] as i32, &self.name),
            _ => self.follow(libc::AT_FDCWD, &self.name),
        }
    }

    fn other(&self) -> Result<Option<Place>> {
        let (directory, address) = match self.call.other {
            Some(Subject::At(directory, path)) => {
                (self.arguments[directory] as i32, self.arguments[path])
            }
            Some(Subject::Path(path)) => (libc::AT_FDCWD, self.arguments[path]),
            _ => return Ok(None),
        };
        let name = self.scene.string(address)?;
        self.follow(directory, &name).map(Some)
    }

    fn follow(&self, directory: i32, name: &[u8]) -> Result<Place> {
        let directory = match name.starts_with(b"/") {
            true => PathBuf::from("/"),
            false => self.scene.directory(directory)?,
        };
        let follow = !self.call.spares_links(&self.arguments);
        self.scene.resolve(&join(&directory, name), follow)
    }

    /// What the kernel says, in the order in which it looks (Linux, fs/namei.c, fs/open.c); None
    /// where it lets the call be.
    fn errno(&self, place: &Place) -> Option<Errno> {
        use Found::{Directory, File, NoWay, Nothing, Outside, Stream};
        match (self.call.action, place.found) {
            (Action::Forbidden, _) => Some(Errno::EPERM),
            _ if self.call.is_missing() => Some(Errno::ENOSYS),
            (Action::Open(_), found) => {
                let flags = self.flags()?;
                // Outside the root, the user's rights are looked at before the mount is.
                let rights_first = flags & libc::O_TRUNC == 0 && !in_root(&place.path);
                let denied = |rights| rights_first && !self.scene.may_write(rights);
                opened(flags, found).map(|errno| match place.rights.is_some_and(denied) {
                    true => Errno::EACCES,
                    false => errno,
                })
            }
            (_, NoWay(errno)) => Some(errno),
            // procfs has no place for a name that it does not know.
            (Action::Make, Nothing) if place.path.starts_with("/proc") => Some(Errno::ENOENT),
            (Action::Make, Nothing) | (Action::Remove, _) => Some(Errno::EROFS),
            // It is there already (mkdir -p): that would change nothing anywhere.
            (Action::Make, _) => None,
            (Action::Change, Nothing) => Some(Errno::ENOENT),
            (Action::Change | Action::Write, Outside) => None,
            // EISDIR, EINVAL: there is nothing to be made shorter.
            (Action::Change, Directory | Stream) if self.call.name == "truncate" => None,
            (Action::Change, _) => Some(Errno::EROFS),
            (Action::Write, Stream) => None,
            // They look at the descriptor first, which is open for reading alone.
            (Action::Write, File | Directory | Nothing) => match self.call.name {
                "fallocate" => Some(Errno::EBADF),
                _ => Some(Errno::EINVAL),
            },
            (Action::Keep(errno), _) => Some(errno),
        }
    }
}

/// Of the image, whose superblock is read-only and not the mount alone.
fn in_root(path: &Path) -> bool {
    !["/proc", "/sys"]
        .iter()
        .any(|other| path.starts_with(other))
}

/// The devices that every container has, by the names under which they are known: to write to them
/// is what they are for, and whoever took one for a file of its own wanted no file.
pub fn is_device(path: &[u8]) -> bool {
    let names: [&[u8]; 6] = [
        b"/dev/null",
        b"/dev/zero",
        b"/dev/full",
        b"/dev/tty",
        b"/dev/random",
        b"/dev/urandom",
    ];
    names.contains(&path)
}

fn missing(found: Found) -> Errno {
    match found {
        Found::NoWay(errno) => errno,
        _ => Errno::ENOENT,
    }
}

fn opened(flags: i32, found: Found) -> Option<Errno> {
    let has = |flag| flags & flag == flag;
    if has(libc::O_PATH) {
        return None;
    }
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || has(libc::O_TRUNC);
    match found {
        // Devices, and what the descriptors lead to, are meant to be written to.
        Found::Stream | Found::Outside => None,
        Found::NoWay(errno) => Some(errno),
        Found::Directory if has(libc::O_TMPFILE) => Some(Errno::EROFS),
        // EEXIST and EISDIR: that would change nothing anywhere.
        Found::File | Found::Directory if has(libc::O_CREAT | libc::O_EXCL) => None,
        Found::Directory => None,
        Found::File => writes.then_some(Errno::EROFS),
        Found::Nothing if has(libc::O_CREAT) && !has(libc::O_TMPFILE) => Some(Errno::EROFS),
        Found::Nothing => Some(Errno::ENOENT),
    }
}

/// The path of a Unix socket's address; empty for any other, and for an abstract one (unix(7)).
fn socket_path(scene: &Scene, arguments: [u64; 6], place: usize, length: usize) -> Result<Vec<u8>> {
    let longest = size_of::<libc::sockaddr_un>() as u64;
    let length = arguments[length].min(longest) as usize;
    if arguments[place] == 0 || length < 3 {
        return Ok(Vec::new());
    }
    let bytes = scene.bytes(arguments[place], length)?;
    let unix = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes();
    let path = bytes.strip_prefix(&unix).unwrap_or_default();
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    Ok(path[..end].to_vec())
}

/// The flags of an open(2) that say what it is for, as its manual page writes them.
pub fn flag_names(flags: i32) -> String {
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => "O_RDONLY",
        libc::O_WRONLY => "O_WRONLY",
        libc::O_RDWR => "O_RDWR",
        _ => "3",
    };
    let others = [
        (libc::O_CREAT, "O_CREAT"),
        (libc::O_EXCL, "O_EXCL"),
        (libc::O_TRUNC, "O_TRUNC"),
        (libc::O_APPEND, "O_APPEND"),
        (libc::O_TMPFILE, "O_TMPFILE"),
        (libc::O_NOFOLLOW, "O_NOFOLLOW"),
    ];
    let set = others.iter().filter(|(flag, _)| flags & flag == *flag);
    let names: Vec<_> = std::iter::once(access)
        .chain(set.map(|(_, name)| *name))
        .collect();
    names.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{O_CREAT, O_EXCL, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY};

    #[test]
    fn an_open_fails_as_the_kernel_lets_it_fail() {
        use Found::{Directory, File, NoWay, Nothing, Stream};
        for (flags, found, errno) in [
            (O_WRONLY, File, Some(Errno::EROFS)),
            (O_WRONLY | O_CREAT, Nothing, Some(Errno::EROFS)),
            (O_WRONLY, Nothing, Some(Errno::ENOENT)),
            (O_RDONLY | O_CREAT, File, None),
            (O_RDONLY | O_TRUNC, File, Some(Errno::EROFS)),
            (O_RDWR | O_CREAT | O_EXCL, File, None),
            (O_RDWR | O_TMPFILE, Directory, Some(Errno::EROFS)),
            (O_WRONLY, Directory, None),
            (
                O_WRONLY | O_CREAT,
                NoWay(Errno::ENOTDIR),
                Some(Errno::ENOTDIR),
            ),
            (O_WRONLY | O_CREAT | O_TRUNC, Stream, None),
            (O_PATH | O_CREAT | O_WRONLY, Nothing, None),
        ] {
            assert_eq!(
                opened(flags, found),
                errno,
                "{}, {found:?}",
                flag_names(flags)
            );
        }
    }

    #[test]
    fn flags_are_named() {
        assert_eq!(flag_names(O_RDONLY), "O_RDONLY");
        assert_eq!(
            flag_names(O_WRONLY | O_CREAT | O_TRUNC),
            "O_WRONLY|O_CREAT|O_TRUNC"
        );
    }
}
