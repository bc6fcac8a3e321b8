//! The commands of the OCI runtime, as runc has them.

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
use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;

/// What a build without `oci` has not.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    Create(Create),
    Start(Start),
    State(State),
    Kill(Kill),
    Delete(Delete),
    Pause(Pause),
    Resume(Resume),
    List(List),
    /// Show what this runtime does, for engines
    Features,
    Spec(Spec),
}

impl Command {
    /// Runs it; the exit code.
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

// Engines wait for these commands: there is no time to describe all the others.
#[derive(Parser)]
#[command(name = "imrun")]
struct OciAlone {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What the arguments mean to runc, where that is meant.
pub fn parse(args: &[OsString]) -> Option<std::result::Result<Cli, clap::Error>> {
    if let Some(run) = Run::bundle_arguments(args) {
        return Some(Run::try_parse_from(run).map(|run| Cli {
            global: run.global.clone(),
            command: super::Command::RunBundle(Box::new(run)),
        }));
    }
    // What is wrong with them says who knows all commands.
    let OciAlone { global, command } = OciAlone::try_parse_from(args).ok()?;
    let command = super::Command::Oci(command);
    Some(Ok(Cli { global, command }))
}

/// Create a container of a bundle, which waits for `start`
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    bundle: Bundle,
}

/// What `create` and `run` have in common.
#[derive(Args)]
struct Bundle {
    /// The container's name
    id: String,
    /// The bundle's directory
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// Write the app's process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// The image that it has to be, for containerd's shim
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
    /// The app gets as many descriptors of the caller's, from 3 on: sockets and pipes
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

/// `run [--bundle DIR] ID`
#[derive(Parser)]
#[command(bin_name = "imrun run", no_binary_name = true)]
pub struct Run {
    #[command(flatten)]
    bundle: Bundle,
    /// Return when its program was executed
    #[arg(short, long)]
    detach: bool,
    /// Keep what is known of it until `delete`
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
                    .hint("leave out -t; its output goes to the sink"),
            );
        }
        if self.pidfd_socket.is_some() {
            return Err(Error::policy("--pidfd-socket", "imrun sends no pidfd")
                .hint("--pid-file has the process id"));
        }
        Ok(CreateOptions {
            id: self.id,
            bundle: self.bundle,
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

/// What the host decides: by the environment, never by a bundle.
fn host(global: &Global) -> Result<Host> {
    let text = |name| std::env::var(name).unwrap_or_default();
    let urls: Vec<_> = text("IMRUN_SINK").split(' ').map(str::to_owned).collect();
    Ok(Host {
        store: global.store(),
        root: global.root.clone(),
        sinks: super::run::sinks(&urls)?,
        capabilities: Host::capabilities(&text("IMRUN_CAP_ADD"))?,
        on_write: on_write(&text("IMRUN_ON_WRITE"))?,
        systemd: global.systemd(),
    })
}

/// `IMRUN_ON_WRITE`, as `--on-write` has it.
fn on_write(word: &str) -> Result<OnWrite> {
    match word {
        "" => Ok(OnWrite::Report),
        word => OnWrite::from_str(word, false)
            .map_err(|_| Error::usage("IMRUN_ON_WRITE", "is none of report, kill and quiet")),
    }
}

impl Create {
    /// Returns when the container is created.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let options = self.bundle.options()?;
        container::create(&host(global)?, options).map(|()| 0)
    }
}

impl Run {
    /// The arguments of a `run` that is runc's; global options may stand in front of it.
    fn bundle_arguments(args: &[OsString]) -> Option<Vec<OsString>> {
        let RuncArguments { operands, .. } = RuncArguments::of(&args[1..]);
        let at = 1 + *operands.first().filter(|at| args[1 + **at] == "run")?;
        let (before, rest) = (&args[1..at], &args[at + 1..]);
        Run::names_bundle(rest).then(|| [before, rest].concat())
    }

    /// Whether these arguments are runc's, and not those of the launch of an image: a bundle is named
    /// before any image, or this is the directory of one, and there is nothing but an id.
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
            _ => {
                parsed.operands.len() == 1
                    && !parsed.has_others
                    && std::path::Path::new("config.json").exists()
            }
        }
    }

    /// Returns when the app has ended; its exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
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

/// Arguments as runc reads them: its options may stand anywhere among the operands.
#[derive(Default)]
struct RuncArguments {
    /// The places of those that are neither options nor values of options.
    operands: Vec<usize>,
    /// The place of `--bundle`.
    bundle: Option<usize>,
    /// The place of the first option that `run` of an image does not have.
    only_runcs: Option<usize>,
    /// Whether there are options that runc does not have.
    has_others: bool,
}

impl RuncArguments {
    /// Options with a value, of `run` and before it.
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
    /// Those without.
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

/// Start a container that was created
#[derive(Args)]
pub struct Start {
    /// Its name
    id: String,
}

impl Start {
    /// Returns when its program was executed.
    pub fn execute(self, global: &Global) -> Result<u8> {
        container::start(&global.root, &self.id).map(|()| 0)
    }
}

/// Show the state of a container of a bundle
#[derive(Args)]
pub struct State {
    /// Its name
    id: String,
}

impl State {
    /// Prints JSON.
    pub fn execute(self, global: &Global) -> Result<u8> {
        print_json(&container::state(&global.root, &self.id)?)
    }
}

/// Send a signal to a container of a bundle
#[derive(Args)]
pub struct Kill {
    /// Its name
    id: String,
    /// A number or a name
    #[arg(default_value = "TERM")]
    signal: String,
    /// To all its processes
    #[arg(short, long)]
    all: bool,
}

impl Kill {
    /// Does not wait for what comes of it.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let signal = signals::parse(&self.signal)?;
        container::kill(&global.root, &self.id, signal, self.all).map(|()| 0)
    }
}

/// Forget a container of a bundle that has ended
#[derive(Args)]
pub struct Delete {
    /// Its name
    id: String,
    /// Kill it first
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    /// Returns when nothing is left of it.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let Delete { id, force } = self;
        container::delete(&global.root, &id, force).map(|()| 0)
    }
}

/// Let no process of a container run
#[derive(Args)]
pub struct Pause {
    /// Its name
    id: String,
}

/// Let a paused container's processes run again
#[derive(Args)]
pub struct Resume {
    /// Its name
    id: String,
}

impl Pause {
    /// Returns before all have stopped.
    pub fn execute(self, global: &Global) -> Result<u8> {
        container::freeze(&global.root, &self.id, true).map(|()| 0)
    }
}

impl Resume {
    /// Returns at once.
    pub fn execute(self, global: &Global) -> Result<u8> {
        container::freeze(&global.root, &self.id, false).map(|()| 0)
    }
}

/// List containers of bundles
#[derive(Args)]
pub struct List {
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Names alone
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    /// Prints a table, JSON or names.
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
        let mut table = format!(
            "{:24}  {:7}  {:8}  {:24}  BUNDLE\n",
            "ID", "PID", "STATUS", "CREATED"
        );
        for state in states {
            let [id, status, created, bundle] =
                ["id", "status", "created", "bundle"].map(|key| text(&state, key));
            table += &format!(
                "{id:24}  {:<7}  {status:8}  {created:24}  {bundle}\n",
                state["pid"]
            );
        }
        print(&table)
    }
}

/// The processes of a container of a bundle, for `ps ID`.
pub fn ps(global: &Global, id: &str, json: bool) -> Result<u8> {
    let processes = container::processes(&global.root, id)?;
    if json {
        return print_json(&processes.into());
    }
    let lines = processes.iter().map(|pid| format!("{pid}\n"));
    print(&format!("PID\n{}", lines.collect::<String>()))
}

/// Show what this runtime does, for engines
fn print_features() -> Result<u8> {
    print_json(&features::features())
}

/// Write an example of a bundle's config.json
#[derive(Args)]
pub struct Spec {
    /// Into this directory
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
}

impl Spec {
    /// Replaces nothing.
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
