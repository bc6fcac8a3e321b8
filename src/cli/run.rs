//! `imrun run`: what was typed becomes a checked request.

use super::refused::Refused;
use super::{Global, registry, values};
use crate::capabilities;
use crate::cgroup::{Cpus, Limits};
use crate::container::{self, EnvFile, Outcome, Request, Subject};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::integrity::Demand;
use crate::launch::Network;
use crate::observe::OnWrite;
use crate::reference::{ImageArgument, Reference};
use crate::rootfs::Driver;
use crate::ship::SinkUrl;
use crate::status::Status;
use crate::supervise::{OnStall, Policy, signals, stdin};
use crate::sys::{arguments, process};
use clap::{Args, Parser};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "Examples:
  imrun run --sink stdio: sha256:…
  imrun run --sink es+http://127.0.0.1:9200 -e LEVEL=debug app@sha256:… serve --port 8080
  imrun run --net host --stop-timeout 2s --name web sha256:…

Exit codes: the app's own, 128+n by signal n; 121 imrun failed after the start, 123 the sink stayed
stalled, 124 lines were lost, 125 refused: nothing of the image ran, 126 cannot be executed, 127 not there.";

/// Bytes of an environment file: more than execve(2) takes of all variables and arguments together.
const MAX_ENV_FILE: u64 = 8 << 20;

/// Of every command that makes a root.
#[derive(Args)]
pub(super) struct Root {
    /// How the image becomes a root: mounted, or unpacked once
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "IMRUN_DRIVER",
        value_name = "DRIVER"
    )]
    pub driver: Driver,
}

/// Launch an image
#[derive(Parser)]
#[command(no_binary_name = false, after_help = EXAMPLES, version = None)]
pub struct Run {
    /// sha256:… or NAME@sha256:…
    image: String,
    /// In place of the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Set a variable; without =VALUE it is taken from imrun's own environment
    #[arg(short, long, value_name = "K[=V]")]
    env: Vec<OsString>,
    /// Read variables from a file, a line each
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Where output goes: es+http://HOST:PORT, otlp, syslog, forward, json, stdio: (docs/sinks.md);
    /// can be repeated
    #[arg(
        long,
        value_name = "URL",
        env = "IMRUN_SINK",
        hide_env_values = true,
        value_delimiter = ' '
    )]
    pub(super) sink: Vec<String>,
    /// What happens to an app that tries to change a file system
    #[arg(long, value_enum, default_value = "report", value_name = "HOW")]
    on_write: OnWrite,
    /// What happens while the sink takes nothing
    #[arg(long, value_enum, default_value = "block", value_name = "HOW")]
    on_stall: OnStall,
    /// How long a sink may stall, under --on-stall kill
    #[arg(long, default_value = "30s", value_parser = values::duration, value_name = "TIME")]
    stall_deadline: Duration,
    /// Bytes of output that may wait for the sink
    #[arg(long, default_value = "1M", value_parser = values::size, value_name = "SIZE")]
    log_buffer: usize,
    /// Which network the app sees: none, host, ns:PATH
    #[arg(long, default_value = "none", value_name = "NET")]
    net: String,
    /// Ask this name server, not the host's; up to three
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// The most memory it may use; there is no swap beyond it
    #[arg(long, value_parser = values::size, value_name = "SIZE")]
    memory: Option<usize>,
    /// How many processors' time it may use: 2, 0.5
    #[arg(long, value_name = "N")]
    cpus: Option<Cpus>,
    /// How many processes and threads it may have
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pids: Option<u64>,
    /// The host's name in the container; made from the digest by default
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// In place of the image's user: USER[:GROUP], names or numbers
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Let the app do what its user may not: NET_RAW, IPC_LOCK, …
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// In place of the image's working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// In place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    /// A name for ps and stop
    #[arg(long)]
    name: Option<String>,
    /// In place of the image's stop signal
    #[arg(long, value_parser = signals::parse, value_name = "SIGNAL")]
    stop_signal: Option<i32>,
    /// Run the app as process 2, behind one of imrun's that passes signals on and reaps orphans
    #[arg(long)]
    init: bool,
    /// How long after the stop signal the app is killed
    #[arg(long, default_value = "10s", value_parser = values::duration, value_name = "TIME")]
    stop_timeout: Duration,
    /// Demand an integrity level, or a stronger one
    #[arg(long, value_enum, default_value = "auto", value_name = "LEVEL")]
    integrity: Demand,
    #[command(flatten)]
    root: Root,
    /// Write status events to this descriptor, a JSON object a line
    #[arg(long, value_name = "N")]
    status_fd: Option<i32>,
    #[command(flatten)]
    refused: Refused,
}

impl Run {
    /// Launches; the exit code.
    pub fn execute(self, global: &Global, typed: &[OsString]) -> Result<u8> {
        let given = self.read_given(typed)?;
        self.close_inherited()?;
        self.launch(global, given, |_| {})
            .map(|outcome| outcome.code)
    }

    /// Erases secrets from the command line, and reads what it names: descriptors too (`--env-file <(…)`).
    pub fn read_given(&self, typed: &[OsString]) -> Result<Given> {
        // Reading may take a while.
        erase_secrets(&self.env, &self.sink, typed)?;
        let env_files = self.env_file.iter().map(|path| read_env_file(path));
        Ok(Given {
            env_files: env_files.collect(),
        })
    }

    /// Closes all descriptors of the caller's but standard input, output, error and the status descriptor. To be
    /// called before anything is opened.
    pub fn close_inherited(&self) -> Result<()> {
        close_inherited(self.status_fd)
    }

    /// Launches what `change` makes of the request.
    pub fn launch(
        self,
        global: &Global,
        given: Given,
        change: impl FnOnce(&mut Request),
    ) -> Result<Outcome> {
        let status = self
            .status_fd
            .map_or_else(|| Ok(Status::default()), Status::to_descriptor)?;
        let request = given
            .env_files
            .and_then(|env_files| self.request(global, env_files));
        let outcome = request.and_then(|mut request| {
            change(&mut request);
            container::run(&request, &status)
        });
        if let Err(error) = &outcome
            && error.exit != crate::error::EXIT_FAILED
        {
            status.refused(error)?;
        }
        outcome
    }

    fn request(self, global: &Global, env_files: Vec<EnvFile>) -> Result<Request> {
        self.refused.check()?;
        let image = digest(global, &self.image)?;
        let network = Network::new(&self.net, self.dns)?;
        let capabilities = self.cap_add.iter().map(|name| capabilities::parse(name));
        let capabilities = capabilities.collect::<Result<_>>()?;
        let sinks = sinks(&self.sink)?;
        // What is missing of an image that says where it is comes last: all else is right then.
        if let ImageArgument::Named(name) = self.image.parse()? {
            registry::present(&global.store(), &name, &image)?;
        }
        Ok(Request {
            store: global.store(),
            root: global.root.clone(),
            subject: Subject::Image(image),
            bundle: None,
            integrity: self.integrity,
            driver: self.root.driver,
            args: self.args,
            entrypoint: self.entrypoint,
            env_files,
            env: self.env,
            init: self.init,
            user: self.user,
            workdir: self.workdir,
            hostname: self.hostname,
            name: self.name.map(check_name).transpose()?,
            capabilities,
            network,
            limits: Limits {
                memory: self.memory.map(|bytes| bytes as u64),
                cpus: self.cpus,
                pids: self.pids,
                settings: Vec::new(),
                from_bundle: false,
            },
            on_write: self.on_write,
            stdin: if self.interactive {
                Some(stdin()?)
            } else {
                None
            },
            sinks,
            log_buffer: self.log_buffer,
            stop_signal: self.stop_signal,
            policy: Policy {
                on_stall: self.on_stall,
                stall_deadline: self.stall_deadline,
                stop_signal: libc::SIGTERM,
                stop_timeout: self.stop_timeout,
                drain: Duration::from_secs(5),
                run_for: None,
            },
            masked: Vec::new(),
            instead_of: None,
        })
    }
}

/// What the caller gave a launch.
pub struct Given {
    /// The files of `--env-file`, or why one cannot be read.
    env_files: Result<Vec<EnvFile>>,
}

fn read_env_file(path: &Path) -> Result<EnvFile> {
    let name = path.display().to_string();
    let bytes = files::read(path, MAX_ENV_FILE)?;
    Ok(EnvFile { name, bytes })
}

/// The digest that an argument is, or has. A tag is no identity: what it means here is only a hint.
pub fn digest(global: &Global, image: &str) -> Result<Digest> {
    let argument: ImageArgument = image.parse()?;
    if let Some(digest) = argument.digest() {
        return Ok(digest);
    }
    let error = Error::policy(
        format_args!("image {image:?}"),
        "is a name, which can mean another image tomorrow",
    );
    let names = crate::store::refs::current(global.store().refs()?);
    let meaning = spellings(image)
        .into_iter()
        .find_map(|name| Some(names.get(&name)?.0));
    Err(match (meaning, argument) {
        (Some(digest), _) => error.hint(format_args!("today it means {image}@{digest}")),
        (None, ImageArgument::Named(name)) => error.hint(format_args!(
            "imrun pull {name} brings it into the store, and prints its digest"
        )),
        (None, ImageArgument::Digest(_)) => error,
    })
}

/// What the history may know a name by: as it is typed, or as Docker reads it.
pub fn spellings(name: &str) -> Vec<String> {
    let read = name.parse::<Reference>().map(|name| name.tagged());
    [name.to_string()].into_iter().chain(read).collect()
}

/// Those that were given, each once.
pub(super) fn sinks(urls: &[String]) -> Result<Vec<SinkUrl>> {
    let urls: Vec<_> = urls.iter().filter(|url| !url.is_empty()).collect();
    let mut sinks: Vec<SinkUrl> = Vec::with_capacity(urls.len());
    for url in urls {
        let sink: SinkUrl = url.parse()?;
        if sinks.contains(&sink) {
            return Err(Error::usage(format_args!("sink {sink}"), "is given twice"));
        }
        sinks.push(sink);
    }
    match sinks.is_empty() {
        true => Err(
            Error::sink("sink", "none is given, and no line may be lost")
                .hint("--sink stdio: shows the output here; --sink URL or IMRUN_SINK ships it"),
        ),
        false => Ok(sinks),
    }
}

fn check_name(name: String) -> Result<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && name.len() <= 128 && name.bytes().all(allowed) {
        return Ok(name);
    }
    Err(Error::usage(
        format_args!("--name {name:?}"),
        "is not 1 to 128 letters, digits, '_', '.', '-', a letter or digit first",
    ))
}

fn stdin() -> Result<OwnedFd> {
    if std::io::stdin().is_terminal() {
        return Err(Error::policy(
            "-i",
            "standard input is a terminal, and a container has none",
        )
        .hint("pipe it: cat | imrun run -i …"));
    }
    stdin::pipe()
}

fn close_inherited(status_fd: Option<i32>) -> Result<()> {
    let close = |first, last| match first <= last {
        true => process::close_inherited(first, last)
            .context(|| format!("close_range({first}, {last})")),
        false => Ok(()),
    };
    match status_fd
        .and_then(|fd| u32::try_from(fd).ok())
        .filter(|fd| *fd >= 3)
    {
        Some(fd) => close(3, fd - 1).and_then(|()| close(fd + 1, u32::MAX)),
        None => close(3, u32::MAX),
    }
}

/// `-e K=V` would show V to everybody in /proc/PID/cmdline, `--sink` its password.
fn erase_secrets(env: &[OsString], sinks: &[String], typed: &[OsString]) -> Result<()> {
    let value = |argument: &[u8]| {
        let entries = env.iter().map(|entry| entry.as_encoded_bytes());
        let mut typed = entries.filter(|entry| argument.ends_with(entry));
        let entry = typed.find(|entry| entry.contains(&b'='))?;
        let equals = entry.iter().position(|byte| *byte == b'=')?;
        Some(argument.len() - entry.len() + equals + 1)
    };
    // A parameter can be a key. One argument can hold several URLs.
    let telling = sinks.iter().filter(|url| url.contains(['@', '?']));
    let telling: Vec<_> = telling.map(|url| url.as_bytes()).collect();
    let url = |argument: &[u8]| {
        let starts = |url: &&[u8]| argument.windows(url.len()).position(|part| part == *url);
        telling.iter().filter_map(starts).min()
    };
    let secret_from = |position: usize| {
        let argument = typed.get(position)?.as_encoded_bytes();
        value(argument).or_else(|| url(argument))
    };
    if (0..typed.len()).all(|position| secret_from(position).is_none()) {
        return Ok(());
    }
    arguments::erase(secret_from).context(|| "erase the secrets in /proc/self/cmdline")
}
