//! Operations of the OCI runtime on containers: create, run, start, kill, delete, pause, list.

use super::config::{Config, ParseContext};
use super::preserved::Preserved;
use super::scope::Scope;
use super::start_gate::{self, AppIdentity, StartGate};
use super::state::{ContainerDir, Phase, ProcessRef, Record};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::ids;
use crate::base::sys::process::{self, Identity};
use crate::logs::SinkUrl;
use crate::runtime::capabilities::{self, Capabilities};
use crate::runtime::cgroup;
use crate::runtime::container::{self, Process, Request, Source, Subject};
use crate::runtime::integrity::Demand;
use crate::runtime::launch::{self, Network};
use crate::runtime::observe::OnWrite;
use crate::runtime::state::Runtime;
use crate::runtime::status::Status;
use crate::runtime::supervise::{Policy, stdin};
use crate::store::Store;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::stat::{SFlag, fstat};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Maximum size of a config.json, in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Time limit for a supervisor to clean up after its container: the drain of 5 s, and a reserve.
const CLEANUP: Duration = Duration::from_secs(20);

/// Settings that the host decides; a bundle cannot change them.
pub struct Host {
    /// Image store.
    pub store: Store,
    /// Directory of the runtime state.
    pub root: PathBuf,
    /// Sinks of output lines and records.
    pub sinks: Vec<SinkUrl>,
    /// Capabilities that an app may have, if its bundle allows them too.
    pub capabilities: Capabilities,
    /// Reaction to an app that tries to change a file system.
    pub on_write: OnWrite,
    /// True with `--systemd-cgroup`.
    pub systemd: bool,
}

impl Host {
    /// Parses the value of `IMRUN_CAP_ADD`: names separated by spaces or commas.
    pub fn capabilities(names: &str) -> Result<Capabilities> {
        let names = names.split([' ', ',']).filter(|name| !name.is_empty());
        let parse = |name| {
            capabilities::parse(name).map_err(|error| Error {
                what: format!("IMRUN_CAP_ADD {name}"),
                ..error
            })
        };
        names.map(parse).collect()
    }
}

/// Arguments of `create` and `run`.
pub struct CreateOptions {
    /// Container ID, chosen by the caller.
    pub id: String,
    /// Directory of the bundle.
    pub bundle: PathBuf,
    /// File that gets the app's process id.
    pub pid_file: Option<PathBuf>,
    /// Image that the caller demands; it overrides the bundle's root.
    pub image: Option<Digest>,
    /// Descriptors that the app gets from the caller.
    pub preserved: Preserved,
}

/// A container whose bundle is parsed, and which is not created yet.
struct ParsedContainer<'a> {
    host: &'a Host,
    options: CreateOptions,
    directory: &'a ContainerDir,
    config: Config,
    record: Record,
}

fn read_config(bundle: &Path, systemd: bool, quiet: bool, image: Option<Digest>) -> Result<Config> {
    let file = bundle.join("config.json");
    let bytes = files::read(&file, MAX_CONFIG)?;
    let controllers = cgroup::controllers(&cgroup::hierarchy()?)?;
    let context = ParseContext {
        directory: bundle,
        systemd,
        controllers: &controllers,
        image,
        quiet,
        is_directory: &|path| path.is_dir(),
    };
    Config::parse(&bytes, &context)
}

fn namespace(kind: &str, path: &Path, flag: CloneFlags) -> Result<File> {
    let what = format!("config.json `linux.namespaces, {kind}` {path:?}");
    launch::open_namespace(&what, path, flag)
}

impl<'a> ParsedContainer<'a> {
    fn new(
        host: &'a Host,
        options: CreateOptions,
        directory: &'a ContainerDir,
    ) -> Result<ParsedContainer<'a>> {
        let bundle = options
            .bundle
            .canonicalize()
            .context(|| format!("realpath({:?})", options.bundle))?;
        let quiet = host.on_write == OnWrite::Quiet;
        let mut config = read_config(&bundle, host.systemd, quiet, options.image)?;
        let asked = config.bundle.cgroup.as_deref();
        match config
            .scope
            .as_ref()
            .and(asked)
            .and_then(Scope::container_cgroup)
        {
            Some(directory) => config.bundle.cgroup = Some(directory),
            None => config.scope = None,
        }
        if let Some(path) = config.network.strip_prefix("ns:") {
            namespace("network", Path::new(path), CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(path) = &config.ipc {
            namespace("ipc", path, CloneFlags::CLONE_NEWIPC)?;
        }
        if let Some(path) = &config.uts {
            let uts = namespace("uts", path, CloneFlags::CLONE_NEWUTS)?;
            if config.bundle.hostname.is_none() {
                config.bundle.hostname = Some(launch::host_name_of(&uts)?);
            }
        }
        let preserved = &options.preserved;
        preserved.announce(&mut config.bundle.process.env)?;
        config.bundle.descriptors = preserved.kinds().to_vec();
        let record = Record {
            id: options.id.clone(),
            annotations: config.annotations.clone(),
            rootfs: match &config.subject {
                Subject::Image(digest) => digest.to_string(),
                Subject::Directory(path) => path.display().to_string(),
            },
            bundle,
            created: crate::base::time::now(),
            cgroup: None,
            supervisor: None,
            app: None,
            started: false,
            in_poststart: false,
            poststop: config.hooks.poststop.clone(),
        };
        Ok(ParsedContainer {
            host,
            options,
            directory,
            config,
            record,
        })
    }

    /// Launches the container behind a start gate and supervises it. Returns the app's exit code.
    fn launch(self, from: Option<(std::os::unix::net::UnixListener, UnixStream)>) -> Result<u8> {
        let Config {
            subject,
            bundle,
            network,
            network_sysctls,
            names,
            capabilities,
            limits,
            hooks,
            scope,
            agent,
            ..
        } = self.config;
        let CreateOptions {
            id,
            pid_file,
            preserved,
            ..
        } = self.options;
        let (agent, capabilities) = (agent.as_ref(), capabilities.and(self.host.capabilities));
        let record = Record {
            supervisor: Some(ProcessRef::of(std::process::id() as i32)?),
            ..self.record
        };
        self.directory.write(&record)?;
        let gate = StartGate::new(
            self.directory,
            &hooks,
            agent,
            record,
            pid_file,
            preserved,
            from,
        )
        .with_app(identity(&bundle.process, capabilities));
        let request = (|| {
            if let Some((scope, directory)) = scope.zip(bundle.cgroup.as_deref()) {
                scope.enter(directory)?;
            }
            Ok(Request {
                store: self.host.store.clone(),
                root: self.host.root.clone(),
                source: Source::Bundle {
                    root: subject,
                    bundle: Box::new(bundle),
                },
                integrity: Demand::Auto,
                driver: crate::runtime::rootfs::Driver::Auto,
                name: Some(id),
                capabilities,
                network: Network::with_files(&network, names)?.with_sysctls(network_sysctls),
                limits,
                on_write: self.host.on_write,
                stdin: app_stdin()?,
                sinks: self.host.sinks.clone(),
                log_buffer: 1 << 20,
                policy: Policy::default(),
            })
        })();
        let outcome = request
            .and_then(|request| container::run_with_gate(&request, &Status::default(), &gate))
            .map(|outcome| outcome.code);
        if let Err(error) = &outcome {
            gate.abandon()?;
            // The client of the gate reports it.
            if gate.report(&Err(error.clone())) {
                return Ok(error.exit);
            }
        }
        outcome
    }
}

/// Returns the app's user, capabilities and environment.
fn identity(process: &Process, capabilities: Capabilities) -> AppIdentity {
    let owned = |(name, value): (&OsStr, &OsStr)| (name.to_owned(), value.to_owned());
    AppIdentity {
        identity: Identity::User {
            uid: process.uid,
            gid: process.gid,
            groups: process.groups.clone(),
            capabilities: capabilities.bits(),
        },
        env: process.env.iter().map(owned).collect(),
    }
}

/// Returns standard input if it is a pipe. Anything else belongs to the runtime's caller, and the app gets none.
fn app_stdin() -> Result<Option<OwnedFd>> {
    if stdin_is_pipe()? {
        stdin::pipe().map(Some)
    } else {
        Ok(None)
    }
}

fn stdin_is_pipe() -> Result<bool> {
    let mode = fstat(std::io::stdin()).context(|| "fstat(0)")?.st_mode;
    Ok(SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == SFlag::S_IFIFO)
}

/// Creates a container that waits for [`start`]. Its supervisor keeps running.
pub fn create(host: &Host, options: CreateOptions) -> Result<()> {
    require_root("create")?;
    Runtime::open(&host.root)?.sweep()?;
    let directory = ContainerDir::of(&host.root, &options.id)?;
    let parsed = ParsedContainer::new(host, options, &directory)?;
    let lock = directory.make()?;
    let made = fork_supervisor(host, &directory, parsed);
    drop(lock);
    made
}

/// Forks the supervisor and waits until it reports that the container is created.
fn fork_supervisor(
    host: &Host,
    directory: &ContainerDir,
    parsed: ParsedContainer<'_>,
) -> Result<()> {
    let prepared = (|| {
        directory.write(&parsed.record)?;
        let listener = directory.listen()?;
        let (ours, theirs) = UnixStream::pair().context(|| "socketpair(AF_UNIX)")?;
        Ok((listener, ours, theirs))
    })();
    let (listener, ours, theirs) = match prepared {
        Ok(prepared) => prepared,
        // The first error is the one to report.
        Err(error) => return directory.remove().and(Err(error)),
    };
    if process::fork().context(|| "fork()")?.is_none() {
        drop(ours);
        let code = supervise(host, parsed, (listener, theirs));
        process::exit(code.into());
    }
    drop((listener, theirs));
    start_gate::read_outcome(ours)
}

/// Runs the supervisor in its own session. Returns its exit code.
fn supervise(
    host: &Host,
    parsed: ParsedContainer<'_>,
    from: (std::os::unix::net::UnixListener, UnixStream),
) -> u8 {
    // The supervisor outlives its caller's session.
    if let Err(errno) = nix::unistd::setsid() {
        log::warn!("setsid(): {}", errno.desc());
    }
    if !host.sinks.iter().any(SinkUrl::is_bare) && !stdin_is_pipe().is_ok_and(|pipe| pipe) {
        // The supervisor needs none of the caller's pipes; their readers must see the end of file.
        if let Err(errno) = process::close_stdio() {
            log::warn!("dup2(/dev/null): {}", errno.desc());
        }
    }
    parsed.launch(Some(from)).unwrap_or_else(|error| {
        log::warn!("{error}");
        error.exit
    })
}

/// Creates, starts and supervises a container, and deletes it unless `keep`. Returns the app's exit code.
pub fn run(host: &Host, options: CreateOptions, keep: bool) -> Result<u8> {
    require_root("create")?;
    Runtime::open(&host.root)?.sweep()?;
    let directory = ContainerDir::of(&host.root, &options.id)?;
    let parsed = ParsedContainer::new(host, options, &directory)?;
    let record = parsed.record.clone();
    let lock = directory.make()?;
    let code = directory.write(&record).and_then(|()| parsed.launch(None));
    drop(lock);
    // A container whose creation failed is removed already.
    if !keep && directory.exists() {
        remove(&directory, &record)?;
    }
    code
}

/// Starts a created container, and waits until it has executed its program.
pub fn start(root: &Path, id: &str) -> Result<()> {
    require_root("start")?;
    let (directory, record, phase) = find(root, id)?;
    if phase != Phase::Created {
        return Err(wrong_status(&record, phase, "start"));
    }
    start_gate::read_outcome(directory.connect()?)
}

/// Returns the container's state (runtime-spec, runtime.md).
pub fn state(root: &Path, id: &str) -> Result<Value> {
    require_root("state")?;
    let (_, record, phase) = find(root, id)?;
    Ok(record.document(phase))
}

/// Refuses users other than root: they do not have the ids, namespaces and cgroups that a bundle asks for.
fn require_root(command: &str) -> Result<()> {
    if ids::is_ordinary()? {
        Err(Error::unsupported(command, "needs root of the host")
            .hint("imrun run launches an image of the store without root"))
    } else {
        Ok(())
    }
}

/// Sends a signal to the app, or with `all` to every process of the container.
pub fn kill(root: &Path, id: &str, signal: i32, all: bool) -> Result<()> {
    require_root("kill")?;
    let (_, record, phase) = find(root, id)?;
    let Some(app) = record.app.filter(|_| phase != Phase::Stopped) else {
        // The kernel ends all processes of the container with its first one.
        return if all {
            Ok(())
        } else {
            Err(wrong_status(&record, phase, "kill"))
        };
    };
    match (all, record.existing_cgroup()?) {
        (true, Some(cgroup)) if signal == libc::SIGKILL => cgroup.kill(),
        (true, Some(cgroup)) => cgroup
            .processes()?
            .into_iter()
            .filter_map(|pid| ProcessRef::of(pid).ok())
            .try_for_each(|process| send(process, signal)),
        _ => send(app, signal),
    }
}

fn send(app: ProcessRef, signal: i32) -> Result<()> {
    let pid = app.pid;
    let sent = process::pidfd_open(pid).and_then(|pidfd| {
        // Another process may have got the number before the descriptor was opened.
        if app.is_alive() {
            process::pidfd_send_signal(pidfd.as_fd(), signal)
        } else {
            Ok(())
        }
    });
    match sent {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("pidfd_send_signal({pid}, {signal})")),
    }
}

/// Deletes a stopped or created container. With `force`, kills it first if it runs.
pub fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    require_root("delete")?;
    let (directory, record, phase) = match find(root, id) {
        Ok(found) => found,
        Err(_) if force && !ContainerDir::of(root, id)?.has_supervisor()? => {
            return ContainerDir::of(root, id)?.remove();
        }
        Err(error) => return Err(error),
    };
    match phase {
        Phase::Stopped => {}
        Phase::Created => kill(root, id, libc::SIGKILL, true)?,
        Phase::Creating if force => {
            end_creation(&directory, &record)?;
            // The supervisor removes it itself, unless it was killed.
            if directory.await_supervisor(CLEANUP)? && !directory.exists() {
                return Ok(());
            }
        }
        _ if force => {
            let cgroup = record.existing_cgroup()?;
            cgroup.map_or(Ok(()), |cgroup| cgroup.kill())?;
            if let Some(supervisor) = record.supervisor.filter(|_| record.in_poststart) {
                send(supervisor, libc::SIGTERM)?;
            }
        }
        _ => return Err(wrong_status(&record, phase, "delete").hint("--force kills it first")),
    }
    if !directory.await_supervisor(CLEANUP)? {
        return Err(Error::system(
            format_args!("container {id:?}"),
            "its supervisor did not end in time",
        ));
    }
    // Killed supervisors leave state behind.
    Runtime::open(root)?.sweep()?;
    remove(&directory, &record)
}

/// Ends a container that is being created. Its supervisor gets SIGTERM first, so that it can clean up.
fn end_creation(directory: &ContainerDir, record: &Record) -> Result<()> {
    let deadline = Instant::now() + CLEANUP;
    let mut supervisor = record.supervisor;
    // The supervisor locks the directory before it writes its process id.
    while supervisor.is_none() && directory.has_supervisor()? && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        supervisor = directory.read()?.supervisor;
    }
    let Some(supervisor) = supervisor else {
        return Ok(());
    };
    send(supervisor, libc::SIGTERM)?;
    if directory.await_supervisor(CLEANUP / 2)? {
        return Ok(());
    }
    // A hook may hang, for example. The kernel ends the container with its supervisor.
    send(supervisor, libc::SIGKILL)
}

/// Removes a container's directory, then runs the bundle's `poststop` hooks.
fn remove(directory: &ContainerDir, record: &Record) -> Result<()> {
    directory.remove()?;
    record.run_poststop()
}

/// Freezes or thaws all processes of a running container.
pub fn freeze(root: &Path, id: &str, frozen: bool) -> Result<()> {
    require_root(if frozen { "pause" } else { "resume" })?;
    let (_, record, phase) = find(root, id)?;
    let fits = if frozen {
        phase == Phase::Running
    } else {
        phase == Phase::Paused
    };
    match record.existing_cgroup()? {
        Some(cgroup) if fits => cgroup.freeze(frozen),
        _ => Err(wrong_status(
            &record,
            phase,
            if frozen { "pause" } else { "resume" },
        )),
    }
}

/// Returns the process ids of a container in the host's pid namespace.
pub fn processes(root: &Path, id: &str) -> Result<Vec<i32>> {
    require_root("ps")?;
    let (_, record, _) = find(root, id)?;
    let cgroup = record.existing_cgroup()?;
    cgroup.map_or(Ok(Vec::new()), |cgroup| cgroup.processes())
}

/// Returns the states of all containers.
pub fn list(root: &Path) -> Result<Vec<Value>> {
    require_root("list")?;
    let states = super::state::list(root)?;
    // Another process may delete a container meanwhile.
    Ok(states
        .iter()
        .filter_map(|id| state(root, id).ok())
        .collect())
}

fn find(root: &Path, id: &str) -> Result<(ContainerDir, Record, Phase)> {
    let directory = ContainerDir::of(root, id)?;
    let record = directory.read()?;
    let phase = directory.phase(&record)?;
    Ok((directory, record, phase))
}

fn wrong_status(record: &Record, phase: Phase, command: &str) -> Error {
    let id = &record.id;
    let error = Error::usage(
        format_args!("{command} {id}"),
        format_args!("the container is {}", phase.as_str()),
    );
    match (command, phase) {
        // containerd matches this text of runc.
        ("kill", Phase::Stopped) => {
            Error::usage(format_args!("kill {id}"), "container not running")
        }
        _ => error,
    }
}
