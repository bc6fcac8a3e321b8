//! What the commands do to containers.

use super::config::{Config, Reading};
use super::door::{self, AppIdentity, Door};
use super::preserved::Preserved;
use super::scope::Scope;
use super::state::{App, Known, Phase, Place};
use crate::capabilities::{self, Capabilities};
use crate::cgroup;
use crate::container::{self, Process, Request, Subject};
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::ids;
use crate::integrity::Demand;
use crate::launch::{self, Network};
use crate::observe::OnWrite;
use crate::ship::SinkUrl;
use crate::state::Runtime;
use crate::status::Status;
use crate::store::Store;
use crate::supervise::{OnStall, Policy, stdin};
use crate::sys::process::{self, Identity};
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

/// Bytes of a config.json that are read.
pub const MAX_CONFIG: u64 = 8 << 20;
/// How long a supervisor may take to clean up behind its container: the drain, and then some.
const CLEANUP: Duration = Duration::from_secs(20);

/// What the host decides, whatever a bundle says.
pub struct Host {
    /// The image store.
    pub store: Store,
    /// The runtime state.
    pub root: PathBuf,
    /// Where lines and records go.
    pub sinks: Vec<SinkUrl>,
    /// What containers may do beyond their user's rights, if their bundle lets them too.
    pub capabilities: Capabilities,
    /// What becomes of an app that tries to change a file system.
    pub on_write: OnWrite,
    /// `--systemd-cgroup`.
    pub systemd: bool,
}

impl Host {
    /// The capabilities of `IMRUN_CAP_ADD`: names between spaces or commas.
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

/// What is to be created.
pub struct Creation {
    /// As the caller names it.
    pub id: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Gets the app's process id.
    pub pid_file: Option<PathBuf>,
    /// The image that it has to be, whatever the bundle says.
    pub image: Option<Digest>,
    /// What it gets of the caller's.
    pub preserved: Preserved,
}

/// A container that was read, and not yet made.
struct Draft<'a> {
    host: &'a Host,
    creation: Creation,
    place: &'a Place,
    config: Config,
    known: Known,
}

fn read_config(bundle: &Path, systemd: bool, quiet: bool, image: Option<Digest>) -> Result<Config> {
    let file = bundle.join("config.json");
    let bytes = files::read(&file, MAX_CONFIG)?;
    let controllers = cgroup::controllers(&cgroup::hierarchy()?)?;
    let reading = Reading {
        directory: bundle,
        systemd,
        controllers: &controllers,
        image,
        quiet,
        is_directory: &|path| path.is_dir(),
    };
    Config::parse(&bytes, &reading)
}

fn namespace(kind: &str, path: &Path, flag: CloneFlags) -> Result<File> {
    let what = format!("config.json `linux.namespaces, {kind}` {path:?}");
    launch::open_namespace(&what, path, flag)
}

impl<'a> Draft<'a> {
    fn new(host: &'a Host, creation: Creation, place: &'a Place) -> Result<Draft<'a>> {
        let bundle = creation
            .bundle
            .canonicalize()
            .context(|| format!("realpath({:?})", creation.bundle))?;
        let quiet = host.on_write == OnWrite::Quiet;
        let mut config = read_config(&bundle, host.systemd, quiet, creation.image)?;
        let asked = config.bundle.cgroup.as_deref();
        match config.scope.as_ref().and(asked).and_then(Scope::place) {
            Some(place) => config.bundle.cgroup = Some(place),
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
        let preserved = &creation.preserved;
        preserved.announce(&mut config.bundle.process.env)?;
        config.bundle.descriptors = preserved.kinds().to_vec();
        let known = Known {
            id: creation.id.clone(),
            annotations: config.annotations.clone(),
            rootfs: match &config.subject {
                Subject::Image(digest) => digest.to_string(),
                Subject::Directory(path) => path.display().to_string(),
            },
            bundle,
            created: crate::time::now(),
            cgroup: None,
            supervisor: None,
            app: None,
            started: false,
            poststop: config.hooks.poststop.clone(),
        };
        Ok(Draft {
            host,
            creation,
            place,
            config,
            known,
        })
    }

    /// Launches the container behind a door, and watches over it; the app's exit code.
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
        let Creation {
            id,
            pid_file,
            preserved,
            ..
        } = self.creation;
        let (agent, capabilities) = (agent.as_ref(), capabilities.and(self.host.capabilities));
        let known = Known {
            supervisor: Some(App::of(std::process::id() as i32)?),
            ..self.known
        };
        self.place.write(&known)?;
        let door = Door::new(self.place, &hooks, agent, known, pid_file, preserved, from)
            .with_app(identity(&bundle.process, capabilities));
        let request = (|| {
            if let Some((scope, place)) = scope.zip(bundle.cgroup.as_deref()) {
                scope.enter(place)?;
            }
            Ok(Request {
                store: self.host.store.clone(),
                root: self.host.root.clone(),
                subject,
                bundle: Some(bundle),
                integrity: Demand::Auto,
                driver: crate::rootfs::Driver::Auto,
                args: Vec::new(),
                entrypoint: None,
                env_files: Vec::new(),
                env: Vec::new(),
                user: None,
                workdir: None,
                hostname: None,
                name: Some(id),
                capabilities,
                network: Network::with_files(&network, names)?.with_sysctls(network_sysctls),
                limits,
                on_write: self.host.on_write,
                stdin: given_stdin()?,
                sinks: self.host.sinks.clone(),
                log_buffer: 1 << 20,
                stop_signal: None,
                policy: Policy {
                    on_stall: OnStall::Block,
                    stall_deadline: Duration::from_secs(30),
                    stop_signal: libc::SIGTERM,
                    stop_timeout: Duration::from_secs(10),
                    drain: Duration::from_secs(5),
                    run_for: None,
                },
                masked: Vec::new(),
                instead_of: None,
                init: false,
            })
        })();
        let outcome = request
            .and_then(|request| container::run_behind(&request, &Status::default(), &door))
            .map(|outcome| outcome.code);
        if let Err(error) = &outcome {
            door.abandon()?;
            // Who hears of it there tells it on.
            if door.tell(&Err(error.clone())) {
                return Ok(error.exit);
            }
        }
        outcome
    }
}

/// As whom the app runs.
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

/// A pipe is the app's; all else is not, as nobody but the runtime knows what it is.
fn given_stdin() -> Result<Option<OwnedFd>> {
    match stdin_is_pipe()? {
        true => stdin::pipe().map(Some),
        false => Ok(None),
    }
}

fn stdin_is_pipe() -> Result<bool> {
    let mode = fstat(std::io::stdin()).context(|| "fstat(0)")?.st_mode;
    Ok(SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == SFlag::S_IFIFO)
}

/// Makes a container that waits for [`start`]; its supervisor stays behind.
pub fn create(host: &Host, creation: Creation) -> Result<()> {
    refuse_ordinary_users()?;
    Runtime::open(&host.root)?.sweep()?;
    let place = Place::of(&host.root, &creation.id)?;
    let draft = Draft::new(host, creation, &place)?;
    let lock = place.make()?;
    let made = supervise_apart(host, &place, draft);
    drop(lock);
    made
}

/// Forks the supervisor, and hears from it.
fn supervise_apart(host: &Host, place: &Place, draft: Draft<'_>) -> Result<()> {
    let prepared = (|| {
        place.write(&draft.known)?;
        let listener = place.listen()?;
        let (ours, theirs) = UnixStream::pair().context(|| "socketpair(AF_UNIX)")?;
        Ok((listener, ours, theirs))
    })();
    let (listener, ours, theirs) = match prepared {
        Ok(prepared) => prepared,
        // The first error is the one to tell.
        Err(error) => return place.remove().and(Err(error)),
    };
    if process::fork().context(|| "fork()")?.is_none() {
        drop(ours);
        let code = supervise(host, draft, (listener, theirs));
        process::exit(code.into());
    }
    drop((listener, theirs));
    door::outcome(ours)
}

/// The supervisor's whole life; its exit code.
fn supervise(
    host: &Host,
    draft: Draft<'_>,
    from: (std::os::unix::net::UnixListener, UnixStream),
) -> u8 {
    // It outlives the session of who called.
    if let Err(errno) = nix::unistd::setsid() {
        log::warn!("setsid(): {}", errno.desc());
    }
    if !host.sinks.iter().any(SinkUrl::is_bare) && !stdin_is_pipe().is_ok_and(|pipe| pipe) {
        // Whoever reads the caller's pipes sees their end: there is nothing to be kept of it.
        if let Err(errno) = process::close_stdio() {
            log::warn!("dup2(/dev/null): {}", errno.desc());
        }
    }
    draft.launch(Some(from)).unwrap_or_else(|error| {
        log::warn!("{error}");
        error.exit
    })
}

/// Creates, starts, watches over and deletes a container, unless it is to be kept; the app's exit code.
pub fn run(host: &Host, creation: Creation, keep: bool) -> Result<u8> {
    refuse_ordinary_users()?;
    Runtime::open(&host.root)?.sweep()?;
    let place = Place::of(&host.root, &creation.id)?;
    let draft = Draft::new(host, creation, &place)?;
    let known = draft.known.clone();
    let lock = place.make()?;
    let code = place.write(&known).and_then(|()| draft.launch(None));
    drop(lock);
    // What was never created is gone already.
    if !keep && place.exists() {
        forget(&place, &known)?;
    }
    code
}

/// Lets a created container go on, and waits until its program was executed.
pub fn start(root: &Path, id: &str) -> Result<()> {
    let (place, known, phase) = find(root, id)?;
    if phase != Phase::Created {
        return Err(unfit(&known, phase, "start"));
    }
    door::outcome(place.connect()?)
}

/// The container's state, as the specification has it.
pub fn state(root: &Path, id: &str) -> Result<Value> {
    let (_, known, phase) = find(root, id)?;
    Ok(known.document(phase))
}

/// A bundle says which ids, namespaces and cgroups its container has, and an ordinary user has few of
/// them to give.
fn refuse_ordinary_users() -> Result<()> {
    match ids::is_ordinary()? {
        false => Ok(()),
        true => Err(Error::unsupported("create", "takes root of the host")
            .hint("imrun run launches an image of the store without root")),
    }
}

/// Sends a signal to the app, or with `all` to every process of the container.
pub fn kill(root: &Path, id: &str, signal: i32, all: bool) -> Result<()> {
    let (_, known, phase) = find(root, id)?;
    let Some(app) = known.app.filter(|_| phase != Phase::Stopped) else {
        // Whatever is left of it goes with its first process.
        return match all {
            true => Ok(()),
            false => Err(unfit(&known, phase, "kill")),
        };
    };
    match (all, known.existing_cgroup()?) {
        (true, Some(cgroup)) if signal == libc::SIGKILL => cgroup.kill(),
        (true, Some(cgroup)) => cgroup
            .processes()?
            .into_iter()
            .filter_map(|pid| App::of(pid).ok())
            .try_for_each(|process| send(process, signal)),
        _ => send(app, signal),
    }
}

fn send(app: App, signal: i32) -> Result<()> {
    let pid = app.pid;
    let sent = process::pidfd_open(pid).and_then(|pidfd| {
        // What the number meant before it was opened may be another process.
        match app.is_alive() {
            true => process::pidfd_send_signal(pidfd.as_fd(), signal),
            false => Ok(()),
        }
    });
    match sent {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("pidfd_send_signal({pid}, {signal})")),
    }
}

/// Forgets a container that has ended; one that has not only with `force`, or before its start.
pub fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    let (place, known, phase) = match find(root, id) {
        Ok(found) => found,
        Err(_) if force && !Place::of(root, id)?.has_supervisor()? => {
            return Place::of(root, id)?.remove();
        }
        Err(error) => return Err(error),
    };
    match phase {
        Phase::Stopped => {}
        Phase::Created => kill(root, id, libc::SIGKILL, true)?,
        Phase::Creating if force => end_creation(&place, &known)?,
        _ if force => {
            let cgroup = known.existing_cgroup()?;
            cgroup.map_or(Ok(()), |cgroup| cgroup.kill())?;
        }
        _ => return Err(unfit(&known, phase, "delete").hint("--force kills it first")),
    }
    if !place.await_supervisor(CLEANUP)? {
        return Err(Error::system(
            format_args!("container {id:?}"),
            "its supervisor does not end",
        ));
    }
    // Of supervisors that were killed.
    Runtime::open(root)?.sweep()?;
    forget(&place, &known)
}

/// Ends a container that is being created, by ending who creates it: that one knows what it has made.
fn end_creation(place: &Place, known: &Known) -> Result<()> {
    let deadline = Instant::now() + CLEANUP;
    let mut supervisor = known.supervisor;
    // For a moment it is there, and has not said who it is.
    while supervisor.is_none() && place.has_supervisor()? && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        supervisor = place.read()?.supervisor;
    }
    let Some(supervisor) = supervisor else {
        return Ok(());
    };
    send(supervisor, libc::SIGTERM)?;
    if place.await_supervisor(CLEANUP / 2)? {
        return Ok(());
    }
    // Of a hook that does not end, say. The kernel ends the container with it.
    send(supervisor, libc::SIGKILL)
}

/// Forgets a container, and runs what its bundle has for then.
fn forget(place: &Place, known: &Known) -> Result<()> {
    place.remove()?;
    known.run_poststop();
    Ok(())
}

/// Lets no process of a running container run, or lets them run again.
pub fn freeze(root: &Path, id: &str, frozen: bool) -> Result<()> {
    let (_, known, phase) = find(root, id)?;
    let fits = match frozen {
        true => phase == Phase::Running,
        false => phase == Phase::Paused,
    };
    match known.existing_cgroup()? {
        Some(cgroup) if fits => cgroup.freeze(frozen),
        _ => Err(unfit(
            &known,
            phase,
            if frozen { "pause" } else { "resume" },
        )),
    }
}

/// The processes of a container, by the host's numbers.
pub fn processes(root: &Path, id: &str) -> Result<Vec<i32>> {
    let (_, known, _) = find(root, id)?;
    let cgroup = known.existing_cgroup()?;
    cgroup.map_or(Ok(Vec::new()), |cgroup| cgroup.processes())
}

/// The states of all containers.
pub fn list(root: &Path) -> Result<Vec<Value>> {
    let states = super::state::list(root)?;
    // One that is deleted meanwhile is none.
    Ok(states
        .iter()
        .filter_map(|id| state(root, id).ok())
        .collect())
}

fn find(root: &Path, id: &str) -> Result<(Place, Known, Phase)> {
    let place = Place::of(root, id)?;
    let known = place.read()?;
    let phase = place.phase(&known)?;
    Ok((place, known, phase))
}

fn unfit(known: &Known, phase: Phase, command: &str) -> Error {
    let id = &known.id;
    let error = Error::usage(
        format_args!("{command} {id}"),
        format_args!("the container is {}", phase.as_str()),
    );
    match (command, phase) {
        // containerd knows this wording of runc's.
        ("kill", Phase::Stopped) => {
            Error::usage(format_args!("kill {id}"), "container not running")
        }
        _ => error,
    }
}
