//! Judges an attempt: the change that a call would have made, and the errno that the kernel returns.

use super::caller::{Caller, Found, Place, ReadResult, Target, Unread, is_process_attribute};
use super::calls::{Action, Call, ObjectArgument};
use super::ioctls;
use super::privilege;
use super::report::{Key, Object};
use super::walk::walk;
use crate::base::sys::seccomp::Notification;
use nix::errno::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A call with its arguments, and the memory that they point to.
pub struct Attempt<'a> {
    /// The call.
    pub call: &'static Call,
    arguments: [u64; 6],
    /// Thread that makes the call.
    pub caller: &'a Caller,
    /// Name in the call, as the app wrote it; `None` if it has none.
    pub name: Option<Vec<u8>>,
    /// Second name, if the call has two.
    other: Option<Vec<u8>>,
    /// Text of a symbolic link to create.
    link: Option<Vec<u8>>,
    /// Bytes of a socket address.
    address: Vec<u8>,
}

/// Verdict on a call.
#[derive(Debug)]
pub enum Verdict {
    /// The call would change something. The kernel refuses it, and imrun reports it.
    Change(Change),
    /// The call changes nothing, whatever another thread does meanwhile.
    Harmless,
    /// The call changes nothing as long as names and descriptors stay the same. If imrun must not rely on
    /// that, it takes this action instead of the kernel.
    Exempt(StandIn),
}

/// Action that imrun takes instead of the kernel, which would read names and descriptors again.
#[derive(Debug)]
pub enum StandIn {
    /// The call fails.
    Fail(Errno),
    /// The call succeeds and does nothing.
    Succeed,
    /// The app receives a descriptor of the target.
    Open(Target),
    /// imrun sets the length of the app's file.
    Truncate,
    /// imrun binds the app's socket to this address, which is not a path.
    Bind(Vec<u8>),
}

/// A change that a call would have made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Location that it would have changed, if it names one.
    pub place: Option<Place>,
    /// Location of the call's second name, if it has two.
    pub other: Option<PathBuf>,
    /// Other argument of the call: an ioctl(2) request, or ids.
    pub argument: Option<String>,
    /// Errno that imrun expects the call to fail with. Only the kernel knows the actual one: a filter of
    /// the app's own can change it.
    pub errno: Option<Errno>,
    /// True if imrun could not read the name or the descriptor.
    pub is_unread: bool,
    /// True if it would change only the process, and no file system.
    pub is_of_process: bool,
    /// True if the same name leads elsewhere for another process.
    pub is_per_process: bool,
}

/// The words of a call: two calls with the same words and directories are the same attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spelling {
    number: u32,
    flags: i32,
    names: [Option<(PathBuf, Vec<u8>)>; 2],
    link: Option<Vec<u8>>,
}

impl<'a> Attempt<'a> {
    /// Reads the names in the call.
    ///
    /// # Errors
    /// The thread's memory cannot be read: it passed an invalid pointer, or is gone.
    pub fn read(
        call: &'static Call,
        notification: &Notification,
        caller: &'a Caller,
    ) -> ReadResult<Attempt<'a>> {
        let mut attempt = Attempt::without_names(call, notification, caller);
        if let ObjectArgument::Address(place, length) = call.object {
            attempt.address = attempt.read_address(place, length)?;
        }
        attempt.name = attempt.read_name(call.object)?;
        if call.creates_link() {
            attempt.link = Some(caller.string(attempt.arguments[0])?);
        }
        attempt.other = match call.other {
            Some(other) => attempt.read_name(other)?,
            None => None,
        };
        Ok(attempt)
    }

    /// Makes an attempt without reading the names.
    pub fn without_names(
        call: &'static Call,
        notification: &Notification,
        caller: &'a Caller,
    ) -> Attempt<'a> {
        Attempt {
            call,
            arguments: notification.arguments,
            caller,
            name: None,
            other: None,
            link: None,
            address: Vec::new(),
        }
    }

    fn read_name(&self, object: ObjectArgument) -> ReadResult<Option<Vec<u8>>> {
        let place = match object {
            ObjectArgument::Path(place)
            | ObjectArgument::At(_, place)
            | ObjectArgument::Queue(place) => place,
            ObjectArgument::Address(..) => return Ok(Some(socket_path(&self.address))),
            ObjectArgument::Descriptor(_) | ObjectArgument::Nothing => return Ok(None),
        };
        match self.arguments[place] {
            0 if self.call.takes_null(&self.arguments) => Ok(None),
            0 => Err(Unread(Errno::EFAULT)),
            address => self.caller.string(address).map(Some),
        }
    }

    fn read_address(&self, place: usize, length: usize) -> ReadResult<Vec<u8>> {
        const LONGEST: usize = size_of::<libc::sockaddr_storage>();
        let length = self.arguments[length] as u32 as usize;
        if length > LONGEST {
            return Err(Unread(Errno::EINVAL));
        }
        let bytes = self.caller.bytes(self.arguments[place], length)?;
        if bytes.len() == length {
            Ok(bytes)
        } else {
            Err(Unread(Errno::EFAULT))
        }
    }

    /// Returns the flags of an open.
    pub fn flags(&self) -> Option<i32> {
        self.call.open_flags(&self.arguments)
    }

    /// Returns the descriptor of a call that has it as its first argument.
    pub fn descriptor(&self) -> i32 {
        self.arguments[0] as i32
    }

    /// Returns the length of a truncation.
    pub fn length(&self) -> i64 {
        self.arguments[1] as i64
    }

    /// Returns true if it names a device that programs may write to, and nothing else.
    pub fn names_device(&self) -> bool {
        let is_open_to_all = self.call.action != Action::Forbidden;
        let replaces = self.call.action == Action::Remove && self.other.is_some();
        let names_only_devices = !replaces || self.other.as_deref().is_some_and(is_device);
        is_open_to_all && names_only_devices && self.name.as_deref().is_some_and(is_device)
    }

    /// Returns the words of the call; `None` if it names its object by a descriptor or not at all, or if
    /// the verdict depends on other memory.
    pub fn spelling(&self) -> Option<Spelling> {
        if self.call.number() == libc::SYS_utimensat && self.arguments[2] != 0 {
            return None;
        }
        let objects = [Some(self.call.object), self.call.other];
        let names = [&self.name, &self.other];
        let mut spelling = Spelling {
            number: self.call.number() as u32,
            flags: self
                .flags()
                .unwrap_or_else(|| self.call.at_flags(&self.arguments)),
            names: [None, None],
            link: self.link.clone(),
        };
        for ((object, name), place) in objects.into_iter().zip(names).zip(&mut spelling.names) {
            let Some(object) = object else { continue };
            let name = name.as_ref().filter(|name| !name.is_empty())?;
            let directory = match object {
                ObjectArgument::Path(_) => libc::AT_FDCWD,
                ObjectArgument::At(directory, _) => self.arguments[directory] as i32,
                _ => return None,
            };
            let start = if name.starts_with(b"/") {
                PathBuf::new()
            } else {
                self.caller.directory(directory).ok()?
            };
            *place = Some((start, name.clone()));
        }
        Some(spelling)
    }

    /// Judges the call.
    ///
    /// # Errors
    /// The verdict needs a name or a descriptor that cannot be read.
    pub fn judge(&self) -> ReadResult<Verdict> {
        match self.call.action {
            Action::KernelObject(errno) => Ok(self.kernel_object(errno)),
            Action::Forbidden => self.forbidden(),
            Action::ChangeIds(ids) => Ok(self.change_ids(ids)),
            Action::ChangeRoot => self.change_root(),
            Action::Open(_) => self.open(),
            Action::Make => self.make(),
            Action::Remove => self.remove(),
            Action::Change => self.change(),
            Action::Write => self.write(),
        }
    }

    fn kernel_object(&self, errno: Errno) -> Verdict {
        if self.creates_object() {
            Verdict::Change(Change {
                errno: Some(errno),
                ..Change::default()
            })
        } else {
            Verdict::Harmless
        }
    }

    /// Returns true if the call creates a System V object: for IPC_PRIVATE, or with IPC_CREAT.
    fn creates_object(&self) -> bool {
        let flags = match self.call.number() {
            libc::SYS_msgget => self.arguments[1],
            libc::SYS_shmget | libc::SYS_semget => self.arguments[2],
            _ => return true, // message queues: the filter saw the flags
        };
        flags as i32 & libc::IPC_CREAT != 0 || self.arguments[0] as i32 == libc::IPC_PRIVATE
    }

    /// Judges a call that no container may make, even if its object cannot be found.
    fn forbidden(&self) -> ReadResult<Verdict> {
        let names_something = match self.call.object {
            ObjectArgument::Nothing => false,
            ObjectArgument::Descriptor(_) | ObjectArgument::At(..) => true,
            _ => !self.is_nameless(),
        };
        // The kernel looks up no name here.
        let target = if names_something {
            self.target().ok()
        } else {
            None
        };
        self.verdict(target, Errno::EPERM)
    }

    fn change_ids(&self, ids: privilege::Ids) -> Verdict {
        let errno = privilege::errno(self.caller, ids, &self.arguments);
        match errno {
            None => Verdict::Harmless,
            Some(_) => Verdict::Change(Change {
                errno,
                argument: Some(privilege::to_text(ids, &self.arguments)),
                is_of_process: true,
                ..Change::default()
            }),
        }
    }

    fn change_root(&self) -> ReadResult<Verdict> {
        let target = self.target()?;
        // For anything but a directory the kernel does not check the caller's rights.
        if target.place.found != Found::Directory || privilege::may_change_root(self.caller) {
            return Ok(Verdict::Harmless);
        }
        let mut verdict = self.verdict(Some(target), Errno::EPERM)?;
        if let Verdict::Change(change) = &mut verdict {
            change.is_of_process = true;
        }
        Ok(verdict)
    }

    fn open(&self) -> ReadResult<Verdict> {
        let flags = self.flags().unwrap_or_default();
        if flags & libc::O_PATH != 0 {
            return Ok(Verdict::Harmless);
        }
        if self.is_nameless() {
            return Ok(Verdict::Exempt(StandIn::Fail(Errno::ENOENT)));
        }
        let target = self.target()?;
        if is_process_attribute(&target.place.path) {
            return Ok(Verdict::Exempt(StandIn::Fail(Errno::EACCES)));
        }
        match open_outcome(flags, &target.place) {
            Opened::Fails(_) if self.is_denied(&target.place, flags) => {
                self.verdict(Some(target), Errno::EACCES)
            }
            Opened::Fails(errno) => self.verdict(Some(target), errno),
            Opened::ChangesNothing(errno) => Ok(Verdict::Exempt(StandIn::Fail(errno))),
            Opened::Succeeds => Ok(Verdict::Exempt(StandIn::Open(target))),
        }
    }

    /// Returns true if an open fails because of the user's rights. Outside the root the kernel checks
    /// them before the mount, unless the open creates a file.
    fn is_denied(&self, place: &Place, flags: i32) -> bool {
        let Some(rights) = place.rights else {
            return false;
        };
        if in_root(&place.path) || flags & (libc::O_TRUNC | libc::O_TMPFILE) != 0 {
            return false;
        }
        if is_of_ipc_namespace(&place.path) {
            // The file that imrun sees there belongs to another namespace. If the container maps no root,
            // the file's owner is imrun's user (rootless).
            let own = nix::unistd::geteuid().as_raw();
            let root = self.caller.host_id("uid_map", 0).unwrap_or(own);
            return self.caller.users().get(1) != Some(&root);
        }
        !self.caller.has_access(access(flags), rights)
    }

    fn make(&self) -> ReadResult<Verdict> {
        if self.is_nameless() {
            return Ok(Verdict::Exempt(match self.call.object {
                ObjectArgument::Address(..) => StandIn::Bind(self.address.clone()),
                _ => StandIn::Fail(Errno::ENOENT),
            }));
        }
        let target = self.target()?;
        let errno = match target.place.found {
            Found::Unreachable(errno) => errno,
            // In procfs, unknown names do not exist.
            Found::Nothing if target.place.path.starts_with("/proc") => Errno::ENOENT,
            Found::Nothing => Errno::EROFS,
            // It exists already (mkdir -p): the call would change nothing on any file system.
            _ => {
                let errno = match self.call.object {
                    ObjectArgument::Address(..) => Errno::EADDRINUSE,
                    _ => Errno::EEXIST,
                };
                return Ok(Verdict::Exempt(StandIn::Fail(errno)));
            }
        };
        self.verdict(Some(target), errno)
    }

    fn remove(&self) -> ReadResult<Verdict> {
        if self.is_nameless() {
            return Ok(Verdict::Exempt(StandIn::Fail(Errno::ENOENT)));
        }
        let (target, other) = (self.target()?, self.other_target()?);
        let is_a_device = |target: &Target| is_device(target.place.path.as_os_str().as_bytes());
        // A device that is renamed would replace something else, or appear somewhere else.
        if is_a_device(&target) && other.as_ref().is_none_or(is_a_device) {
            return Ok(Verdict::Exempt(StandIn::Fail(Errno::EACCES)));
        }
        let errno = match target.place.found {
            Found::Unreachable(errno) => errno,
            _ => Errno::EROFS,
        };
        self.verdict(Some(target), errno)
    }

    fn change(&self) -> ReadResult<Verdict> {
        if self.call.is_missing() {
            return self.verdict(self.target().ok(), Errno::ENOSYS);
        }
        if self.keeps_times()? {
            return Ok(Verdict::Exempt(StandIn::Succeed));
        }
        let has_no_name = self.name.is_none() || self.call.takes_no_name(&self.arguments);
        if self.is_nameless() && !has_no_name {
            return Ok(Verdict::Exempt(StandIn::Fail(Errno::ENOENT)));
        }
        let target = self.target()?;
        if let Some(errno) = self.exempt_errno(&target.place) {
            return Ok(Verdict::Exempt(StandIn::Fail(errno)));
        }
        let request = match self.call.number() {
            libc::SYS_ioctl => ioctls::of(self.arguments[1]),
            _ => None,
        };
        let errno = match (target.place.found, request) {
            (Found::Unreachable(errno), _) => errno,
            (Found::Nothing, _) => Errno::ENOENT,
            (_, Some(request)) => request.errno(self.caller, &target, self.arguments[2])?,
            (_, None) => Errno::EROFS,
        };
        let mut verdict = self.verdict(Some(target), errno)?;
        if let Verdict::Change(change) = &mut verdict {
            change.argument = request.map(|request| request.name.into());
        }
        Ok(verdict)
    }

    /// Returns the errno of a change of attributes that would change no file system.
    fn exempt_errno(&self, place: &Place) -> Option<Errno> {
        match (place.found, self.call.name) {
            // These cannot be truncated on any file system.
            (Found::Directory, "truncate") => Some(Errno::EISDIR),
            (Found::Stream, "truncate") => Some(Errno::EINVAL),
            // Another thread could put a file in its place before the kernel looks.
            (Found::Outside, "ioctl") => Some(Errno::ENOTTY),
            (Found::Outside, _) => Some(Errno::EPERM),
            _ if is_device(place.path.as_os_str().as_bytes()) => Some(Errno::EACCES),
            _ => None,
        }
    }

    /// Returns true for a utimensat(2) that leaves both times unchanged.
    fn keeps_times(&self) -> ReadResult<bool> {
        if self.call.number() != libc::SYS_utimensat || self.arguments[2] == 0 {
            return Ok(false);
        }
        // Two struct timespec: seconds and nanoseconds.
        let times: [u8; 32] = self.caller.array(self.arguments[2])?;
        let leave = (libc::UTIME_OMIT as u64).to_ne_bytes();
        Ok(times[8..16] == leave && times[24..] == leave)
    }

    fn write(&self) -> ReadResult<Verdict> {
        let target = self.target()?;
        let shortens = self.call.number() == libc::SYS_ftruncate;
        let errno = match (target.place.found, shortens) {
            (Found::Outside, true) => return Ok(Verdict::Exempt(StandIn::Truncate)),
            // Memory that imrun allocated for the app would be charged to imrun.
            (Found::Outside, false) => {
                return Ok(Verdict::Exempt(StandIn::Fail(Errno::EOPNOTSUPP)));
            }
            (Found::Stream, true) => return Ok(Verdict::Exempt(StandIn::Fail(Errno::EINVAL))),
            (Found::Stream, false) => return Ok(Verdict::Exempt(StandIn::Fail(Errno::ENODEV))),
            // The kernel checks the descriptor, which is open for reading only.
            (_, true) => Errno::EINVAL,
            (_, false) if (self.arguments[2] as i64) < 0 => Errno::EINVAL,
            (_, false) if self.arguments[3] as i64 <= 0 => Errno::EINVAL,
            (_, false) => Errno::EBADF,
        };
        self.verdict(Some(target), errno)
    }

    /// Returns the verdict on a change that fails with `errno`, or with another errno that the second
    /// name causes.
    fn verdict(&self, target: Option<Target>, errno: Errno) -> ReadResult<Verdict> {
        let other = self.other_target()?;
        let missing = match (
            self.call.action,
            other.as_ref().map(|other| other.place.found),
        ) {
            (Action::Make, Some(Found::Unreachable(errno))) => Some(errno),
            (Action::Make, Some(Found::Nothing)) => Some(Errno::ENOENT),
            (Action::Remove, Some(Found::Unreachable(errno))) => Some(errno),
            _ => None,
        };
        let targets = [target.as_ref(), other.as_ref()];
        let missing = missing.or_else(|| match targets {
            [Some(from), Some(to)] if self.call.action == Action::Remove => {
                (mount(&from.place.path) != mount(&to.place.path)).then_some(Errno::EXDEV)
            }
            _ => None,
        });
        Ok(Verdict::Change(Change {
            is_per_process: targets.iter().flatten().any(|target| target.is_per_process),
            errno: Some(missing.unwrap_or(errno)),
            place: target.map(|target| target.place),
            other: other.map(|target| target.place.path),
            argument: self
                .link
                .as_ref()
                .map(|link| String::from_utf8_lossy(link).into_owned()),
            ..Change::default()
        }))
    }

    /// Returns true if the name is empty or missing.
    fn is_nameless(&self) -> bool {
        self.name.as_ref().is_none_or(Vec::is_empty)
    }

    fn target(&self) -> ReadResult<Target> {
        let follow = !self.call.acts_on_link(&self.arguments);
        self.resolve(self.call.object, self.name.as_deref(), follow)
    }

    fn other_target(&self) -> ReadResult<Option<Target>> {
        let Some(object) = self.call.other else {
            return Ok(None);
        };
        // A flag of linkat(2); the other calls have no such flag and do not follow links.
        let follows = self.call.at_flags(&self.arguments) & libc::AT_SYMLINK_FOLLOW != 0;
        self.resolve(object, self.other.as_deref(), follows)
            .map(Some)
    }

    fn resolve(
        &self,
        object: ObjectArgument,
        name: Option<&[u8]>,
        follow: bool,
    ) -> ReadResult<Target> {
        let name = name.unwrap_or_default();
        let directory = match object {
            ObjectArgument::Descriptor(place) => {
                return self.caller.descriptor(self.arguments[place] as i32);
            }
            ObjectArgument::At(directory, _) => self.arguments[directory] as i32,
            _ => libc::AT_FDCWD,
        };
        // futimens(3) and AT_EMPTY_PATH mean the descriptor itself.
        if name.is_empty() && directory != libc::AT_FDCWD {
            return self.caller.descriptor(directory);
        }
        if name.starts_with(b"/") {
            walk(self.caller, Path::new("/"), name, follow)
        } else {
            walk(
                self.caller,
                &self.caller.directory(directory)?,
                name,
                follow,
            )
        }
    }

    /// Returns the properties that equal attempts share.
    pub fn key(&self, change: &Change) -> Key {
        let object = match (change.is_unread, &change.place) {
            (true, _) => Object::Unread,
            (false, Some(place)) => Object::Place(place.path.clone()),
            (false, None) => Object::Name(self.name.clone().unwrap_or_default()),
        };
        Key {
            number: self.call.number() as u32,
            flags: self.flags().unwrap_or(0),
            object,
            other: change.other.clone(),
            argument: change.argument.clone(),
            errno: change.errno.map(|errno| errno as i32),
        }
    }
}

/// Returns true for the image's files: their superblock is read-only, not just the mount.
fn in_root(path: &Path) -> bool {
    mount(path) == "/"
}

/// Returns the mount point of the file system that a path is in.
fn mount(path: &Path) -> &'static str {
    let others = ["/proc", "/sys/fs/cgroup", "/sys"];
    let other = others.into_iter().find(|other| path.starts_with(other));
    other.unwrap_or("/")
}

/// Returns true for a sysctl that belongs to the root of the ipc namespace.
fn is_of_ipc_namespace(path: &Path) -> bool {
    let name = path
        .strip_prefix("/proc/sys/kernel")
        .ok()
        .and_then(Path::to_str);
    let objects = ["shm", "msg", "sem"];
    path.starts_with("/proc/sys/fs/mqueue")
        || name.is_some_and(|name| objects.iter().any(|object| name.starts_with(object)))
}

/// Returns true for the devices that every container has, by their usual names. Programs are meant to
/// write to them: whoever opens one does not want a file.
fn is_device(path: &[u8]) -> bool {
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

/// The outcome of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// The open would change something, and fails.
    Fails(Errno),
    /// The open fails on a writable file system as well.
    ChangesNothing(Errno),
    /// The open works.
    Succeeds,
}

/// Returns the outcome of an open. The order of the checks is the kernel's (Linux, fs/namei.c,
/// fs/open.c).
fn open_outcome(flags: i32, place: &Place) -> Opened {
    use Opened::{ChangesNothing, Fails, Succeeds};
    let has = |flag| flags & flag == flag;
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || has(libc::O_TRUNC);
    match place.found {
        Found::Unreachable(errno) => Fails(errno),
        Found::Directory if has(libc::O_TMPFILE) => Fails(Errno::EROFS),
        Found::Nothing if !has(libc::O_CREAT) || has(libc::O_TMPFILE) => Fails(Errno::ENOENT),
        // In procfs, unknown names do not exist.
        Found::Nothing if place.path.starts_with("/proc") => Fails(Errno::ENOENT),
        Found::Nothing => Fails(Errno::EROFS),
        _ if has(libc::O_CREAT | libc::O_EXCL) => ChangesNothing(Errno::EEXIST),
        Found::Directory => ChangesNothing(Errno::EISDIR),
        Found::Link => ChangesNothing(Errno::ELOOP),
        _ if has(libc::O_DIRECTORY) => ChangesNothing(Errno::ENOTDIR),
        Found::File if writes => Fails(Errno::EROFS),
        // Devices and the targets of descriptors may be written to.
        Found::File | Found::Stream | Found::Outside => Succeeds,
    }
}

/// Returns the bits of a file's mode that an open needs: 4 to read, 2 to write.
pub fn access(flags: i32) -> u32 {
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => 4,
        libc::O_WRONLY => 2,
        _ => 6,
    }
}

/// Returns the path of a Unix socket address; empty for any other family and for an abstract address
/// (unix(7)).
fn socket_path(address: &[u8]) -> Vec<u8> {
    let unix = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes();
    let path = address.strip_prefix(&unix).unwrap_or_default();
    let end = path.iter().position(|byte| *byte == 0);
    path[..end.unwrap_or(path.len())].to_vec()
}

/// Returns the names of an open(2)'s main flags, as its manual page spells them.
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
    use libc::{
        O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
    };

    #[test]
    fn an_open_gets_the_errno_of_the_kernel() {
        use Found::{Directory, File, Link, Nothing, Stream, Unreachable};
        use Opened::{ChangesNothing, Fails, Succeeds};
        for (flags, found, comes_to) in [
            (O_WRONLY, File, Fails(Errno::EROFS)),
            (O_WRONLY | O_CREAT, Nothing, Fails(Errno::EROFS)),
            (O_WRONLY, Nothing, Fails(Errno::ENOENT)),
            (O_RDONLY | O_CREAT, File, Succeeds),
            (O_RDONLY | O_TRUNC, File, Fails(Errno::EROFS)),
            (
                O_RDWR | O_CREAT | O_EXCL,
                File,
                ChangesNothing(Errno::EEXIST),
            ),
            (O_RDWR | O_TMPFILE, Directory, Fails(Errno::EROFS)),
            (O_WRONLY, Directory, ChangesNothing(Errno::EISDIR)),
            (O_WRONLY | O_NOFOLLOW, Link, ChangesNothing(Errno::ELOOP)),
            (O_WRONLY | O_DIRECTORY, File, ChangesNothing(Errno::ENOTDIR)),
            (
                O_WRONLY | O_CREAT,
                Unreachable(Errno::ENOTDIR),
                Fails(Errno::ENOTDIR),
            ),
            (O_WRONLY | O_CREAT | O_TRUNC, Stream, Succeeds),
        ] {
            let place = Place {
                path: "/x".into(),
                nearest: "/".into(),
                found,
                rights: None,
            };
            let names = flag_names(flags);
            assert_eq!(open_outcome(flags, &place), comes_to, "{names}, {found:?}");
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

    #[test]
    fn only_a_unix_address_that_is_not_abstract_has_a_path() {
        let unix = (libc::AF_UNIX as u16).to_ne_bytes();
        let address = |path: &[u8]| [&unix, path].concat();
        assert_eq!(socket_path(&address(b"/a/b\0rest")), b"/a/b");
        assert_eq!(socket_path(&address(b"a")), b"a");
        assert_eq!(socket_path(&address(b"\0abstract")), b"");
        assert_eq!(socket_path(&address(b"")), b"");
        let inet = (libc::AF_INET as u16).to_ne_bytes();
        assert_eq!(socket_path(&[&inet, &b"/a"[..]].concat()), b"");
        assert_eq!(socket_path(&[]), b"");
    }
}
