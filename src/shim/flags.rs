//! Arguments of a shim, in the syntax of Go's flag package.

use crate::base::error::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// Action of the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start the pod's shim, unless it runs.
    Start,
    /// Clean up after a shim that was killed.
    Delete,
    /// Run as the shim.
    Serve,
    /// Print the version.
    Version,
    /// Print the runtime's features.
    Info,
}

/// Parsed arguments.
#[derive(Debug)]
pub struct Flags {
    /// Action of the shim.
    pub action: Action,
    /// Namespace in containerd.
    pub namespace: String,
    /// Container ID.
    pub id: String,
    /// Directory of the bundle, which is the working directory too.
    pub bundle: PathBuf,
    /// Socket of containerd's gRPC services.
    pub address: String,
    /// Socket of the pod's shim.
    pub socket: PathBuf,
}

impl Flags {
    /// Parses `-name value` and `--name=value`, then the action.
    pub fn parse(args: &[OsString]) -> Result<Flags> {
        let mut flags = Flags {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            bundle: PathBuf::new(),
            address: String::new(),
            socket: PathBuf::new(),
        };
        let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            let Some(name) = arg.strip_prefix('-') else {
                flags.action = action(&arg)?;
                continue;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            match name {
                "v" | "version" => flags.action = Action::Version,
                "info" => flags.action = Action::Info,
                "debug" => {}
                _ => {
                    let value = value.or_else(|| args.next());
                    let value = value.ok_or_else(|| wrong(&arg, "has no value"))?;
                    flags.set(name, value)?;
                }
            }
        }
        flags.check()
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "bundle" => self.bundle = value.into(),
            "address" => self.address = value,
            "socket" => self.socket = value.into(),
            // Unused: events go to the ttrpc address.
            "publish-binary" => {}
            _ => {
                return Err(wrong(
                    format_args!("-{name}"),
                    "is not an argument of a shim",
                ));
            }
        }
        Ok(())
    }

    /// Checks the namespace and the ID, which become parts of paths.
    fn check(self) -> Result<Flags> {
        let plain = |text: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            !text.is_empty() && !text.starts_with('.') && text.bytes().all(allowed)
        };
        match self.action {
            Action::Version | Action::Info => Ok(self),
            _ if !plain(&self.namespace) => Err(wrong(
                "-namespace",
                "is not a valid namespace of containerd",
            )),
            _ if !plain(&self.id) => Err(wrong("-id", "is not a valid ID of containerd")),
            _ => Ok(self),
        }
    }
}

fn action(word: &str) -> Result<Action> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        _ => Err(wrong(word, "expected start or delete")),
    }
}

fn wrong(what: impl std::fmt::Display, why: &str) -> Error {
    Error::usage(what, why).hint("containerd starts this program: docs/containerd.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Flags> {
        let words: Vec<_> = words.split(' ').map(OsString::from).collect();
        Flags::parse(&words)
    }

    #[test]
    fn the_arguments_of_containerd_are_read() {
        let words = "-namespace k8s.io --address=/run/c.sock -publish-binary /usr/bin/containerd -id one -debug start";
        let flags = parse(words).unwrap();
        assert_eq!(flags.action, Action::Start);
        assert_eq!((&*flags.namespace, &*flags.id), ("k8s.io", "one"));
        assert_eq!(flags.address, "/run/c.sock");
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn names_that_would_leave_a_directory_are_refused() {
        for words in [
            "-namespace .. -id one",
            "-namespace a/b -id one",
            "-namespace a -id ../b",
            "-namespace a",
            "-namespace a -id one restore",
            "-namespace",
            "-namespace a -id one -other x",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
