//! The error type: object, cause, hint and exit code.

use nix::poll::{PollFd, PollFlags, poll};
use std::fmt;
use std::io::Write as _;
use std::os::fd::AsFd as _;

/// Result of every operation that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a launch or a command was refused; the `reason` of a `refused` status event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Content does not match its digest, size or format.
    Digest,
    /// The sink cannot be reached, or did not acknowledge.
    Sink,
    /// imrun does not do this, by design.
    Policy,
    /// The host lacks a feature.
    Unsupported,
    /// The command line, a definition or an environment value is wrong.
    Usage,
    /// A system call failed.
    System,
}

impl Reason {
    /// Returns the name in status events.
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

/// imrun refused or failed before anything of the image ran; also wrong usage.
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
/// The entrypoint does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Log target of hints, which belong to the message before them.
pub const HINT: &str = "imrun::hint";

/// An error is one line, `WHAT: WHY`, and perhaps a hint.
///
/// It names the digest, path, setting or system call with its arguments, and never contains an environment value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Class of the error, for `--status-fd`.
    pub reason: Reason,
    /// Object: a digest, a path, a setting, a call with its arguments.
    pub what: String,
    /// Cause.
    pub why: String,
    /// Remedy.
    pub hint: Option<String>,
    /// Exit code of a command that ends with this error.
    pub exit: u8,
}

impl Error {
    /// Returns an error with exit code 125.
    pub fn new(reason: Reason, what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Error {
            reason,
            what: one_line(what),
            why: one_line(why),
            hint: None,
            exit: EXIT_REFUSED,
        }
    }

    /// Returns an error about content that does not match its digest, size or format.
    pub fn digest(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Digest, what, why)
    }

    /// Returns an error about a sink that cannot be reached or does not acknowledge.
    pub fn sink(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Sink, what, why)
    }

    /// Returns an error about something that imrun does not do, by design.
    pub fn policy(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Policy, what, why)
    }

    /// Returns an error about a feature that this host lacks.
    pub fn unsupported(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Unsupported, what, why)
    }

    /// Returns an error about a wrong argument, definition or environment value.
    pub fn usage(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Reason::Usage, what, why)
    }

    /// Returns an error about a failed call: `what` is the call with its arguments, `why` its error.
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

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(one_line(hint));
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub fn exit(mut self, code: u8) -> Self {
        self.exit = code;
        self
    }
}

/// Escapes control characters, so that a hostile name can neither forge a second line nor control the terminal.
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

/// Time limit for the reader of standard error to make room, in milliseconds.
const PATIENCE: u16 = 1000;

/// Writes to standard error. A reader that is gone or reads nothing neither ends imrun nor delays it for long.
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

/// Adds the failed call, with its arguments, to an error.
pub trait Context<T> {
    /// Converts the error to a system error about `what`.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::system(what(), reason_of(&e.into())))
    }
}

/// Returns the text of an OS error without Rust's "(os error N)".
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
