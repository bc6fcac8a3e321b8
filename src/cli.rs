//! The command line: what was typed, and which part of imrun it means.
#![forbid(unsafe_code)]

mod check;
mod containers;
mod doctor;
mod images;
#[cfg(feature = "import")]
mod import;
mod init;
#[cfg(feature = "manual")]
mod manual;
mod names;
#[cfg(not(feature = "oci"))]
#[path = "cli/no_oci.rs"]
mod oci;
#[cfg(feature = "oci")]
mod oci;
#[cfg(feature = "registry")]
mod progress;
mod refused;
#[cfg(not(feature = "registry"))]
#[path = "cli/no_registry.rs"]
mod registry;
#[cfg(feature = "registry")]
mod registry;
mod run;
mod values;

use crate::error::{Context, Error, HINT, Result, say};
use crate::files;
use crate::paths;
use crate::rootless;
use crate::store::Store;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Once;

const EXAMPLES: &str = "Examples:
  imrun import oci:./layout --name app        put an image into the store; prints its digest
  imrun pull redis:7                          from a registry into the store; prints its digest
  imrun sha256:…                              launch it, lines to the sink of IMRUN_SINK
  imrun run --sink stdio: sha256:… echo hi    launch it, lines shown here
  imrun verify                                hash every byte of the store again";

/// Launches an OCI image exactly as it was built: verified by digest, read-only, logs to the network.
#[derive(Parser)]
#[command(name = "imrun", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(allow_external_subcommands = true, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where imrun keeps things.
#[derive(Args, Clone)]
struct Global {
    /// The image store
    #[arg(long, global = true, env = "IMRUN_STORE", value_name = "DIR", default_value_os_t = paths::default_store())]
    store: PathBuf,
    /// The runtime state
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = paths::default_runtime())]
    root: PathBuf,
    /// Errors go into this file too, for who called
    #[arg(long, global = true, value_name = "FILE", hide = true)]
    log: Option<PathBuf>,
    /// How they are written there
    #[arg(long, global = true, value_name = "FORMAT", hide = true, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// A bundle's cgroupsPath is SLICE:PREFIX:NAME
    #[arg(long, global = true, hide = true)]
    systemd_cgroup: bool,
    /// The same, as Podman says it to crun
    #[arg(long, global = true, hide = true, value_parser = ["cgroupfs", "systemd", "disabled"])]
    cgroup_manager: Option<String>,
}

/// Where runc's callers read errors.
struct Journal {
    file: PathBuf,
    json: bool,
}

impl Journal {
    /// Adds a line; who cannot be told so is told on standard error all the same.
    fn write(&self, error: &Error) {
        use std::io::Write;
        let text = match &error.hint {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        };
        let time = crate::time::now();
        let line = match self.json {
            true => serde_json::json!({ "level": "error", "msg": text, "time": time }).to_string(),
            false => format!("time={time:?} level=error msg={text:?}"),
        };
        let written = files::append(&self.file).and_then(|mut file| {
            file.write_all(format!("{line}\n").as_bytes())
                .context(|| format!("write({:?})", self.file))
        });
        if let Err(error) = written {
            log::warn!("{error}");
        }
    }
}

impl Global {
    fn journal(&self) -> Option<Journal> {
        let file = self.log.clone()?;
        let json = self.log_format == "json";
        Some(Journal { file, json })
    }

    fn store(&self) -> Store {
        // Once for each process, which has one store: a warning about it is not repeated.
        static CLOSED: Once = Once::new();
        let store = Store::new(&self.store);
        CLOSED.call_once(|| store.close_to_others());
        store
    }
}

// Described one by one when they are meant: it takes longer than many of them do.
#[derive(Subcommand)]
#[command(defer = true)]
enum Command {
    /// Launch an image: `imrun IMAGE [ARG…]` is short for it
    Run(Box<run::Run>),
    /// Launch an image for a while, and list what it tried to change
    Check(Box<check::Check>),
    /// List running containers
    Ps(containers::Ps),
    /// Stop a running container
    Stop(containers::Stop),
    #[cfg(feature = "import")]
    #[command(flatten)]
    Import(import::Command),
    #[cfg(feature = "registry")]
    #[command(flatten)]
    Registry(registry::Command),
    /// Show what a name meant, when
    History(names::History),
    /// Let a name mean an older image again; prints its digest
    Rollback(names::Rollback),
    /// List the store's images
    Images(images::Images),
    /// Show everything known of an image, its layers hashed again
    Inspect(images::Inspect),
    /// Hash every byte again, rebuild each tree image and compare
    Verify(images::Verify),
    /// Show the root that an app would see, read-only, in a directory
    Mount(images::Mount),
    /// Undo `imrun mount`
    Umount(images::Umount),
    /// Remove an image and the data that nothing else needs; prints the bytes freed
    Rm(images::Rm),
    /// Free what no name, rollback or running container needs; prints the bytes freed
    Gc(images::Gc),
    /// Show what this host can do, and why not what it cannot
    Doctor(doctor::Doctor),
    /// Be the first process of an appliance, as the kernel's command line says
    Init,
    #[cfg(feature = "manual")]
    #[command(flatten)]
    Manual(manual::Command),
    #[cfg(feature = "oci")]
    #[command(flatten)]
    Oci(oci::Command),
    #[cfg(feature = "oci")]
    #[command(skip)]
    RunBundle(Box<oci::Run>),
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

impl Command {
    /// Whether it launches, or works on unpacked images: an ordinary user takes a namespace for it.
    fn reaches_files(&self) -> bool {
        match self {
            #[cfg(feature = "import")]
            Command::Import(command) => command.reaches_files(),
            #[cfg(feature = "registry")]
            Command::Registry(command) => command.reaches_files(),
            Command::Run(_)
            | Command::Check(_)
            | Command::External(_)
            | Command::Inspect(_)
            | Command::Verify(_)
            | Command::Rm(_)
            | Command::Gc(_) => true,
            _ => false,
        }
    }
}

/// Runs the command; its exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    warn_on_stderr();
    // Whatever has no mode of its own gets the usual one, and none follows the caller's.
    umask(Mode::from_bits_truncate(0o022));
    let mut journal = None;
    let outcome = match init::is_meant(&args) {
        true => init::execute(),
        false => parse(&args).and_then(|parsed| match parsed {
            Parsed::Command(cli) => {
                journal = cli.global.journal();
                dispatch(cli, &args)
            }
            Parsed::Text(text) => print(&text),
        }),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            if let Some(journal) = journal {
                journal.write(&error);
            }
            tell(&error);
            error.exit
        }
    }
}

/// Warnings go to standard error from here on.
pub(crate) fn warn_on_stderr() {
    log::set_max_level(log::LevelFilter::Warn);
    // The only way to fail is that there is a logger already.
    log::set_logger(&Stderr).expect("a program's main is called once");
}

enum Parsed {
    Command(Box<Cli>),
    /// Help or version.
    Text(String),
}

// A launch has no time to describe all the other commands only to find out that they are not meant.
/// Launch an image: `imrun IMAGE [ARG…]` is short for it
#[derive(Parser)]
#[command(bin_name = "imrun run", no_binary_name = true, max_term_width = 100)]
struct RunAlone {
    #[command(flatten)]
    run: run::Run,
    #[command(flatten)]
    global: Global,
}

impl From<RunAlone> for Cli {
    fn from(RunAlone { run, global }: RunAlone) -> Cli {
        Cli {
            global,
            command: Command::Run(Box::new(run)),
        }
    }
}

fn parse(args: &[OsString]) -> Result<Parsed> {
    let parsed = match args {
        [_, command, rest @ ..] if command == "run" && !oci::Run::is_meant(rest) => {
            RunAlone::try_parse_from(rest).map(Cli::from)
        }
        _ => oci::parse(args).unwrap_or_else(|| Cli::try_parse_from(args)),
    };
    match parsed {
        Ok(cli) => Ok(Parsed::Command(Box::new(cli))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Text(error.render().to_string()))
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Err(Error::usage("command", "none is given").hint("imrun --help lists them"))
            }
            _ => Err(wrong_usage(&error)),
        },
    }
}

/// imrun's own error about a value, or one line of clap's explanation, which spreads over several.
fn wrong_usage(error: &clap::Error) -> Error {
    if let Some(own) =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>())
    {
        return own.clone();
    }
    let text = error.render().to_string();
    let end =
        |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let lines: Vec<_> = text.lines().take_while(end).map(str::trim).collect();
    let text = lines.join(" ");
    let what = text.trim().trim_start_matches("error: ");
    let (what, tip) = what.split_once(" tip: ").unwrap_or((what, ""));
    // An option that is not there is not meant as an argument of the app.
    let hint = match tip.trim() {
        "" => "imrun COMMAND --help shows what it takes",
        tip if tip.starts_with("to pass '-") => "imrun COMMAND --help shows what it takes",
        tip => tip,
    };
    Error::usage("command line", what.trim()).hint(hint)
}

fn dispatch(cli: Box<Cli>, args: &[OsString]) -> Result<u8> {
    let Cli { global, command } = *cli;
    if command.reaches_files() {
        rootless::enter()?;
    }
    match command {
        Command::Run(run) => run.execute(&global, args),
        Command::Check(check) => check.execute(&global, args),
        Command::Ps(ps) => ps.execute(&global),
        Command::Stop(stop) => stop.execute(&global),
        #[cfg(feature = "import")]
        Command::Import(command) => command.execute(&global),
        #[cfg(feature = "registry")]
        Command::Registry(command) => command.execute(&global),
        Command::History(history) => history.execute(&global),
        Command::Rollback(rollback) => rollback.execute(&global),
        Command::Images(images) => images.execute(&global),
        Command::Inspect(inspect) => inspect.execute(&global),
        Command::Verify(verify) => verify.execute(&global),
        Command::Mount(mount) => mount.execute(&global),
        Command::Umount(umount) => umount.execute(),
        Command::Rm(rm) => rm.execute(&global),
        Command::Gc(gc) => gc.execute(&global),
        Command::Doctor(doctor) => doctor.execute(&global),
        Command::Init => init::execute(),
        #[cfg(feature = "manual")]
        Command::Manual(command) => command.execute(),
        #[cfg(feature = "oci")]
        Command::Oci(command) => command.execute(&global),
        #[cfg(feature = "oci")]
        Command::RunBundle(run) => run.execute(&global),
        Command::External(words) => external(&global, words, args),
    }
}

/// `imrun IMAGE [ARG…]`; everything else that is no command.
fn external(global: &Global, words: Vec<OsString>, args: &[OsString]) -> Result<u8> {
    let name = words[0].to_string_lossy().into_owned();
    if let Some(error) = refused::command(&name) {
        return Err(error);
    }
    if !name.contains(':') && !name.contains('@') {
        return Err(Error::usage(
            format_args!("command {name:?}"),
            "is neither a command nor an image",
        )
        .hint("imrun --help lists the commands; an image is sha256:… or NAME@sha256:…"));
    }
    let short = ["run".into(), "--".into()].into_iter().chain(words);
    let run = run::Run::try_parse_from(short).map_err(|error| wrong_usage(&error))?;
    run.execute(global, args)
}

/// Standard output carries the result alone.
pub(crate) fn print(text: &str) -> Result<u8> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context(|| "write(standard output)")?;
    Ok(0)
}

/// Says on standard error what went wrong.
pub(crate) fn tell(error: &Error) {
    let hint = error.hint.as_deref();
    let hint = hint.map_or(String::new(), |hint| format!("hint: {hint}\n"));
    say(&format!("imrun: {error}\n{hint}"));
}

/// Warnings, on standard error.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let who = match record.target() {
            HINT => "hint",
            own if own.starts_with("imrun") => "imrun",
            // Other crates' messages are not for the operator.
            _ => return,
        };
        say(&format!("{who}: {}\n", record.args()));
    }

    fn flush(&self) {}
}
