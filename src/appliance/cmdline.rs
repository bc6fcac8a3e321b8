//! Parser of the kernel command line. It splits words as the kernel does, and reads the parameters `imrun.*`.
//!
//! Source: Linux, lib/cmdline.c (`next_arg`) and Documentation/admin-guide/kernel-parameters.rst.

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::time;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// Maximum length of a command line, including its NUL (COMMAND_LINE_SIZE of x86 and arm64). The kernel truncates
/// a longer one silently.
const MAX_LENGTH: usize = 2048;

/// Default of `imrun.fallback-within`: an app that fails within this time counts as not started.
const FALLBACK_WITHIN: Duration = Duration::from_secs(30);

/// Options of `imrun run` that are parameters, too; true if one can be repeated.
const OPTIONS: [(&str, bool); 19] = [
    ("cap-add", true),
    ("cpus", false),
    ("dns", true),
    ("entrypoint", false),
    ("hostname", false),
    ("integrity", false),
    ("log-buffer", false),
    ("memory", false),
    ("name", false),
    ("net", false),
    ("on-stall", false),
    ("on-write", false),
    ("pids", false),
    ("sink", true),
    ("stall-deadline", false),
    ("stop-signal", false),
    ("stop-timeout", false),
    ("user", false),
    ("workdir", false),
];

/// Action after the app has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// Switch the machine off.
    PowerOff,
    /// Restart the machine.
    Reboot,
    /// Let the kernel panic, which then acts on its parameter `panic=`.
    Panic,
}

/// Location of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// A directory of the initramfs, or a block device.
    Path(PathBuf),
    /// Label of a file system, or name of a partition.
    Label(String),
}

/// Settings of the appliance.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image to launch.
    pub image: Digest,
    /// Image to launch if the first one cannot be started, or fails within [`Settings::fallback_within`].
    pub fallback: Option<Digest>,
    /// Run time below which a failed app makes the fallback start.
    pub fallback_within: Duration,
    /// Store of both images.
    pub store: StoreLocation,
    /// Value of `ip=`.
    pub address: Option<Vec<u8>>,
    /// Options for `imrun run`.
    pub options: Vec<OsString>,
    /// Arguments that replace the image's command.
    pub arguments: Vec<OsString>,
}

/// Reads `imrun.on-exit`. Invalid values are ignored, because the machine must end in any case.
pub fn on_exit(line: &[u8]) -> OnExit {
    let last = words(line).0.into_iter().rev();
    let mut values = last.filter_map(|word| word.value("imrun.on-exit"));
    let value = values.find_map(|value| exit_named(&value));
    value.unwrap_or(OnExit::PowerOff)
}

fn exit_named(value: &[u8]) -> Option<OnExit> {
    match value {
        b"poweroff" => Some(OnExit::PowerOff),
        b"reboot" => Some(OnExit::Reboot),
        b"panic" => Some(OnExit::Panic),
        _ => None,
    }
}

/// Parses the command line.
///
/// # Errors
/// The first parameter `imrun.*` that is unknown, invalid, repeated or missing. The error never contains the value
/// of an `imrun.env.*`.
pub fn parse(line: &[u8]) -> Result<Settings> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() >= MAX_LENGTH - 1 {
        return Err(Error::usage(
            "kernel command line",
            format_args!(
                "is {} bytes long: the kernel has probably truncated it",
                line.len()
            ),
        )
        .hint("move settings into the image"));
    }
    let (words, arguments) = words(line);
    let mut builder = SettingsBuilder::default();
    for word in &words {
        match (word.name.strip_prefix(b"imrun."), &word.value) {
            (Some(name), value) => builder.take(name, value.as_deref())?,
            // The kernel uses the last one, too.
            (None, Some(value)) if word.name == b"ip" => builder.address = Some(value.clone()),
            (None, _) => {}
        }
    }
    builder.finish(arguments)
}

/// Returns the parameters for a module (modprobe(8)), separated by spaces: `NAME.PARAMETER=VALUE` gives
/// `PARAMETER=VALUE`.
pub fn module_parameters(line: &[u8], module: &str) -> Vec<u8> {
    let plain = |name: &[u8]| String::from_utf8_lossy(name).replace('-', "_");
    let mut parameters: Vec<Vec<u8>> = Vec::new();
    for word in words(line).0 {
        let Some(dot) = word.name.iter().position(|byte| *byte == b'.') else {
            continue;
        };
        if plain(&word.name[..dot]) == plain(module.as_bytes()) {
            let name = word.name[dot + 1..].to_vec();
            parameters.push(match word.value {
                Some(value) => [name, value].join(&b'='),
                None => name,
            });
        }
    }
    parameters.join(&b' ')
}

/// A word of the command line: `NAME` or `NAME=VALUE`.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    name: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Word {
    /// Parses a word. Quotes protect white space; they are removed around the word and around the value.
    fn new(text: &[u8]) -> Word {
        let whole = unquoted(text);
        match whole.iter().position(|byte| *byte == b'=') {
            Some(equals) if equals > 0 => Word {
                name: whole[..equals].to_vec(),
                value: Some(unquoted(&whole[equals + 1..]).to_vec()),
            },
            _ => Word {
                name: whole.to_vec(),
                value: None,
            },
        }
    }

    fn value(self, name: &str) -> Option<Vec<u8>> {
        self.value.filter(|_| self.name == name.as_bytes())
    }
}

fn unquoted(text: &[u8]) -> &[u8] {
    match text.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"").unwrap_or(rest),
        None => text,
    }
}

/// Splits a command line into the kernel's words before `--` and the init's arguments after it.
fn words(line: &[u8]) -> (Vec<Word>, Vec<Vec<u8>>) {
    let mut quoted = false;
    let pieces = line.split(|byte| {
        quoted ^= *byte == b'"';
        byte.is_ascii_whitespace() && !quoted
    });
    let mut pieces = pieces.filter(|piece| !piece.is_empty());
    let ours: Vec<_> = pieces
        .by_ref()
        .take_while(|piece| *piece != b"--")
        .map(Word::new)
        .collect();
    let rest = pieces.map(|piece| unquoted(piece).to_vec()).collect();
    (ours, rest)
}

/// Settings that are being collected.
#[derive(Default)]
struct SettingsBuilder {
    image: Option<Digest>,
    fallback: Option<Digest>,
    within: Option<Duration>,
    store: Option<StoreLocation>,
    exit: Option<OnExit>,
    address: Option<Vec<u8>>,
    variables: Vec<OsString>,
    seen: Vec<String>,
    options: Vec<OsString>,
}

impl SettingsBuilder {
    /// Adds a parameter; `name` is the part after `imrun.`.
    fn take(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        let name = String::from_utf8_lossy(name).into_owned();
        let value = value.filter(|value| !value.is_empty() || name.starts_with("env."));
        let value =
            value.ok_or_else(|| Error::usage(format_args!("imrun.{name}"), "has no value"))?;
        if let Some(variable) = name.strip_prefix("env.") {
            return self.variable(variable, value);
        }
        let option = OPTIONS.iter().find(|(option, _)| *option == name);
        let repeats = option.is_some_and(|(_, repeats)| *repeats);
        if self.seen.contains(&name) && !repeats {
            return Err(Error::usage(format_args!("imrun.{name}"), "is given twice"));
        }
        self.seen.push(name.clone());
        let text = std::str::from_utf8(value)
            .map_err(|_| Error::usage(format_args!("imrun.{name}"), "is not UTF-8"))?;
        let wrong = |why: &str| Error::usage(format_args!("imrun.{name}={text}"), why);
        let named = |error: Error| wrong(&error.why);
        match name.as_str() {
            "image" => self.image = Some(text.parse().map_err(named)?),
            "fallback" => self.fallback = Some(text.parse().map_err(named)?),
            "fallback-within" => self.within = Some(time::duration(text).map_err(named)?),
            "store" => {
                self.store = Some(
                    place(text).ok_or_else(|| wrong("expected an absolute path or LABEL=NAME"))?,
                )
            }
            "on-exit" => {
                self.exit = Some(
                    exit_named(value).ok_or_else(|| wrong("expected poweroff, reboot or panic"))?,
                )
            }
            _ if option.is_some() => self.option(&name, value),
            _ => {
                return Err(Error::usage(
                    format_args!("imrun.{name}"),
                    "is not a parameter of imrun init",
                )
                .hint("docs/appliance.md lists them"));
            }
        }
        Ok(())
    }

    fn variable(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let name_of = |word: &OsString| {
            word.as_bytes()
                .split(|byte| *byte == b'=')
                .next()
                .map(<[u8]>::to_vec)
        };
        let wrong = |why| Err(Error::usage(format_args!("imrun.env.{name}"), why));
        if name.is_empty() {
            return wrong("has no name of a variable");
        }
        if self
            .variables
            .iter()
            .any(|other| name_of(other).as_deref() == Some(name.as_bytes()))
        {
            return wrong("is given twice");
        }
        self.variables
            .push(OsString::from_vec([name.as_bytes(), value].join(&b'=')));
        Ok(())
    }

    fn option(&mut self, name: &str, value: &[u8]) {
        // A single word, so that the value may begin with a dash.
        let mut option = OsString::from(format!("--{name}="));
        option.push(OsStr::from_bytes(value));
        self.options.push(option);
    }

    fn finish(self, arguments: Vec<Vec<u8>>) -> Result<Settings> {
        let missing = |name: &str, hint: &str| {
            Error::usage(
                format_args!("imrun.{name}"),
                "is not on the kernel command line",
            )
            .hint(hint)
        };
        let image = self
            .image
            .ok_or_else(|| missing("image", "imrun.image=sha256:… is the image to launch"))?;
        if !self.seen.iter().any(|name| name == "sink") {
            return Err(missing(
                "sink",
                "imrun.sink=URL ships the output; imrun.sink=stdio: shows it on the console",
            ));
        }
        if self.within.is_some() && self.fallback.is_none() {
            return Err(missing(
                "fallback",
                "imrun.fallback-within needs an image to launch",
            ));
        }
        let mut options = self.options;
        if !self.seen.iter().any(|name| name == "net") {
            // The app is the only one on the machine, so it gets the network.
            options.push("--net=host".into());
        }
        for variable in self.variables {
            let mut option = OsString::from("--env=");
            option.push(variable);
            options.push(option);
        }
        Ok(Settings {
            image,
            fallback: self.fallback,
            fallback_within: self.within.unwrap_or(FALLBACK_WITHIN),
            store: self
                .store
                .unwrap_or_else(|| StoreLocation::Path(crate::base::paths::STORE.into())),
            address: self.address,
            options,
            arguments: arguments.into_iter().map(OsString::from_vec).collect(),
        })
    }
}

fn place(text: &str) -> Option<StoreLocation> {
    match text.strip_prefix("LABEL=") {
        Some("") => None,
        Some(label) => Some(StoreLocation::Label(label.into())),
        None => text
            .starts_with('/')
            .then(|| StoreLocation::Path(text.into())),
    }
}

#[cfg(test)]
mod tests;
