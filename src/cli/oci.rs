//! Commands of the OCI runtime, compatible with runc.

use super::table::table;
use super::{Cli, Global, print};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::oci::container::{self, CreateOptions, Host};
use crate::oci::features;
use crate::oci::preserved::Preserved;
use crate::runtime::observe::OnWrite;
use crate::runtime::supervise::signals;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::unistd::geteuid;
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Commands of the feature `oci`.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Create a container from a bundle; it waits for `start`
    Create(Create),
    /// Start a created container
    Start(Start),
    /// Show the state of a container of a bundle
    State(State),
    /// Send a signal to a container of a bundle
    Kill(Kill),
    /// Delete a stopped container of a bundle
    Delete(Delete),
    /// Freeze all processes of a container
    Pause(Pause),
    /// Thaw all processes of a paused container
    Resume(Resume),
    /// List containers of bundles
    List(List),
    /// Show the features of this runtime, for engines
    Features,
    /// Write an example config.json
    Spec(Spec),
}

impl Command {
    /// Runs the command. Returns its exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
        match self {
            Command::Create(create) => create.execute(global),
            Command::Start(start) => start.execute(global),
            Command::State(state) => state.execute(global),
            Command::Kill(kill) => kill.execute(global),
            Command::Delete(delete) => delete.execute(global),
            Command::Pause(pause) => pause.execute(global),
            Command::Resume(resume) => resume.execute(global),
            Command::List(list) => list.execute(global),
            Command::Features => print_features(),
            Command::Spec(spec) => spec.execute(),
        }
    }
}

// Engines wait for these commands: building all others would delay them.
#[derive(Parser)]
#[command(name = "imrun")]
struct OciAlone {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Parses the arguments as a command of runc; `None` if they are not one.
pub fn parse(args: &[OsString]) -> Option<std::result::Result<Cli, clap::Error>> {
    if let Some(run) = Run::bundle_arguments(args) {
        return Some(Run::try_parse_from(run).map(|run| Cli {
            global: run.global.clone(),
            command: super::Command::RunBundle(Box::new(run)),
        }));
    }
    // The parser of all commands reports errors.
    let OciAlone { global, command } = OciAlone::try_parse_from(args).ok()?;
    let command = super::Command::Oci(command);
    Some(Ok(Cli { global, command }))
}

/// Create a container from a bundle; it waits for `start`
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    bundle: Bundle,
}

/// Common arguments of `create` and `run`.
#[derive(Args)]
struct Bundle {
    /// Container ID
    id: String,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Write the app's process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Demand this image, for containerd's shim
    #[arg(long, hide = true, value_name = "DIGEST")]
    image: Option<Digest>,
    #[arg(long, hide = true)]
    no_pivot: bool,
    #[arg(long, hide = true)]
    no_new_keyring: bool,
    #[arg(long, hide = true)]
    no_subreaper: bool,
    #[arg(long, hide = true, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "PATH")]
    pidfd_socket: Option<PathBuf>,
    /// Pass this number of descriptors to the app, from 3 on: sockets and pipes
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

/// `run [--bundle DIR] ID`
#[derive(Parser)]
#[command(bin_name = "imrun run", no_binary_name = true)]
pub struct Run {
    #[command(flatten)]
    bundle: Bundle,
    /// Return after the program was executed
    #[arg(short, long)]
    detach: bool,
    /// Keep the state until `delete`
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    pub(super) global: Global,
}

impl Bundle {
    fn options(self) -> Result<CreateOptions> {
        if self.console_socket.is_some() {
            return Err(
                Error::policy("--console-socket", "a container has no terminal")
                    .hint("omit -t; the output goes to the sink"),
            );
        }
        if self.pidfd_socket.is_some() {
            return Err(Error::policy("--pidfd-socket", "imrun sends no pidfd")
                .hint("--pid-file has the process id"));
        }
        Ok(CreateOptions {
            id: self.id,
            bundle: self.bundle.unwrap_or_else(|| PathBuf::from(".")),
            pid_file: self.pid_file,
            image: self.image,
            preserved: Preserved::take(self.preserve_fds)?,
        })
    }
}

impl Global {
    fn systemd(&self) -> bool {
        self.systemd_cgroup || self.cgroup_manager.as_deref() == Some("systemd")
    }
}

/// Reads the settings of the host from the environment.
fn host(global: &Global) -> Result<Host> {
    let text = |name| std::env::var(name).unwrap_or_default();
    let urls: Vec<_> = text("IMRUN_SINK").split(' ').map(str::to_owned).collect();
    Ok(Host {
        store: global.store(),
        root: global.root.clone(),
        sinks: super::run::sinks(&urls).map_err(for_engines)?,
        capabilities: Host::capabilities(&text("IMRUN_CAP_ADD"))?,
        on_write: on_write(&text("IMRUN_ON_WRITE"))?,
        systemd: global.systemd(),
    })
}

/// Adds a hint for callers that cannot add an option.
fn for_engines(error: Error) -> Error {
    if error.hint.is_some() {
        error.hint(
            "set IMRUN_SINK=URL in the environment of the engine: the unit of containerd or CRI-O, \
             conmon_env_vars of Podman (docs/oci-runtime.md)",
        )
    } else {
        error
    }
}

/// Parses `IMRUN_ON_WRITE`, with the values of `--on-write`.
fn on_write(word: &str) -> Result<OnWrite> {
    match word {
        "" => Ok(OnWrite::Report),
        word => OnWrite::from_str(word, false)
            .map_err(|_| Error::usage("IMRUN_ON_WRITE", "expected report, kill or quiet")),
    }
}

impl Create {
    /// Creates the container.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let options = self.bundle.options()?;
        container::create(&host(global)?, options).map(|()| 0)
    }
}

impl Run {
    /// Returns the arguments of a `run` of a bundle; global options may precede `run`.
    fn bundle_arguments(args: &[OsString]) -> Option<Vec<OsString>> {
        let RuncArguments { operands, .. } = RuncArguments::of(&args[1..]);
        let at = 1 + *operands.first().filter(|at| args[1 + **at] == "run")?;
        let (before, rest) = (&args[1..at], &args[at + 1..]);
        Run::names_bundle(rest).then(|| [before, rest].concat())
    }

    /// Returns true if the arguments of `run` are for a bundle, not for an image: there is a `--bundle` before any
    /// image, or an ID alone in the directory of a bundle.
    pub fn names_bundle(args: &[OsString]) -> bool {
        let parsed = RuncArguments::of(args);
        let first = parsed.operands.first().copied();
        let is_id = |at: usize| !args[at].to_string_lossy().contains([':', '@', '/']);
        match first {
            // It is no container ID either: the error says so.
            Some(at) if !is_id(at) => [parsed.bundle, parsed.only_runcs]
                .into_iter()
                .flatten()
                .any(|option| option < at),
            _ if parsed.bundle.is_some() => true,
            _ => parsed.operands.len() == 1 && !parsed.has_others && is_bundle(),
        }
    }

    /// Refuses a name of the store if no bundle is named: the caller may mean that image, and a bundle's hooks
    /// run on the host.
    fn refuse_name(&self, global: &Global) -> Result<()> {
        let id = &self.bundle.id;
        let names = crate::store::refs::current(global.store().refs()?);
        if self.bundle.bundle.is_some() || !names.contains_key(id) {
            return Ok(());
        }
        Err(Error::policy(
            format_args!("{id:?}"),
            "is a name in the store, and this directory has a config.json",
        )
        .hint("--bundle . runs the bundle; imrun run DIGEST an image"))
    }

    /// Runs the container. Returns the app's exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
        self.refuse_name(global)?;
        let options = self.bundle.options()?;
        let host = host(global)?;
        if !self.detach {
            return container::run(&host, options, self.keep);
        }
        let id = options.id.clone();
        container::create(&host, options)?;
        match container::start(&host.root, &id) {
            Ok(()) => Ok(0),
            Err(error) if self.keep => Err(error),
            // The first error is the one to report.
            Err(error) => container::delete(&host.root, &id, true).and(Err(error)),
        }
    }
}

/// Returns true if the working directory is a bundle that the caller owns: the hooks of a bundle run on the host.
fn is_bundle() -> bool {
    let file = std::path::Path::new("config.json").symlink_metadata();
    file.is_ok_and(|file| file.is_file() && file.uid() == geteuid().as_raw())
}

/// Arguments as runc parses them: options may come after operands.
#[derive(Default)]
struct RuncArguments {
    /// Positions of operands.
    operands: Vec<usize>,
    /// Position of `--bundle`.
    bundle: Option<usize>,
    /// Position of the first option that `run` of an image does not have.
    only_runcs: Option<usize>,
    /// True if there are options that runc does not have.
    has_others: bool,
}

impl RuncArguments {
    /// Options with a value, global or of `run`.
    const VALUED: [&str; 12] = [
        "--bundle",
        "-b",
        "--pid-file",
        "--preserve-fds",
        "--console-socket",
        "--pidfd-socket",
        "--image",
        "--root",
        "--log",
        "--log-format",
        "--store",
        "--cgroup-manager",
    ];
    /// Options without a value.
    const FLAGS: [&str; 8] = [
        "--keep",
        "--no-pivot",
        "--no-new-keyring",
        "--no-subreaper",
        "--detach",
        "-d",
        "--debug",
        "--systemd-cgroup",
    ];

    /// Those of them that the launch of an image does not have.
    const ONLY_RUNCS: [&str; 8] = [
        "--keep",
        "--no-pivot",
        "--no-new-keyring",
        "--no-subreaper",
        "--pid-file",
        "--preserve-fds",
        "--console-socket",
        "--pidfd-socket",
    ];

    fn of(args: &[OsString]) -> RuncArguments {
        let mut parsed = RuncArguments::default();
        let mut places = (0..args.len()).peekable();
        while let Some(at) = places.next() {
            let arg = args[at].to_string_lossy();
            let (name, value) = match arg.split_once('=') {
                Some((name, _)) if arg.starts_with("--") => (name, true),
                _ => (&*arg, false),
            };
            if RuncArguments::ONLY_RUNCS.contains(&name) {
                parsed.only_runcs.get_or_insert(at);
            }
            if arg == "--" {
                parsed.operands.extend(places);
                break;
            } else if !arg.starts_with('-') || arg == "-" {
                parsed.operands.push(at);
            } else if RuncArguments::VALUED.contains(&name) {
                if name == "--bundle" || name == "-b" {
                    parsed.bundle = Some(at);
                }
                if !value {
                    places.next();
                }
            } else if !RuncArguments::FLAGS.contains(&name) {
                parsed.has_others = true;
            }
        }
        parsed
    }
}

/// Start a created container
#[derive(Args)]
pub struct Start {
    /// Container ID
    id: String,
}

impl Start {
    /// Starts the container, and waits until it has executed its program.
    pub fn execute(self, global: &Global) -> Result<u8> {
        container::start(&global.root, &self.id).map(|()| 0)
    }
}

/// Show the state of a container of a bundle
#[derive(Args)]
pub struct State {
    /// Container ID
    id: String,
}

impl State {
    /// Prints the state as JSON.
    pub fn execute(self, global: &Global) -> Result<u8> {
        print_json(&container::state(&global.root, &self.id)?)
    }
}

/// Send a signal to a container of a bundle
#[derive(Args)]
pub struct Kill {
    /// Container ID
    id: String,
    /// Number or name of a signal
    #[arg(default_value = "TERM")]
    signal: String,
    /// Send it to all processes of the container
    #[arg(short, long)]
    all: bool,
}

impl Kill {
    /// Sends the signal, without waiting for its effect.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let signal = signals::parse(&self.signal)?;
        container::kill(&global.root, &self.id, signal, self.all).map(|()| 0)
    }
}

/// Delete a stopped container of a bundle
#[derive(Args)]
pub struct Delete {
    /// Container ID
    id: String,
    /// Kill the container first, if it runs
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    /// Deletes the container.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let Delete { id, force } = self;
        container::delete(&global.root, &id, force).map(|()| 0)
    }
}

/// Freeze all processes of a container
#[derive(Args)]
pub struct Pause {
    /// Container ID
    id: String,
}

/// Thaw all processes of a paused container
#[derive(Args)]
pub struct Resume {
    /// Container ID
    id: String,
}

impl Pause {
    /// Freezes the container, without waiting until all processes have stopped.
    pub fn execute(self, global: &Global) -> Result<u8> {
        container::freeze(&global.root, &self.id, true).map(|()| 0)
    }
}

impl Resume {
    /// Thaws the container.
    pub fn execute(self, global: &Global) -> Result<u8> {
        container::freeze(&global.root, &self.id, false).map(|()| 0)
    }
}

/// List containers of bundles
#[derive(Args)]
pub struct List {
    /// Format: table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Print IDs only
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    /// Prints a table, JSON or IDs.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let states = container::list(&global.root)?;
        let text = |state: &Value, key: &str| state[key].as_str().unwrap_or_default().to_owned();
        if self.quiet {
            let names = states.iter().map(|state| text(state, "id") + "\n");
            return print(&names.collect::<String>());
        }
        if self.format == "json" {
            return print_json(&states.into());
        }
        let row = |state: &Value| {
            let [id, status, created, bundle] =
                ["id", "status", "created", "bundle"].map(|key| text(state, key));
            [id, state["pid"].to_string(), status, created, bundle]
        };
        let rows: Vec<_> = states.iter().map(row).collect();
        print(&table(["ID", "PID", "STATUS", "CREATED", "BUNDLE"], &rows))
    }
}

/// Prints the processes of a container of a bundle, for `ps ID`.
pub fn ps(global: &Global, id: &str, json: bool) -> Result<u8> {
    let processes = container::processes(&global.root, id)?;
    if json {
        return print_json(&processes.into());
    }
    let lines = processes.iter().map(|pid| format!("{pid}\n"));
    print(&format!("PID\n{}", lines.collect::<String>()))
}

/// Prints the features of this runtime.
fn print_features() -> Result<u8> {
    print_json(&features::features())
}

/// Write an example config.json
#[derive(Args)]
pub struct Spec {
    /// Directory to write to
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
}

impl Spec {
    /// Writes the example; refuses to replace a file.
    pub fn execute(self) -> Result<u8> {
        let file = self.bundle.join("config.json");
        if file.symlink_metadata().is_ok() {
            return Err(Error::usage(
                format_args!("{file:?}"),
                "exists already, and imrun spec replaces no file",
            )
            .hint("imrun spec --bundle DIR writes it into another directory"));
        }
        let text = format!("{:#}\n", features::example());
        let mut made = files::create_new(&file, files::PUBLIC)?;
        let written = std::io::Write::write_all(&mut made, text.as_bytes());
        written.context(|| format!("write({file:?})")).map(|()| 0)
    }
}

fn print_json(value: &Value) -> Result<u8> {
    print(&format!("{value:#}\n"))
}
