//! The kernel's command line: its words, as the kernel itself takes them apart, and what those of
//! imrun mean.
//!
//! Source: Linux, lib/cmdline.c (`next_arg`) and Documentation/admin-guide/kernel-parameters.rst.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::time;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// What the kernel keeps of a command line, its NUL included (COMMAND_LINE_SIZE of x86 and arm64):
/// it cuts a longer one without a word.
const LONGEST: usize = 2048;

/// How soon an app has to end to be taken for one that does not run, where nobody says.
const FALLBACK_WITHIN: Duration = Duration::from_secs(30);

/// The options of `imrun run` that are words too. `true`: may be given more than once.
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

/// What becomes of the machine when the app has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// It is switched off.
    PowerOff,
    /// It starts again.
    Reboot,
    /// The kernel panics, and does what its own `panic=` says.
    Panic,
}

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory of the initramfs, or a block device.
    Path(PathBuf),
    /// The file system with that label, or the partition with that name.
    Label(String),
}

/// What the machine is to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Orders {
    /// What is launched.
    pub image: Digest,
    /// What is launched where the image cannot be, or soon ends.
    pub fallback: Option<Digest>,
    /// How soon.
    pub fallback_within: Duration,
    /// Where both are.
    pub store: Place,
    /// The value of `ip=`.
    pub address: Option<Vec<u8>>,
    /// Options of `imrun run`.
    pub options: Vec<OsString>,
    /// In place of the image's command.
    pub arguments: Vec<OsString>,
}

/// What the words say of the machine's end, as far as they can be understood: wrong ones must not
/// keep it from ending.
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

/// Reads all of it.
///
/// # Errors
/// The first word of imrun's that is unknown, wrong, there twice or missing, by its name; never
/// with the value of an `imrun.env.*`.
pub fn parse(line: &[u8]) -> Result<Orders> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() >= LONGEST - 1 {
        return Err(Error::usage(
            "kernel command line",
            format_args!("is {} bytes long, and the kernel cuts it there", line.len()),
        )
        .hint("leave out what the image can say itself"));
    }
    let (words, arguments) = words(line);
    let mut draft = Draft::default();
    for word in &words {
        match (word.name.strip_prefix(b"imrun."), &word.value) {
            (Some(name), value) => draft.take(name, value.as_deref())?,
            // Of several the kernel takes the last one, too.
            (None, Some(value)) if word.name == b"ip" => draft.address = Some(value.clone()),
            (None, _) => {}
        }
    }
    draft.finish(arguments)
}

/// The parameters that the command line has for a module (modprobe(8)): `NAME.PARAMETER=VALUE` gives
/// `PARAMETER=VALUE`, separated by spaces.
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

/// `NAME` or `NAME=VALUE`.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    name: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Word {
    /// Quotes keep white space together; they are dropped around the whole and around the value.
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

/// The words in front of `--`, which are the kernel's, and those behind it, which are the init's.
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

/// Orders, as far as they were read.
#[derive(Default)]
struct Draft {
    image: Option<Digest>,
    fallback: Option<Digest>,
    within: Option<Duration>,
    store: Option<Place>,
    exit: Option<OnExit>,
    address: Option<Vec<u8>>,
    variables: Vec<OsString>,
    seen: Vec<String>,
    options: Vec<OsString>,
}

impl Draft {
    /// `name` is what is behind `imrun.`.
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
                    place(text)
                        .ok_or_else(|| wrong("is neither an absolute path nor LABEL=NAME"))?,
                )
            }
            "on-exit" => {
                self.exit = Some(
                    exit_named(value)
                        .ok_or_else(|| wrong("is none of poweroff, reboot and panic"))?,
                )
            }
            _ if option.is_some() => self.option(&name, value),
            _ => {
                return Err(Error::usage(
                    format_args!("imrun.{name}"),
                    "is no word that imrun init knows",
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
            return wrong("names no variable");
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
        // One word, so that a value that begins with a dash is still one.
        let mut option = OsString::from(format!("--{name}="));
        option.push(OsStr::from_bytes(value));
        self.options.push(option);
    }

    fn finish(self, arguments: Vec<Vec<u8>>) -> Result<Orders> {
        let missing = |name: &str, hint: &str| {
            Error::usage(
                format_args!("imrun.{name}"),
                "is not on the kernel command line",
            )
            .hint(hint)
        };
        let image = self
            .image
            .ok_or_else(|| missing("image", "imrun.image=sha256:… names what is launched"))?;
        if !self.seen.iter().any(|name| name == "sink") {
            return Err(missing(
                "sink",
                "imrun.sink=URL ships the lines; imrun.sink=stdio: shows them on the console",
            ));
        }
        if self.within.is_some() && self.fallback.is_none() {
            return Err(missing(
                "fallback",
                "imrun.fallback-within says when it is launched",
            ));
        }
        let mut options = self.options;
        if !self.seen.iter().any(|name| name == "net") {
            // The machine is the app's alone, its network too.
            options.push("--net=host".into());
        }
        for variable in self.variables {
            let mut option = OsString::from("--env=");
            option.push(variable);
            options.push(option);
        }
        Ok(Orders {
            image,
            fallback: self.fallback,
            fallback_within: self.within.unwrap_or(FALLBACK_WITHIN),
            store: self
                .store
                .unwrap_or_else(|| Place::Path(crate::paths::STORE.into())),
            address: self.address,
            options,
            arguments: arguments.into_iter().map(OsString::from_vec).collect(),
        })
    }
}

fn place(text: &str) -> Option<Place> {
    match text.strip_prefix("LABEL=") {
        Some("") => None,
        Some(label) => Some(Place::Label(label.into())),
        None => text.starts_with('/').then(|| Place::Path(text.into())),
    }
}

#[cfg(test)]
mod tests;
