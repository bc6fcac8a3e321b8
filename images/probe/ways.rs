//! Every way to change something, one row for each: what is tried, what the kernel should say, whether
//! imrun should tell of it, and why what is allowed or not told may be so.
//!
//! The image has /probe, the directory /home, and the link /link to /probe.

mod descriptors;
mod files;
mod kernel;
mod process;

use super::{Attempt, call, errno, text};
use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io::Error;

pub const HERE: c_long = -100; // AT_FDCWD
pub const NULL: c_long = 0;
pub const MODE: c_long = 0o644;
pub const RDONLY: c_long = 0;
pub const WRONLY: c_long = 0o1;
pub const RDWR: c_long = 0o2;
pub const CREAT: c_long = 0o100;
pub const EXCL: c_long = 0o200;
pub const TRUNC: c_long = 0o1000;
pub const APPEND: c_long = 0o2000;
pub const DIRECTORY: c_long = 0o200_000;
pub const NOFOLLOW: c_long = 0o400_000;
pub const PATH: c_long = 0o10_000_000;
pub const TMPFILE: c_long = 0o20_200_000;
pub const EMPTY_PATH: c_long = 0x1000;
pub const NOEXEC_SEAL: c_long = 8;

/// Descriptors that the rows share, all open for reading alone.
pub struct Lab {
    /// Descriptor of /probe.
    pub file: c_long,
    /// Descriptor of /home.
    pub home: c_long,
}

/// The report that imrun should make of a way.
#[derive(Clone, Copy)]
enum Tells {
    /// An attempt: call, place and argument.
    Attempt(&'static str, &'static str, &'static str),
    Nothing,
}

/// One way.
#[derive(Clone, Copy)]
pub struct Way {
    name: &'static str,
    /// `ok` or an errno; several where kernels, drivers or hosts differ.
    outcome: &'static str,
    /// The same under `kill` and `check`, where no call passes for its name alone.
    strict: &'static str,
    tells: Tells,
    /// True if it would change the process alone: it does not end a container under `kill`.
    is_of_process: bool,
    why: &'static str,
    attempt: fn(&Lab) -> Attempt,
}

type Try = fn(&Lab) -> Attempt;

/// Refused and told, with the place that it is about.
pub const fn told(
    name: &'static str,
    outcome: &'static str,
    syscall: &'static str,
    place: &'static str,
    attempt: Try,
) -> Way {
    Way {
        name,
        outcome,
        strict: outcome,
        tells: Tells::Attempt(syscall, place, "-"),
        is_of_process: false,
        why: "",
        attempt,
    }
}

/// Refused by the kernel or the filter, and no attempt to change a file system.
pub const fn refused(
    name: &'static str,
    outcome: &'static str,
    why: &'static str,
    attempt: Try,
) -> Way {
    Way {
        tells: Tells::Nothing,
        why,
        ..told(name, outcome, "", "", attempt)
    }
}

/// Allowed, for this reason.
pub const fn allowed(name: &'static str, why: &'static str, attempt: Try) -> Way {
    refused(name, "ok", why, attempt)
}

impl Way {
    /// Adds the argument that imrun reports.
    pub const fn with(mut self, argument: &'static str) -> Way {
        if let Tells::Attempt(syscall, place, _) = self.tells {
            self.tells = Tells::Attempt(syscall, place, argument);
        }
        self
    }

    /// Marks it as a change of the process alone.
    pub const fn of_process(mut self) -> Way {
        self.is_of_process = true;
        self
    }

    /// Sets the outcome under `kill` and `check`.
    pub const fn strictly(mut self, outcome: &'static str) -> Way {
        self.strict = outcome;
        self
    }
}

fn ways() -> impl Iterator<Item = &'static Way> {
    let groups = [files::WAYS, descriptors::WAYS, kernel::WAYS, process::WAYS];
    groups.into_iter().flatten().copied().flatten()
}

fn lab() -> Lab {
    let open = |path: &CStr| call(2, [text(path), 0, 0, 0, 0, 0]).unwrap();
    Lab { file: open(c"/probe"), home: open(c"/home") }
}

/// Tries them all, or those alone that never end a container; a line of fields with tabs between them
/// for each: name, outcome, expected, expected under `kill` and `check`, call, place and argument to be
/// told (`-`: none), whether it is of the process, why.
pub fn try_all(harmless: bool) {
    let lab = lab();
    for way in ways() {
        let told = match way.tells {
            Tells::Attempt(call, place, argument) => [call, place, argument],
            Tells::Nothing => ["-"; 3],
        };
        if harmless && told[0] != "-" && !way.is_of_process {
            continue;
        }
        let outcome = match (way.attempt)(&lab) {
            Ok(_) => "ok".to_owned(),
            Err(error) => errno(&error),
        };
        let is_of_process = way.is_of_process.to_string();
        let fields = [
            &[way.name, &outcome, way.outcome, way.strict][..],
            &told,
            &[&is_of_process, way.why],
        ];
        println!("{}", fields.concat().join("\t"));
    }
}

/// Tries the one of that name.
pub fn try_one(name: &str) -> Attempt {
    let way = ways().find(|way| way.name == name);
    (way.unwrap_or_else(|| panic!("{name:?} is no way")).attempt)(&lab())
}

/// Tries those that are told, and fail with the same errno on every kernel; a line `CALL ERRNO PATH` for
/// each.
pub fn try_changes() {
    let lab = lab();
    for way in ways().filter(|way| !way.outcome.contains('|')) {
        if let Tells::Attempt(call, place, _) = way.tells {
            let outcome = (way.attempt)(&lab);
            let errno = outcome.map_or_else(|error| error.raw_os_error().unwrap(), |_| 0);
            println!("{call} {errno} {place}");
        }
    }
}

/// A call with the arguments that are given, and zeros.
pub fn sys(number: c_long, given: &[c_long]) -> Attempt {
    let mut arguments = [0; 6];
    arguments[..given.len()].copy_from_slice(given);
    call(number, arguments)
}

pub fn open(path: &CStr, flags: c_long) -> Attempt {
    sys(2, &[text(path), flags, MODE])
}

/// Opens a file for writing, as a shell does, and writes to it.
pub fn write_to(path: &CStr, bytes: &[u8]) -> Attempt {
    let file = sys(257, &[HERE, text(path), WRONLY])?;
    let written = sys(1, &[file, address(bytes), bytes.len() as c_long]);
    sys(3, &[file])?;
    written
}

/// The address of what is behind a reference; it has to live as long as the call.
pub fn address<T: ?Sized>(what: &T) -> c_long {
    std::ptr::from_ref(what).cast::<u8>() as c_long
}

/// The path of a link to a descriptor of this process.
pub fn link_to(descriptor: c_long) -> &'static CStr {
    Box::leak(CString::new(format!("/proc/self/fd/{descriptor}")).unwrap().into_boxed_c_str())
}

/// A new memory file.
pub fn memory() -> Attempt {
    sys(319, &[text(c"memory"), NOEXEC_SEAL])
}

/// A pipe's ends.
pub fn pipe() -> Result<[c_long; 2], Error> {
    let mut ends = [0 as c_int; 2];
    sys(22, &[address(&mut ends)])?;
    Ok(ends.map(c_long::from))
}

pub fn failed(errno: i32) -> Attempt {
    Err(Error::from_raw_os_error(errno))
}

/// A socket of a family, and a bind of it to the bytes of an address behind the family's number.
pub fn bind(family: u16, kind: c_long, protocol: c_long, rest: &[u8]) -> Attempt {
    let socket = sys(41, &[c_long::from(family), kind, protocol])?;
    let address_bytes = [&family.to_ne_bytes(), rest].concat();
    let bound = sys(49, &[socket, address(&address_bytes[..]), address_bytes.len() as c_long]);
    sys(3, &[socket])?;
    bound
}

/// Does something in a child; what that says is the errno, or 0.
pub fn in_child(attempt: impl FnOnce() -> Attempt) -> Attempt {
    let pid = sys(57, &[])?;
    if pid == 0 {
        let code = attempt().map_or_else(|error| error.raw_os_error().unwrap(), |_| 0);
        let _ = sys(231, &[c_long::from(code)]);
    }
    let mut status: c_int = 0;
    sys(61, &[pid, address(&mut status), 0, NULL])?;
    match status >> 8 & 0xff {
        0 => Ok(0),
        code => failed(code),
    }
}

/// A null-terminated list of strings.
pub const EMPTY_LIST: [*const c_char; 1] = [std::ptr::null()];
