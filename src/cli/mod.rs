//! The command line: arguments, and the part of imrun that they select.
#![forbid(unsafe_code)]

mod check;
#[cfg(feature = "manual")]
mod completions;
mod containers;
#[cfg(feature = "import")]
pub mod demo;
mod doctor;
mod help;
mod images;
#[cfg(feature = "import")]
mod import;
mod init;
#[cfg(feature = "manual")]
mod manual;
mod names;
#[cfg(not(feature = "oci"))]
#[path = "no_oci.rs"]
mod oci;
#[cfg(feature = "oci")]
mod oci;
#[cfg(feature = "registry")]
mod progress;
mod refused;
#[cfg(not(feature = "registry"))]
#[path = "no_registry.rs"]
mod registry;
#[cfg(feature = "registry")]
mod registry;
mod run;
mod table;
mod values;

use crate::base::error::{Context, Error, HINT, Result, say};
use crate::base::files;
use crate::base::paths;
use crate::runtime::rootless;
use crate::store::Store;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Once;

const EXAMPLES: &str = "Examples:
  imrun import oci:./layout --name app        add an image to the store; prints its digest
  imrun pull redis:7                          pull an image from a registry; prints its digest
  imrun sha256:…                              launch it; its output goes to the sink of IMRUN_SINK
  imrun run --sink stdio: sha256:… echo hi    launch it and show its output here
  imrun verify                                hash all content of the store again";

/// Launch an OCI image exactly as it was built: verified by digest, read-only, logs to the network
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

/// Options of all commands.
#[derive(Args, Clone)]
struct Global {
    /// Directory of the image store
    #[arg(long, global = true, env = "IMRUN_STORE", value_name = "DIR", default_value_os_t = paths::default_store())]
    store: PathBuf,
    /// Directory of the runtime state
    #[arg(long, global = true, env = "IMRUN_ROOT", value_name = "DIR", default_value_os_t = paths::default_runtime())]
    root: PathBuf,
    /// Write errors to this file, too
    #[arg(long, global = true, value_name = "FILE", hide = true)]
    log: Option<PathBuf>,
    /// Format of the log file
    #[arg(long, global = true, value_name = "FORMAT", hide = true, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// Read a bundle's cgroupsPath as SLICE:PREFIX:NAME
    #[arg(long, global = true, hide = true)]
    systemd_cgroup: bool,
    /// Manager of cgroups, as Podman passes it to crun
    #[arg(long, global = true, hide = true, value_parser = ["cgroupfs", "systemd", "disabled"])]
    cgroup_manager: Option<String>,
}

/// Log file of `--log`, in which engines read errors.
struct Journal {
    file: PathBuf,
    json: bool,
}

impl Journal {
    /// Appends an error. A failure is ignored: standard error shows the error as well.
    fn write(&self, error: &Error) {
        use std::io::Write;
        let text = match &error.hint {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        };
        let time = crate::base::time::now();
        let line = if self.json {
            serde_json::json!({ "level": "error", "msg": text, "time": time }).to_string()
        } else {
            format!("time={time:?} level=error msg={text:?}")
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
        // Once per process, which uses one store, so that a warning about it is not repeated.
        static CLOSED: Once = Once::new();
        let store = Store::new(&self.store);
        CLOSED.call_once(|| store.make_private());
        store
    }
}

// Subcommands are built on demand: building them all takes longer than many of them run.
#[derive(Subcommand)]
#[command(defer = true)]
enum Command {
    /// Launch an image: `imrun IMAGE [ARG…]` is short for it
    #[command(override_usage = "imrun run [OPTIONS] IMAGE [ARG]…")]
    Run(Box<run::Run>),
    /// Launch an image for a while, and list its attempts to write
    #[command(override_usage = "imrun check [OPTIONS] IMAGE [ARG]…")]
    Check(Box<check::Check>),
    /// List running containers
    Ps(containers::Ps),
    /// Stop running containers
    Stop(containers::Stop),
    #[cfg(feature = "import")]
    #[command(flatten)]
    Import(import::Command),
    #[cfg(feature = "registry")]
    #[command(flatten)]
    Registry(registry::Command),
    /// Show the images that a name referred to
    History(names::History),
    /// Set a name back to an older image; prints its digest
    Rollback(names::Rollback),
    /// List the store's images
    Images(images::Images),
    /// Show the details of an image, after hashing its layers again
    Inspect(images::Inspect),
    /// Hash all content again, rebuild each tree image and compare
    Verify(images::Verify),
    /// Mount the root that an app would see, read-only, on a directory
    Mount(images::Mount),
    /// Unmount a directory of `imrun mount`
    Umount(images::Umount),
    /// Remove an image and the data that nothing else needs; prints the bytes freed
    Rm(images::Rm),
    /// Remove data that no name, rollback or running container needs; prints the bytes freed
    Gc(images::Gc),
    /// Show the features of this host, and why others are missing
    Doctor(doctor::Doctor),
    /// Run as PID 1 of an appliance, configured by the kernel command line
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
    /// Returns true if the command launches or accesses files of images, for which an ordinary user needs a user
    /// namespace.
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

/// Runs the command line. Returns the exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    warn_on_stderr();
    // Modes must not depend on the caller's umask.
    umask(Mode::from_bits_truncate(0o022));
    let mut journal = None;
    let outcome = if init::is_requested(&args) {
        init::execute()
    } else {
        parse(&args).and_then(|parsed| match parsed {
            Parsed::Command(cli) => {
                journal = cli.global.journal();
                dispatch(cli, &args)
            }
            Parsed::Text(text) => print(&text),
        })
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            if let Some(journal) = journal {
                journal.write(&error);
            }
            report(&error);
            error.exit
        }
    }
}

/// Prints warnings to standard error from now on.
pub(crate) fn warn_on_stderr() {
    log::set_max_level(log::LevelFilter::Warn);
    // This fails only if there is a logger already.
    log::set_logger(&Stderr).expect("a program's main is called once");
}

enum Parsed {
    Command(Box<Cli>),
    /// Text of the help or version.
    Text(String),
}

// Parses `run` without building the other commands, which would delay every launch.
/// Launch an image: `imrun IMAGE [ARG…]` is short for it
#[derive(Parser)]
#[command(override_usage = "imrun run [OPTIONS] IMAGE [ARG]…")]
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
        [_, command, rest @ ..] if command == "run" && !oci::Run::names_bundle(rest) => {
            RunAlone::try_parse_from(rest).map(Cli::from)
        }
        [_] => return Ok(Parsed::Text(help::overview())),
        [_, word] if word == "help" || word == "--help" || word == "-h" => {
            return Ok(Parsed::Text(help::overview()));
        }
        [name, word, rest @ ..] if word == "help" => {
            let asked = [name].into_iter().chain(rest).cloned();
            Cli::try_parse_from(asked.chain(["--help".into()]))
        }
        [name, word] if word == "version" => {
            Cli::try_parse_from([name.clone(), "--version".into()])
        }
        _ => match oci::parse(args).or_else(|| options_first(args).map(Ok)) {
            Some(parsed) => parsed,
            None => Cli::try_parse_from(args),
        },
    };
    match parsed {
        Ok(cli) => Ok(Parsed::Command(Box::new(cli))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Text(error.render().to_string()))
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Err(Error::usage("command", "missing").hint("imrun --help lists the commands"))
            }
            _ => {
                let error = wrong_usage(&error);
                run::tell_status(args, &error)?;
                Err(error)
            }
        },
    }
}

/// Parses `imrun OPTION… IMAGE [ARG]…`, a launch whose options come before the image.
fn options_first(args: &[OsString]) -> Option<Cli> {
    let is_option = |word: &&OsString| word.as_encoded_bytes().starts_with(b"-");
    args.get(1).filter(is_option)?;
    let launch = RunAlone::try_parse_from(&args[1..]).ok()?;
    let is_image = launch
        .run
        .image()
        .is_ok_and(|image| image.contains([':', '@']));
    is_image.then(|| launch.into())
}

/// Returns imrun's own error about a value, or clap's message in one line.
fn wrong_usage(error: &clap::Error) -> Error {
    if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
        && let Some(refusal) = refused::option(option)
    {
        return refusal;
    }
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
    // clap suggests passing unknown options to the app, which is never right here.
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
        Command::Manual(command) => command.execute(&global),
        #[cfg(feature = "oci")]
        Command::Oci(command) => command.execute(&global),
        #[cfg(feature = "oci")]
        Command::RunBundle(run) => run.execute(&global),
        Command::External(words) => external(&global, words, args),
    }
}

/// Runs `imrun IMAGE [ARG…]`, or refuses an unknown command.
fn external(global: &Global, words: Vec<OsString>, args: &[OsString]) -> Result<u8> {
    let name = words[0].to_string_lossy().into_owned();
    if let Some(error) = refused::command(&name) {
        return Err(error);
    }
    if !name.contains(':') && !name.contains('@') {
        let error = Error::usage(
            format_args!("command {name:?}"),
            "is neither a command nor an image",
        );
        return Err(match help::nearest(&name) {
            Some(meant) => error.hint(format_args!("did you mean imrun {meant}?")),
            None => {
                error.hint("imrun --help lists the commands; an image is sha256:… or NAME@sha256:…")
            }
        });
    }
    let short = ["run".into(), "--".into()].into_iter().chain(words);
    let run = run::Run::try_parse_from(short).map_err(|error| wrong_usage(&error))?;
    run.execute(global, args)
}

/// Prints a result to standard output.
pub(crate) fn print(text: &str) -> Result<u8> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context(|| "write(standard output)")?;
    Ok(0)
}

/// Prints an error and its hint to standard error.
pub(crate) fn report(error: &Error) {
    let hint = error.hint.as_deref();
    let hint = hint.map_or(String::new(), |hint| format!("hint: {hint}\n"));
    say(&format!("imrun: {error}\n{hint}"));
}

/// Logger that prints warnings to standard error.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let who = match record.target() {
            HINT => "hint",
            own if own.starts_with("imrun") => "imrun",
            // Messages of other crates are not for the operator.
            _ => return,
        };
        say(&format!("{who}: {}\n", record.args()));
    }

    fn flush(&self) {}
}
