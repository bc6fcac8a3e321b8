//! The one error type: what failed, why, what can be done, and the exit code that tells it.

use nix::poll::{PollFd, PollFlags, poll};
use std::fmt;
use std::io::Write as _;
use std::os::fd::AsFd as _;

/// The outcome of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a launch or a command was refused; the `reason` of a `refused` status event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Bytes are not those that a digest, a size or a format promises.
    Digest,
    /// The log sink cannot be reached, or did not acknowledge.
    Sink,
    /// It is understood, and imrun does not do it.
    Policy,
    /// The host lacks what was asked for.
    Unsupported,
    /// The command line, a definition or an environment value is wrong.
    Usage,
    /// A system call failed.
    System,
}

impl Reason {
    /// The word used in status events.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Digest => "digest",
            Reason::Sink => "sink",
            Reason::Policy => "policy",
            Reason::Unsupported => "unsupported",
            Reason::Usage => "usage",
            Reason::System => "system",
        }
    }
}

/// imrun refused or failed before anything of the image ran; wrong usage too.
pub const EXIT_REFUSED: u8 = 125;
/// imrun itself failed after the start, and ended the container.
pub const EXIT_FAILED: u8 = 121;
/// A side effect, under `--on-write kill`.
pub const EXIT_SIDE_EFFECT: u8 = 122;
/// The sink stayed stalled, under `--on-stall kill`.
pub const EXIT_STALLED: u8 = 123;
/// Lines were lost at exit, where the app itself ended with 0.
pub const EXIT_LOST: u8 = 124;
/// The entrypoint cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The entrypoint is not there.
pub const EXIT_NOT_FOUND: u8 = 127;

/// The target of a log message that says what can be done about the one before it.
pub const HINT: &str = "imrun::hint";

/// An error is one line, `WHAT: WHY`, and perhaps a hint.
///
/// It names the digest, path, setting or system call with its arguments, never an environment value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Sorts the error for `--status-fd`.
    pub reason: Reason,
    /// The object: a digest, a path, a setting, a call with its arguments.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What can be done about it.
    pub hint: Option<String>,
    /// The exit code of a command that ends with this error.
    pub exit: u8,
}

impl Error {
    /// An error of the given sort, exit code 125.
    pub fn new(reason: Reason, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error {
            reason,
            what: one_line(what),
            why: one_line(why),
            hint: None,
            exit: EXIT_REFUSED,
        }
    }

    /// Bytes that are not what a digest, size or format promises.
    pub fn digest(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Digest, what, why)
    }

    /// A sink that cannot be reached or does not acknowledge.
    pub fn sink(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Sink, what, why)
    }

    /// Something that imrun does not do, by design.
    pub fn policy(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Policy, what, why)
    }

    /// Something that this host lacks.
    pub fn unsupported(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Unsupported, what, why)
    }

    /// A wrong argument, definition or environment value.
    pub fn usage(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Usage, what, why)
    }

    /// A failed call: `what` is the call with its arguments, `why` its error.
    pub fn system(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::System, what, why)
    }

    /// The same error about `what`, where it does not name anything yet.
    #[must_use]
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        if self.what.is_empty() {
            self.what = one_line(what);
        }
        self
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(one_line(hint));
        self
    }

    /// The same error with another exit code.
    #[must_use]
    pub fn exit(mut self, code: u8) -> Self {
        self.exit = code;
        self
    }
}

/// A hostile name must not forge a second line or drive the terminal.
fn one_line(text: impl fmt::Display) -> String {
    let text = text.to_string();
    if !text.contains(|c: char| c.is_control()) {
        return text;
    }
    text.chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Error {}

/// How long whoever reads standard error may take nothing.
const PATIENCE: u16 = 1000;

/// Writes to standard error. Whoever reads it may be gone, or take nothing: neither ends imrun, nor
/// holds it up for long.
pub fn say(text: &str) {
    let stderr = std::io::stderr();
    // In one write where a pipe takes it: others that share it do not come in between. More than a page
    // might wait in a pipe that has room.
    for piece in text.as_bytes().chunks(4096) {
        let mut set = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let is_ready = poll(&mut set, PATIENCE).is_ok_and(|ready| ready > 0);
        if !is_ready || stderr.lock().write_all(piece).is_err() {
            return;
        }
    }
}

/// Names the call, with its arguments, that an error came from.
pub trait Context<T> {
    /// Turns the error into a system error about `what`.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::system(what(), reason_of(&e.into())))
    }
}

/// The text of an OS error without Rust's "(os error N)".
pub fn reason_of(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_the_name_holds() {
        let error = Error::digest("a\nimrun: all is well\x1b[2J", "no");
        assert_eq!(error.to_string(), "a\\nimrun: all is well\\u{1b}[2J: no");
    }
}
