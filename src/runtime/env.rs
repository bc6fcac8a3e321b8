//! Environment of the app: image `Env` < `--env-file` < `--env`, nothing else.
//!
//! Values are treated as secrets: no error and no `Debug` output contains one.

mod contract;
mod fingerprint;

pub use contract::{Contract, Requirement};
pub use fingerprint::{fingerprint, fingerprint_key};

use crate::base::error::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// Maximum length of `NAME=VALUE` or of an argument, in bytes: MAX_ARG_STRLEN (32 pages) without its NUL,
/// execve(2).
pub const MAX_ENTRY: usize = 131_071;
/// Maximum length of arguments and environment together, in bytes: a quarter of the usual 8 MiB stack,
/// execve(2).
pub const MAX_TOTAL: usize = 2 << 20;
/// Additional bytes per string: the NUL and the pointer to it.
const OVERHEAD: usize = 1 + size_of::<usize>();

/// Names and values, each name once, in the order of their first mention.
#[derive(Clone, Default)]
pub struct Environment {
    entries: Vec<(OsString, OsString)>,
    places: HashMap<OsString, usize>,
}

impl Environment {
    /// Makes an empty environment.
    pub fn new() -> Environment {
        Environment::default()
    }

    /// Sets one variable; `source` names its origin in errors.
    pub fn set(&mut self, source: &str, name: &OsStr, value: &OsStr) -> Result<()> {
        check_name(source, name)?;
        let length = name.len() + 1 + value.len();
        let wrong = |why: &dyn fmt::Display| Err(Error::usage(variable(source, name), why));
        if value.as_bytes().contains(&0) {
            return wrong(&"the value contains a NUL byte");
        }
        if length > MAX_ENTRY {
            return wrong(&format_args!(
                "is {length} bytes long with its name, the kernel's limit is {MAX_ENTRY}"
            ));
        }
        match self.places.get(name) {
            Some(&place) => self.entries[place].1 = value.to_owned(),
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(())
    }

    /// Adds the `NAME=VALUE` entries of an image config.
    pub fn add_image(&mut self, entries: &[String]) -> Result<()> {
        const SOURCE: &str = "image environment";
        for (index, entry) in entries.iter().enumerate() {
            let Some((name, value)) = entry.split_once('=') else {
                return Err(Error::usage(
                    format_args!("{SOURCE}, entry {}", index + 1),
                    "has no `=`",
                ));
            };
            self.set(SOURCE, name.as_ref(), value.as_ref())?;
        }
        Ok(())
    }

    /// Adds the variables of an `--env-file` named `file`; `caller` looks up the caller's own
    /// environment.
    ///
    /// The syntax is Docker's. A line is `NAME=VALUE`, taken literally, or `NAME`, which takes the
    /// caller's value or nothing if the caller has none. `#` begins a comment line. Quotes have no
    /// meaning.
    pub fn add_file(
        &mut self,
        file: &str,
        bytes: &[u8],
        caller: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<()> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            let source = format!("{file}, line {}", index + 1);
            let name = line.split(|b| *b == b'=').next().unwrap_or(line);
            if name.iter().any(u8::is_ascii_whitespace) {
                return Err(Error::usage(source, "the name contains white space"));
            }
            self.add(&source, line, &caller)?;
        }
        Ok(())
    }

    /// Adds the operand of an `--env`: `NAME=VALUE`, or `NAME` with the caller's value.
    pub fn add_argument(
        &mut self,
        argument: &OsStr,
        caller: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<()> {
        self.add("--env", argument.as_bytes(), &caller)
    }

    fn add(
        &mut self,
        source: &str,
        entry: &[u8],
        caller: &impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<()> {
        if let Some(equals) = entry.iter().position(|b| *b == b'=') {
            let (name, value) = (&entry[..equals], &entry[equals + 1..]);
            return self.set(source, OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
        let name = OsStr::from_bytes(entry);
        check_name(source, name)?;
        match caller(name) {
            Some(value) => self.set(source, name, &value),
            None => Ok(()),
        }
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        let place = self.places.get(name.as_ref())?;
        Some(&self.entries[*place].1)
    }

    /// Returns all variables, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Returns the `NAME=VALUE` strings for execve(2).
    pub fn to_strings(&self) -> Vec<CString> {
        let join = |(name, value): (&OsStr, &OsStr)| {
            let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
            CString::new(entry).expect("`set` refuses NUL in names and values")
        };
        self.iter().map(join).collect()
    }

    /// Refuses an environment that, together with `arguments`, is too large for execve(2).
    pub fn check_size(&self, arguments: &[impl AsRef<[u8]>]) -> Result<()> {
        let lengths = || arguments.iter().map(|argument| argument.as_ref().len());
        if let Some(index) = lengths().position(|length| length > MAX_ENTRY) {
            let why = format_args!("is longer than {MAX_ENTRY} bytes, the kernel's limit");
            return Err(Error::usage(format_args!("argument {index}"), why));
        }
        let variables = self
            .iter()
            .map(|(name, value)| name.len() + 1 + value.len());
        let total: usize = variables
            .chain(lengths())
            .map(|length| length + OVERHEAD)
            .sum();
        if total > MAX_TOTAL {
            let why = format_args!("are {total} bytes together, the kernel's limit is {MAX_TOTAL}");
            return Err(Error::usage("arguments and environment", why));
        }
        Ok(())
    }
}

impl fmt::Debug for Environment {
    /// Formats the names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|(name, _)| name))
            .finish()
    }
}

fn variable(source: &str, name: &OsStr) -> String {
    format!("{source}, variable {}", name.to_string_lossy())
}

fn check_name(source: &str, name: &OsStr) -> Result<()> {
    if name.is_empty() {
        return Err(Error::usage(source, "a variable has no name"));
    }
    if name.as_bytes().iter().any(|b| matches!(b, 0 | b'=')) {
        return Err(Error::usage(
            variable(source, name),
            "a name contains neither `=` nor NUL",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
