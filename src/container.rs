//! One launch, from a digest to the exit record.
//!
//! ```text
//! image → verify → mount → launch record → sink's acknowledgement
//!                        ↘ prepare (clone) ↗            ↓
//!                                              execute → supervise → exit record
//! ```
#![forbid(unsafe_code)]

use crate::cgroup::Cgroup;
use crate::digest::{Digest, hex};
use crate::env::{self, Contract, Environment};
use crate::error::{Context, EXIT_FAILED, EXIT_LOST, Error, Result};
use crate::launch::{self, Network, Spec};
use crate::record::Record;
use crate::rootfs::{self, Backing, Root};
use crate::ship::{Counters, Origin, Shipper, SinkUrl};
use crate::state::{Entry, Runtime};
use crate::status::Status;
use crate::store::Store;
use crate::store::image::{Image, Verified};
use crate::supervise::{Ending, Policy, Supervisor, catch_signals};
use crate::sys::process::Pointers;
use crate::user::User;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use serde_json::{Value, json};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where programs are looked for when the environment does not say (the default of Docker,
/// containerd and Podman).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the sink may take to acknowledge the launch record.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What is to be launched, and how: checked, but not yet against the image.
pub struct Request {
    /// Where images are.
    pub store: Store,
    /// The directory of the runtime state.
    pub root: PathBuf,
    /// A manifest or an index.
    pub image: Digest,
    /// In place of the image's command.
    pub args: Vec<OsString>,
    /// In place of the image's entrypoint; empty: none.
    pub entrypoint: Option<OsString>,
    /// Adds to the image's environment, and replaces what is in it.
    pub environment: Box<dyn Fn(&mut Environment) -> Result<()>>,
    /// In place of the image's user.
    pub user: Option<String>,
    /// In place of the image's working directory.
    pub workdir: Option<String>,
    /// In place of a name made from the digest.
    pub hostname: Option<String>,
    /// Unique among the running containers.
    pub name: Option<String>,
    /// Which network it sees.
    pub network: Network,
    /// What becomes the app's standard input.
    pub stdin: Option<OwnedFd>,
    /// Where lines and records go.
    pub sink: SinkUrl,
    /// Bytes that may wait for the sink.
    pub log_buffer: usize,
    /// In place of the image's stop signal.
    pub stop_signal: Option<i32>,
    /// How it is watched over; its stop signal is the default.
    pub policy: Policy,
}

/// Launches, supervises and cleans up; the exit code.
///
/// # Errors
/// With exit code 125, 126 or 127 nothing of the image ran. With 121 imrun failed afterwards, and
/// ended the container.
pub fn run(request: &Request, status: &Status) -> Result<u8> {
    let signals = catch_signals()?;
    let image = Image::load(&request.store, &request.image)?;
    image.expect_host()?;
    let verified = image.verify(&request.store)?;
    let integrity = "hashed";
    status.event("verified", json!({ "image": image.digest, "integrity": integrity }))?;
    let tars: Vec<_> = verified.tars.iter().map(AsFd::as_fd).collect();
    let root = rootfs::mount(verified.tree.as_fd(), &tars)?;
    let plan = Plan::new(request, &image, &root)?;
    let (record, launch) = plan.record(request, &image, &verified, &root, integrity)?.seal();
    drop(verified);

    let runtime = Runtime::open(&request.root)?;
    runtime.sweep()?;
    if let Some(name) = &request.name {
        runtime.refuse_name(name)?;
    }
    let id = new_id()?;
    let entry = runtime.enter(&id)?;
    let launch = Launch { request, id, launch, image: image.digest, integrity, plan, root };
    let outcome = launch.start_in(&entry, record, &signals, status);
    // What is left is removed whatever happened; the first error is the one that is told.
    let removed = entry.remove();
    let code = outcome?;
    removed.map_err(|error| error.exit(EXIT_FAILED))?;
    Ok(code)
}

struct Launch<'a> {
    request: &'a Request,
    id: String,
    launch: Digest,
    image: Digest,
    integrity: &'static str,
    plan: Plan,
    root: Root,
}

impl Launch<'_> {
    fn start_in(
        &self,
        entry: &Entry,
        record: Value,
        signals: &nix::sys::signalfd::SignalFd,
        status: &Status,
    ) -> Result<u8> {
        let options = crate::ship::Options { buffer: self.request.log_buffer, timeout: HANDSHAKE };
        let shipper = Shipper::start(&self.request.sink, self.origin()?, options)?;
        let sequence = shipper.push_record("launch", json!({ "id": self.launch, "record": record }));
        let cgroup = Cgroup::create(&self.id)?;
        let outcome = self.supervise(entry, &cgroup, &shipper, sequence, signals, status);
        let removed = cgroup.remove();
        let ending = outcome?;
        removed.map_err(|error| error.exit(EXIT_FAILED))?;
        self.finish(&shipper, ending, status)
    }

    fn supervise(
        &self,
        entry: &Entry,
        cgroup: &Cgroup,
        shipper: &Shipper,
        sequence: u64,
        signals: &nix::sys::signalfd::SignalFd,
        status: &Status,
    ) -> Result<Ending> {
        let directory = cgroup.open()?;
        let prepared = launch::prepare(
            &self.plan.spec,
            self.root.mount.as_fd(),
            entry.path(),
            entry.first_id(),
            directory.as_fd(),
        )?;
        shipper.wait_acknowledged(sequence, Instant::now() + HANDSHAKE)?;
        prepared.execute()?;
        let late = |error: Error| error.exit(EXIT_FAILED);
        entry.publish(&self.status(prepared.pid.as_raw())).map_err(late)?;
        let started = json!({ "id": self.id, "launch": self.launch, "pid": prepared.pid.as_raw() });
        status.event("started", started).map_err(late)?;
        Supervisor::new(prepared, cgroup, shipper, signals, self.plan.policy)
            .and_then(Supervisor::watch)
            .map_err(late)
    }

    /// The exit record, and what became of the lines.
    fn finish(&self, shipper: &Shipper, ending: Ending, status: &Status) -> Result<u8> {
        let deadline = Instant::now() + self.plan.policy.drain;
        let lines = shipper.drain(deadline);
        let mut code = ending.code;
        let lost = lines.read - lines.acknowledged;
        if lost > 0 && code == 0 {
            code = EXIT_LOST;
        }
        let record = json!({
            "launch": self.launch,
            "code": code,
            "signal": ending.signal,
            "stalled": ending.stalled,
            "lines": counts(&lines),
        });
        shipper.push_record("exit", record.clone());
        let settled = shipper.drain(deadline.max(Instant::now() + Duration::from_millis(100)));
        if lost > 0 || settled.pending_records > 0 {
            log::warn!("{}", loss(&lines, &settled, shipper));
        }
        status.event("exit", record).map_err(|error| error.exit(EXIT_FAILED))?;
        Ok(code)
    }

    fn origin(&self) -> Result<Origin> {
        Ok(Origin {
            container_id: self.id.clone(),
            container_name: self.request.name.clone(),
            image_digest: self.image.to_string(),
            host_name: host_name()?,
            launch_id: self.launch.to_string(),
        })
    }

    fn status(&self, pid: i32) -> crate::state::Status {
        crate::state::Status {
            id: self.id.clone(),
            name: self.request.name.clone(),
            image: self.image.to_string(),
            launch: self.launch.to_string(),
            integrity: self.integrity.into(),
            sink: self.request.sink.to_string(),
            supervisor: std::process::id() as i32,
            pid,
            started: crate::time::now(),
            args: self.plan.args(),
        }
    }
}

fn counts(lines: &Counters) -> Value {
    json!({
        "read": lines.read,
        "acknowledged": lines.acknowledged,
        "dropped": lines.dropped,
        "rejected": lines.rejected,
        "pending": lines.pending,
        "retried": lines.retried,
    })
}

fn loss(lines: &Counters, settled: &Counters, shipper: &Shipper) -> String {
    let mut text = format!(
        "logs: of {} lines {} were acknowledged, {} dropped, {} rejected, {} still waited",
        lines.read, lines.acknowledged, lines.dropped, lines.rejected, lines.pending
    );
    if settled.pending_records > 0 {
        text += "; the exit record was not acknowledged";
    }
    if let Some(why) = shipper.last_rejection() {
        text += &format!("; the sink said: {why}");
    }
    text
}

/// What the image's config and the request together make of the launch.
struct Plan {
    spec: Spec,
    policy: Policy,
    environment: Environment,
}

impl Plan {
    fn new(request: &Request, image: &Image, root: &Root) -> Result<Plan> {
        let config = &image.config;
        let user = resolve_user(request, image, root)?;
        let mut environment = Environment::new();
        environment.add_image(&config.env)?;
        default(&mut environment, "PATH", OsStr::new(PATH))?;
        if let Some(home) = &user.home {
            default(&mut environment, "HOME", OsStr::from_bytes(home))?;
        }
        (request.environment)(&mut environment)?;
        if let Some(label) = config.labels.get("dev.imrun.env") {
            Contract::parse(label)?.check(&environment)?;
        }
        let args = arguments(request, image)?;
        environment.check_size(&args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>())?;
        let policy = policy(request, image)?;
        let workdir = request.workdir.as_deref().or(config.working_dir.as_deref()).unwrap_or("/");
        let spec = Spec {
            candidates: candidates(&args[0], &environment)?,
            args: Pointers::new(args),
            env: Pointers::new(environment.to_strings()),
            workdir: absolute("working directory", workdir)?,
            hostname: hostname(request, &image.digest)?,
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            network: request.network.clone(),
            stdin: request.stdin.as_ref().map(OwnedFd::try_clone).transpose().context(|| "dup(stdin)")?,
        };
        Ok(Plan { spec, policy, environment })
    }

    fn args(&self) -> Vec<String> {
        let args = self.spec.args.strings().iter();
        args.map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    fn record(
        &self,
        request: &Request,
        image: &Image,
        verified: &Verified,
        root: &Root,
        integrity: &'static str,
    ) -> Result<Record> {
        let spec = &self.spec;
        let key = fingerprint_key()?;
        let print = |(name, value): (&OsStr, &OsStr)| {
            let print = env::fingerprint(&key, name.as_bytes(), value.as_bytes());
            (name.to_string_lossy().into_owned(), print)
        };
        let policy = &self.policy;
        Ok(Record {
            manifest: image.digest,
            config: image.manifest.config.digest,
            diff_ids: image.config.diff_ids.clone(),
            tree: verified.tree_digest,
            integrity,
            driver: json!({ "name": "erofs", "backing": backing(root.backing) }),
            args: self.args(),
            user: json!({ "uid": spec.uid, "gid": spec.gid, "groups": spec.groups }),
            workdir: spec.workdir.to_string_lossy().into_owned(),
            hostname: spec.hostname.to_string_lossy().into_owned(),
            env: self.environment.iter().map(print).collect(),
            network: spec.network.record()?,
            limits: json!({}),
            policy: json!({
                "capabilities": [],
                "noNewPrivileges": true,
                "onStall": format!("{:?}", policy.on_stall).to_lowercase(),
                "stallDeadlineMs": policy.stall_deadline.as_millis() as u64,
                "stopSignal": policy.stop_signal,
                "stopTimeoutMs": policy.stop_timeout.as_millis() as u64,
                "logBuffer": request.log_buffer,
            }),
            sink: json!({
                "url": request.sink.to_string(),
                "acknowledgement": request.sink.acknowledgement().as_str(),
            }),
        })
    }
}

fn backing(backing: Backing) -> &'static str {
    match backing {
        Backing::File => "file",
        Backing::Loop => "loop",
    }
}

fn default(environment: &mut Environment, name: &str, value: &OsStr) -> Result<()> {
    match environment.get(name) {
        Some(_) => Ok(()),
        None => environment.set("default", OsStr::new(name), value),
    }
}

fn resolve_user(request: &Request, image: &Image, root: &Root) -> Result<User> {
    let text = request.user.as_deref().or(image.config.user.as_deref()).unwrap_or("");
    let passwd = read_in_root(root, "etc/passwd")?;
    let group = read_in_root(root, "etc/group")?;
    User::resolve(text, passwd.as_deref(), group.as_deref())
}

/// A file of the image, by the mount that the app will see; None where there is none.
fn read_in_root(root: &Root, path: &str) -> Result<Option<Vec<u8>>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&root.mount, path, how) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
        Err(errno) => return Err(errno).context(|| format!("openat2(root, {path:?}, RESOLVE_IN_ROOT)")),
    };
    if !file.metadata().context(|| format!("fstat({path:?})"))?.is_file() {
        return Ok(None);
    }
    let limit = crate::user::MAX_DATABASE as u64;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).context(|| format!("read({path:?})"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::digest(format_args!("/{path}"), format_args!("is larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// Entrypoint and command, as the image specification (config.md) and Docker combine them: another
/// entrypoint takes the image's command away, too.
fn arguments(request: &Request, image: &Image) -> Result<Vec<CString>> {
    let config = &image.config;
    let mut args: Vec<OsString> = match &request.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => config.entrypoint.iter().map(OsString::from).collect(),
    };
    if !request.args.is_empty() {
        args.extend(request.args.iter().cloned());
    } else if request.entrypoint.is_none() {
        args.extend(config.cmd.iter().map(OsString::from));
    }
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(Error::usage(format_args!("image {}", image.digest), "names no program to run")
            .hint("give one behind the image, or --entrypoint"));
    }
    let strings = args.into_iter().map(|arg| {
        CString::new(arg.into_vec()).map_err(|_| Error::usage("argument", "has a NUL byte"))
    });
    strings.collect()
}

/// Where the program may be: as it is written if it has a slash, else in each directory of PATH.
fn candidates(program: &CString, environment: &Environment) -> Result<Vec<CString>> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return Ok(vec![program.clone()]);
    }
    let path = environment.get("PATH").unwrap_or(OsStr::new(PATH)).as_bytes();
    let directories = path.split(|byte| *byte == b':').filter(|directory| directory.starts_with(b"/"));
    let paths = directories.map(|directory| CString::new([directory, b"/", name].concat()));
    paths.collect::<std::result::Result<_, _>>().map_err(|_| Error::usage("PATH", "has a NUL byte"))
}

fn absolute(what: &str, path: &str) -> Result<CString> {
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') {
        return Err(Error::usage(format_args!("{what} {path:?}"), "is not an absolute path"));
    }
    CString::new(path).map_err(|_| Error::usage(format_args!("{what} {path:?}"), "has a NUL byte"))
}

fn policy(request: &Request, image: &Image) -> Result<Policy> {
    let mut policy = request.policy;
    match (request.stop_signal, &image.config.stop_signal) {
        (Some(signal), _) => policy.stop_signal = signal,
        (None, Some(text)) => policy.stop_signal = crate::supervise::parse_signal(text)?,
        (None, None) => {}
    }
    Ok(policy)
}

/// Made from the digest where none is given: the same launch gives the same record.
fn hostname(request: &Request, image: &Digest) -> Result<CString> {
    const MAX: usize = 64; // __NEW_UTS_LEN, uname(2)
    let name = request.hostname.clone().unwrap_or_else(|| image.hex()[..12].to_owned());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || name.len() > MAX || !name.bytes().all(allowed) {
        return Err(Error::usage(format_args!("--hostname {name:?}"), "is no host name of 1 to 64 letters, digits, '-' and '.'"));
    }
    CString::new(name).map_err(|_| Error::usage("--hostname", "has a NUL byte"))
}

fn fingerprint_key() -> Result<Vec<u8>> {
    const FILE: &str = "/etc/machine-id";
    let configured = std::env::var_os("IMRUN_FINGERPRINT_KEY");
    let machine_id = match configured {
        Some(_) => Vec::new(),
        None => std::fs::read(FILE).map_err(|error| {
            Error::unsupported(FILE, crate::error::reason_of(&error))
                .hint("IMRUN_FINGERPRINT_KEY gives the key for the environment's fingerprints instead")
        })?,
    };
    env::fingerprint_key(configured.as_deref().map(OsStr::as_bytes), &machine_id)
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context(|| "gethostname()")?;
    Ok(name.to_string_lossy().into_owned())
}

/// 64 random hex digits.
fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    let mut random = File::open("/dev/urandom").context(|| "open(\"/dev/urandom\")")?;
    random.read_exact(&mut bytes).context(|| "read(\"/dev/urandom\")")?;
    Ok(hex(&bytes))
}
