//! `imrun run`: converts arguments to a checked request.

use super::{Global, registry, values};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::sys::{arguments, process};
use crate::image::reference::{ImageArgument, Reference};
use crate::logs::SinkUrl;
use crate::runtime::capabilities;
use crate::runtime::cgroup::{Cpus, Limits};
use crate::runtime::container::{self, EnvFile, ImageLaunch, Outcome, Request, Source};
use crate::runtime::integrity::Demand;
use crate::runtime::launch::Network;
use crate::runtime::observe::OnWrite;
use crate::runtime::rootfs::Driver;
use crate::runtime::status::Status;
use crate::runtime::supervise::{OnStall, Policy, signals, stdin};
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

Exit codes: the app's own, 128+n by signal n; 121 imrun failed after the start, 122 a side effect under
--on-write kill, 123 the sink stayed stalled, 124 lines were lost, 125 refused: nothing of the image ran,
126 the entrypoint cannot be executed, 127 it was not found.";

/// Maximum size of an environment file, in bytes: more than execve(2) accepts for all variables and arguments.
const MAX_ENV_FILE: u64 = 8 << 20;

/// Options of commands that mount an image.
#[derive(Args)]
pub(super) struct Root {
    /// Driver for the root: mount the image, or unpack it once
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
    // One list: every word after the image is the app's, whatever its name.
    /// Image (sha256:… or NAME@sha256:…), and the arguments that replace its command
    #[arg(trailing_var_arg = true, required = true, value_name = "IMAGE")]
    words: Vec<OsString>,
    /// Pass standard input to the app
    #[arg(short, long)]
    interactive: bool,
    /// Set a variable; without =VALUE, copy it from imrun's environment
    #[arg(short, long, value_name = "K[=V]")]
    env: Vec<OsString>,
    /// Read variables from a file, one per line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Send output to es+http://HOST:PORT, otlp, syslog, forward, json, stdio: (docs/sinks.md); can be
    /// repeated
    #[arg(
        long,
        value_name = "URL",
        env = "IMRUN_SINK",
        hide_env_values = true,
        value_delimiter = ' '
    )]
    pub(super) sink: Vec<String>,
    /// Action if the app tries to change a file system [default: report]
    #[arg(long, value_enum, value_name = "HOW")]
    on_write: Option<OnWrite>,
    /// Action while the sink accepts no output
    #[arg(long, value_enum, default_value = "block", value_name = "HOW")]
    on_stall: OnStall,
    /// Time limit of a stall, for --on-stall kill [default: 30s]
    #[arg(long, value_parser = values::duration, value_name = "TIME")]
    stall_deadline: Option<Duration>,
    /// Size of the buffer of output for each sink
    #[arg(long, default_value = "1M", value_parser = values::size, value_name = "SIZE")]
    log_buffer: usize,
    /// Network of the app: none, host or ns:PATH
    #[arg(long, alias = "network", default_value = "none", value_name = "NET")]
    net: String,
    /// Use this name server instead of the host's; up to three
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Limit of memory, without swap
    #[arg(long, value_parser = values::size, value_name = "SIZE")]
    memory: Option<usize>,
    /// Limit of processor time, in CPUs: 2, 0.5
    #[arg(long, value_name = "N")]
    cpus: Option<Cpus>,
    /// Limit of processes and threads
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pids: Option<u64>,
    /// Host name of the container [default: from the digest]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Replace the image's user: USER[:GROUP], names or numbers
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Give the app a capability: NET_RAW, IPC_LOCK, …
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Replace the image's working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Replace the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    /// Name for ps and stop
    #[arg(long)]
    name: Option<String>,
    /// Replace the image's stop signal
    #[arg(long, value_parser = signals::parse, value_name = "SIGNAL")]
    stop_signal: Option<i32>,
    /// Run the app as process 2, behind one of imrun's that passes signals on and reaps orphans
    #[arg(long)]
    init: bool,
    /// Kill the app this time after the stop signal
    #[arg(long, default_value = "10s", value_parser = values::duration, value_name = "TIME")]
    stop_timeout: Duration,
    /// Demand at least this integrity level
    #[arg(long, value_enum, default_value = "auto", value_name = "LEVEL")]
    integrity: Demand,
    #[command(flatten)]
    root: Root,
    /// Write status events to this descriptor, one JSON object per line
    #[arg(long, value_name = "N")]
    status_fd: Option<i32>,
}

impl Run {
    /// Launches the image. Returns the exit code.
    pub fn execute(self, global: &Global, typed: &[OsString]) -> Result<u8> {
        let given = self.read_input(typed)?;
        self.close_inherited()?;
        self.launch(global, given, |_| {})
            .map(|outcome| outcome.code)
    }

    /// Refuses `--on-write` in a check, which neither kills nor is quiet.
    pub fn refuse_policy(&self) -> Result<()> {
        match self.on_write {
            None => Ok(()),
            Some(_) => Err(Error::usage(
                "--on-write",
                "imrun check lets the app go on and reports what it tried",
            )
            .hint("leave it out")),
        }
    }

    /// Erases secrets from the command line, and reads the files that it names, which may be descriptors
    /// (`--env-file <(…)`).
    pub fn read_input(&self, typed: &[OsString]) -> Result<CallerInput> {
        // Erase first: reading may block.
        erase_secrets(&self.env, &self.sink, typed)?;
        let env_files = self.env_file.iter().map(|path| read_env_file(path));
        Ok(CallerInput {
            env_files: env_files.collect(),
        })
    }

    /// Closes all inherited descriptors except the standard streams and the status descriptor. Must run before
    /// anything is opened.
    pub fn close_inherited(&self) -> Result<()> {
        close_inherited(self.status_fd)
    }

    /// Launches the image, after `change` has adapted the request.
    pub fn launch(
        self,
        global: &Global,
        given: CallerInput,
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
            && error.exit != crate::base::error::EXIT_FAILED
        {
            status.refused(error)?;
        }
        outcome
    }

    /// The image as it was typed.
    pub fn image(&self) -> Result<String> {
        let image = self.words[0].to_str();
        let wrong = || Error::usage(format_args!("image {:?}", self.words[0]), "is not UTF-8");
        image.map(str::to_owned).ok_or_else(wrong)
    }

    fn request(mut self, global: &Global, env_files: Vec<EnvFile>) -> Result<Request> {
        if self.stall_deadline.is_some() && self.on_stall != OnStall::Kill {
            return Err(
                Error::usage("--stall-deadline", "only --on-stall kill has a deadline")
                    .hint("add --on-stall kill, or leave it out"),
            );
        }
        let typed = self.image()?;
        let image = digest(global, &typed)?;
        let network = Network::new(&self.net, self.dns)?;
        let capabilities = self.cap_add.iter().map(|name| capabilities::parse(name));
        let capabilities = capabilities.collect::<Result<_>>()?;
        let sinks = sinks(&self.sink)?;
        // Pull missing parts last, when everything else is checked.
        if let ImageArgument::Named(name) = typed.parse()? {
            registry::present(&global.store(), &name, &image)?;
        }
        let usual = Policy::default();
        Ok(Request {
            store: global.store(),
            root: global.root.clone(),
            source: Source::Image(Box::new(ImageLaunch {
                image,
                args: self.words.split_off(1),
                entrypoint: self.entrypoint,
                env_files,
                env: self.env,
                init: self.init,
                user: self.user,
                workdir: self.workdir,
                hostname: self.hostname,
                stop_signal: self.stop_signal,
                masked: Vec::new(),
                instead_of: None,
            })),
            integrity: self.integrity,
            driver: self.root.driver,
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
            on_write: self.on_write.unwrap_or(OnWrite::Report),
            stdin: if self.interactive {
                Some(stdin()?)
            } else {
                None
            },
            sinks,
            log_buffer: self.log_buffer,
            policy: Policy {
                on_stall: self.on_stall,
                stall_deadline: self.stall_deadline.unwrap_or(usual.stall_deadline),
                stop_timeout: self.stop_timeout,
                ..usual
            },
        })
    }
}

/// Reports a wrong command line to the status descriptor that it names.
pub fn tell_status(args: &[OsString], error: &Error) -> Result<()> {
    let mut words = args.iter().filter_map(|word| word.to_str());
    let number = words.by_ref().find_map(|word| match word {
        "--status-fd" => Some(None),
        word => word.strip_prefix("--status-fd=").map(Some),
    });
    let number = number.and_then(|value| value.or_else(|| words.next()));
    match number.and_then(|number| number.parse().ok()) {
        Some(number) => Status::to_descriptor(number)?.refused(error),
        None => Ok(()),
    }
}

/// Input of a launch that was read before descriptors are closed.
pub struct CallerInput {
    /// Content of the files of `--env-file`, or the error of one.
    env_files: Result<Vec<EnvFile>>,
}

fn read_env_file(path: &Path) -> Result<EnvFile> {
    let name = path.display().to_string();
    let bytes = files::read(path, MAX_ENV_FILE)?;
    Ok(EnvFile { name, bytes })
}

/// Returns the digest in an argument. A name or tag is refused, with its current digest as a hint.
pub fn digest(global: &Global, image: &str) -> Result<Digest> {
    let argument: ImageArgument = image.parse()?;
    if let Some(digest) = argument.digest() {
        return Ok(digest);
    }
    let error = Error::policy(
        format_args!("image {image:?}"),
        "is a name, and may refer to another image later",
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

/// Returns the spellings of a name in the history: as typed, and as Docker expands it.
pub fn spellings(name: &str) -> Vec<String> {
    let read = name.parse::<Reference>().map(|name| name.tagged());
    [name.to_string()].into_iter().chain(read).collect()
}

/// Parses the URLs of sinks, which must differ.
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
    if sinks.is_empty() {
        Err(
            Error::sink("sink", "none is given, and no line may be lost")
                .hint("--sink stdio: shows the output here; --sink URL or IMRUN_SINK ships it"),
        )
    } else {
        Ok(sinks)
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
        "expected 1 to 128 letters, digits, '_', '.' and '-', a letter or digit first",
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
    let close = |first, last| {
        if first <= last {
            process::close_inherited(first, last)
                .context(|| format!("close_range({first}, {last})"))
        } else {
            Ok(())
        }
    };
    match status_fd
        .and_then(|fd| u32::try_from(fd).ok())
        .filter(|fd| *fd >= 3)
    {
        Some(fd) => close(3, fd - 1).and_then(|()| close(fd + 1, u32::MAX)),
        None => close(3, u32::MAX),
    }
}

/// Erases values of `-e K=V` and passwords of `--sink`, which all users see in /proc/PID/cmdline.
fn erase_secrets(env: &[OsString], sinks: &[String], typed: &[OsString]) -> Result<()> {
    let value = |argument: &[u8]| {
        let entries = env.iter().map(|entry| entry.as_encoded_bytes());
        let mut typed = entries.filter(|entry| argument.ends_with(entry));
        let entry = typed.find(|entry| entry.contains(&b'='))?;
        let equals = entry.iter().position(|byte| *byte == b'=')?;
        Some(argument.len() - entry.len() + equals + 1)
    };
    // A query may contain a key. One argument may contain several URLs.
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
