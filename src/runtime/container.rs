//! One launch, from a digest to the exit record.
//!
//! ```text
//! image → verify ─┬─ mount → plan → launch record → sink's acknowledgement ─┐
//!                 └─ clone → the child's own mounts → its root ─────────────┴─ execute → supervise → exit record
//! ```
#![forbid(unsafe_code)]

pub mod bundle;
mod gate;
mod plan;
mod subject;

use crate::base::digest::{Digest, hex};
use crate::base::error::{
    Context, EXIT_FAILED, EXIT_LOST, EXIT_SIDE_EFFECT, Error, HINT, Reason, Result,
};
use crate::base::ids;
use crate::base::sys::memory;
use crate::logs::{Counters, Origin, Shipper, SinkUrl};
use crate::runtime::capabilities::Capabilities;
use crate::runtime::cgroup::{self, Cgroup, CgroupIdentity, Limits};
use crate::runtime::id_map::Ids;
use crate::runtime::integrity::Demand;
use crate::runtime::launch::{
    self, Attachment, CloneOptions, ClonedChild, Network, OnMounted, Prepared, Spec,
};
use crate::runtime::observe::{Observer, OnWrite, PathLayers, Report};
use crate::runtime::relay::Relay;
use crate::runtime::rootfs::Driver;
use crate::runtime::state::{Entry, Runtime};
use crate::runtime::status::Status;
use crate::runtime::supervise::{Ending, Policy, Supervisor, await_acknowledgement, signals};
use crate::store::Store;
use nix::sys::signalfd::SignalFd;
use plan::Plan;
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use subject::{Loaded, MountedRoot, RootFiles};

pub use bundle::{Bundle, Process};
pub use gate::{Gate, OpenGate};
pub use subject::{Subject, standalone_root};

/// Time limit for the sink to acknowledge the launch record.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for reporting a failed launch to the sink.
const FAILURE_RECORD_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit for one attempt to send. It is shorter than [`ACKNOWLEDGEMENT_TIMEOUT`], so that the error
/// names the sink's own cause.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// An `--env-file`. It may be a pipe, so imrun reads it before it blocks signals: a read that waits stays
/// interruptible.
pub struct EnvFile {
    /// Path, for errors.
    pub name: String,
    /// Whole content.
    pub bytes: Vec<u8>,
}

/// A launch request: checked, but not yet against the image.
pub struct Request {
    /// Store that has the image.
    pub store: Store,
    /// Directory of the runtime state (`--root`).
    pub root: PathBuf,
    /// Image or bundle to launch.
    pub source: Source,
    /// Weakest integrity level to accept.
    pub integrity: Demand,
    /// Driver that mounts the image.
    pub driver: Driver,
    /// Container name, unique among the running containers.
    pub name: Option<String>,
    /// Capabilities of the app.
    pub capabilities: Capabilities,
    /// Network of the container.
    pub network: Network,
    /// Resource limits.
    pub limits: Limits,
    /// Reaction to attempts to change a file system.
    pub on_write: OnWrite,
    /// Standard input of the app; `None` gives it /dev/null.
    pub stdin: Option<OwnedFd>,
    /// Sinks for log lines and records; each receives everything. At least one.
    pub sinks: Vec<SinkUrl>,
    /// Maximum number of bytes buffered per sink.
    pub log_buffer: usize,
    /// Supervision policy; its stop signal is the default.
    pub policy: Policy,
}

/// Image or bundle to launch.
pub enum Source {
    /// Image whose config says how it starts.
    Image(Box<ImageLaunch>),
    /// Bundle that says all of it, with an image or a directory as its root.
    Bundle {
        /// Root of the container.
        root: Subject,
        /// Settings of the bundle.
        bundle: Box<Bundle>,
    },
}

/// Launch of an image: the settings that replace those of its config.
pub struct ImageLaunch {
    /// Manifest or index in the store.
    pub image: Digest,
    /// Arguments that replace the image's command.
    pub args: Vec<OsString>,
    /// Program that replaces the image's entrypoint; empty means none.
    pub entrypoint: Option<OsString>,
    /// Files of variables, which add to the image's environment or override it.
    pub env_files: Vec<EnvFile>,
    /// Variables, `NAME=VALUE` or the NAME of one of imrun's own; they override the files'.
    pub env: Vec<OsString>,
    /// True if the app has a process 1 of imrun's in front of it, which passes signals on and reaps orphans.
    pub init: bool,
    /// User that replaces the image's.
    pub user: Option<String>,
    /// Working directory that replaces the image's.
    pub workdir: Option<String>,
    /// Host name; `None` uses the start of the digest.
    pub hostname: Option<String>,
    /// Stop signal that replaces the image's.
    pub stop_signal: Option<i32>,
    /// Paths to mask in addition to those that always are; see [`Spec::masked`].
    pub masked: Vec<CString>,
    /// Outcome of the image that this one replaces as a fallback: a record of it follows the launch
    /// record.
    pub instead_of: Option<Value>,
}

impl Request {
    /// Returns the bundle, if it is one.
    fn bundle(&self) -> Option<&Bundle> {
        match &self.source {
            Source::Image(_) => None,
            Source::Bundle { bundle, .. } => Some(bundle),
        }
    }

    /// Returns true if the app has a process 1 of imrun's in front of it.
    fn has_init(&self) -> bool {
        matches!(&self.source, Source::Image(launch) if launch.init)
    }

    /// Returns the root of the container.
    fn subject(&self) -> Subject {
        match &self.source {
            Source::Image(launch) => Subject::Image(launch.image),
            Source::Bundle { root, .. } => root.clone(),
        }
    }
}

/// Result of a launch.
pub struct Outcome {
    /// Exit code of imrun.
    pub code: u8,
    /// Signal that ended the app.
    pub signal: Option<i32>,
    /// Run time of an app that ended before anybody stopped it.
    pub by_itself: Option<Duration>,
    /// Report of the app's attempts to change file systems.
    pub effects: Report,
}

/// Launches a container, supervises it and cleans up.
///
/// # Errors
/// With exit code 125, 126 or 127, or 128+n if a signal interrupted the start, nothing of the image ran.
/// With 121, imrun failed afterwards and ended the container.
pub fn run(request: &Request, status: &Status) -> Result<Outcome> {
    run_with_gate(request, status, &OpenGate)
}

/// Like [`run`]; the app starts when `gate` lets it.
pub fn run_with_gate(request: &Request, status: &Status, gate: &dyn Gate) -> Result<Outcome> {
    memory::share_heap();
    keep_memory_out_of_dumps()?;
    cgroup::check(&request.limits)?;
    if ids::is_ordinary()? {
        launch::close_ipc()?;
    }
    let (loaded, root_files) =
        request
            .subject()
            .load(&request.store, request.integrity, request.driver)?;
    let memo = root_files.memo().map(|memo| memo.to_string());
    status.event(
        "verified",
        json!({ "image": loaded.name(), "integrity": root_files.level(), "memo": memo }),
    )?;

    // Until here a signal may just end imrun: there is nothing to clean up yet.
    let signals = signals::catch()?;
    let runtime = Runtime::open(&request.root)?;
    runtime.sweep()?;
    let id = new_id()?;
    let place = match request.bundle().and_then(|bundle| bundle.cgroup.clone()) {
        Some(requested) => Some(requested),
        None => cgroup::own_place(&id)?,
    };
    let entry = runtime.enter(&id, request.name.as_deref())?;
    let launch = Launch {
        request,
        id,
        place,
        loaded: &loaded,
        entry: &entry,
        signals: &signals,
        status,
        gate,
        cgroup: OnceCell::new(),
    };
    let outcome = launch.run(root_files);
    // Clean up in any case, and return the first error.
    let left = launch.cgroup.get().map(Cgroup::existing).transpose();
    let removed = match left.map(Option::flatten) {
        Ok(None) => entry.remove(),
        // The next command finds the cgroup through the entry, and tries again.
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error),
    };
    let outcome = outcome?;
    removed.map_err(|error| error.exit(EXIT_FAILED))?;
    Ok(outcome)
}

struct Launch<'a> {
    request: &'a Request,
    id: String,
    /// Path for the container's cgroup beneath the hierarchy's root, if it gets one.
    place: Option<PathBuf>,
    /// The container's cgroup, once created.
    cgroup: OnceCell<CgroupIdentity>,
    loaded: &'a Loaded,
    entry: &'a Entry,
    signals: &'a SignalFd,
    status: &'a Status,
    gate: &'a dyn Gate,
}

/// A launch whose record has been queued for the sinks.
struct Announced {
    /// Digest of the launch record.
    launch: Digest,
    integrity: &'static str,
    args: Vec<String>,
    policy: Policy,
    shipper: Shipper,
    /// Sequence number of the launch record.
    sequence: u64,
    ids: Ids,
}

impl Launch<'_> {
    fn run(&self, root_files: RootFiles) -> Result<Outcome> {
        let network = self.request.network.attach()?;
        let cgroup = match &self.place {
            // A launch that its limits forbid is not reported to the sink.
            Some(place) => Cgroup::create(place, &self.request.limits)?,
            None => Cgroup::none(),
        };
        let recorded = self.record(&cgroup);
        let outcome = recorded.and_then(|()| self.start_in(&cgroup, &network, root_files));
        let removed = cgroup.remove();
        let (announced, ending, report) = outcome?;
        removed.map_err(|error| error.exit(EXIT_FAILED))?;
        let code = self.finish(&announced, ending, &report)?;
        Ok(Outcome {
            code,
            signal: ending.signal,
            by_itself: ending.by_itself,
            effects: report,
        })
    }

    /// Records the cgroup in the runtime state and passes it to the gate.
    fn record(&self, cgroup: &Cgroup) -> Result<()> {
        let Some(identity) = cgroup.identity() else {
            return Ok(());
        };
        let identity = self.cgroup.get_or_init(|| identity.clone());
        self.entry.record_cgroup(identity)?;
        self.gate.cgroup_created(identity)
    }

    /// Starts the app, and returns when it has ended.
    fn start_in(
        &self,
        cgroup: &Cgroup,
        network: &Attachment,
        root_files: RootFiles,
    ) -> Result<(Announced, Ending, Report)> {
        let options = CloneOptions {
            network,
            stdin: self.request.stdin.as_ref().map(AsFd::as_fd),
            cgroup: cgroup.handle(),
            adopted: self.gate.adopts(),
            init: self.request.has_init(),
            owner: (!ids::is_ordinary()?).then(|| self.entry.first_id()),
        };
        let start = |child: ClonedChild<'_>| {
            let (root_files, root) = self.mount(root_files)?;
            let held = root_files.hold();
            let plan = Plan::new(self.request, self.loaded, root.file())?;
            let ids = self.ids(&root, &plan.spec)?;
            let announced = self.announce(&plan, &root_files, &root, &ids, network)?;
            drop(root_files);
            let outcome = self.execute(child, plan.spec, root, &ids, &announced, cgroup);
            let app = self.report_failure(outcome, &announced, cgroup)?;
            Ok((announced, app, held))
        };
        let (announced, app, _held) = launch::start(&options, start)?;
        let ended = self.supervise(app, &announced, cgroup);
        let ended = ended.map_err(|error| error.exit(EXIT_FAILED));
        let (ending, report) = self.report_failure(ended, &announced, cgroup)?;
        Ok((announced, ending, report))
    }

    fn mount(&self, root_files: RootFiles) -> Result<(RootFiles, MountedRoot)> {
        let request = self.request;
        let (demand, driver) = (request.integrity, request.driver);
        root_files.mount_or_unpack(self.loaded.image(), &request.store, demand, driver)
    }

    /// Completes the launch record and queues it for the sinks.
    fn announce(
        &self,
        plan: &Plan,
        root_files: &RootFiles,
        root: &MountedRoot,
        ids: &Ids,
        network: &Attachment,
    ) -> Result<Announced> {
        let record = plan.record(self.request, self.loaded, root_files, root, ids, network)?;
        let (record, launch) = record.finish();
        let options = crate::logs::Options {
            buffer: self.request.log_buffer,
            timeout: SEND_TIMEOUT,
        };
        let shipper = Shipper::start(&self.request.sinks, &self.origin(&launch)?, options)?;
        let sequence = shipper.push_record("launch", json!({ "id": launch, "record": record }));
        if let Source::Image(launch) = &self.request.source
            && let Some(other) = &launch.instead_of
        {
            shipper.push_record("fallback", other.clone());
        }
        self.report_changes(&shipper)?;
        Ok(Announced {
            launch,
            integrity: root_files.level(),
            args: plan.args(),
            policy: plan.policy,
            shipper,
            sequence,
            ids: ids.clone(),
        })
    }

    /// Reports each setting of the bundle that the container does not get as a side effect.
    fn report_changes(&self, shipper: &Shipper) -> Result<()> {
        let bundle = self.request.bundle();
        for change in bundle.into_iter().flat_map(|bundle| &bundle.changes) {
            shipper.open().push_record("side-effect", change);
            self.status.event("side-effect", change.clone())?;
        }
        if let Some(bundle) = bundle.filter(|_| self.request.sinks.iter().all(SinkUrl::is_bare)) {
            warn_of_left_out(&bundle.changes);
        }
        Ok(())
    }

    fn ids(&self, root: &MountedRoot, spec: &Spec) -> Result<Ids> {
        let bundle = self.request.bundle();
        let owners = ids::Owners::own()?;
        let ids = match bundle.and_then(|bundle| bundle.ids.clone()) {
            // The bundle decides; ids that it does not map stay unmapped.
            Some((users, groups)) => return Ok(Ids::mapped(users, groups)),
            None if !owners.are_all() => Ids::of_a_user(ids::Owners::ranges()?, spec.uid, spec.gid),
            None if root.can_be_mapped() => Ids::own(self.entry.first_id()),
            None => Ids::of_the_host(),
        };
        ids.with(spec.uid, &[&[spec.gid][..], &spec.groups].concat())
    }

    /// Prepares the container and starts the app once the sink has acknowledged the launch record.
    fn execute(
        &self,
        child: ClonedChild<'_>,
        spec: Spec,
        root: MountedRoot,
        ids: &Ids,
        announced: &Announced,
        cgroup: &Cgroup,
    ) -> Result<Prepared> {
        let stage = self.entry.path();
        let acknowledged = || {
            let deadline = Instant::now() + ACKNOWLEDGEMENT_TIMEOUT;
            await_acknowledgement(
                &announced.shipper,
                announced.sequence,
                deadline,
                self.signals,
            )
        };
        // Path at which hooks expect the root.
        let place = match self.loaded {
            Loaded::Directory(path) if path != Path::new("/") => path,
            _ => stage,
        };
        let work = |prepared: &Prepared| {
            acknowledged()?;
            self.gate.mounts_ready(prepared, place, self.signals)
        };
        let hooks = OnMounted { place, work: &work };
        let mounted = self.gate.has_hooks().then_some(hooks);
        let prepared = child.prepare(spec, root.source(), stage, ids, mounted)?;
        let init = prepared.pidfd.try_clone().context(|| "dup(pidfd)")?;
        cgroup.follow(init);
        // After this the container's mount is the last one, and the kernel unmounts it without delaying
        // anybody.
        drop(root);
        acknowledged()?;
        self.gate.wait(&prepared, self.signals)?;
        prepared.execute(|listener| self.gate.send_listener(listener, self.signals))?;
        self.gate.started(self.signals)?;
        Ok(prepared)
    }

    fn supervise(
        &self,
        mut app: Prepared,
        announced: &Announced,
        cgroup: &Cgroup,
    ) -> Result<(Ending, Report)> {
        let pid = app.pid.as_raw();
        let mut lines = self.entry.lines()?;
        let (shipper, policy) = (&announced.shipper, announced.policy);
        let is_bare = self.request.sinks.iter().all(SinkUrl::is_bare);
        let relay = (app.adopted && is_bare)
            .then(|| Relay::new(app.pid, [&app.stdout, &app.stderr]))
            .transpose()?;
        let relay = relay.as_ref();
        let observer = app.listener.take().map(|listener| Observer {
            listener,
            on_write: self.request.on_write,
            is_moved: false,
            cgroup,
            layers: PathLayers::new(self.loaded.image(), &self.request.store),
            ids: &announced.ids,
            relay,
            shipper,
            status: self.status,
        });
        Observer::beside(observer, || {
            self.entry.publish(&self.status_of(pid, announced))?;
            let started = json!({ "id": self.id, "launch": announced.launch, "pid": pid });
            self.status.event("started", started)?;
            let report = || lines.write(shipper.each().map(|(_, lines, why)| (lines, why)));
            Supervisor::new(
                app,
                cgroup,
                shipper,
                self.signals,
                policy,
                relay,
                Box::new(report),
            )
            .and_then(Supervisor::watch)
        })
    }

    /// Reports a failure to the sink if the sink has the launch record or may still receive it: the child
    /// can fail before the acknowledgement.
    fn report_failure<T>(
        &self,
        outcome: Result<T>,
        announced: &Announced,
        cgroup: &Cgroup,
    ) -> Result<T> {
        outcome.map_err(|error| {
            let error = match cgroup.oom_kills() {
                // A killed process reports no error.
                Ok(1..) => error.hint("the container ran out of memory: raise --memory"),
                _ => error,
            };
            let shipper = &announced.shipper;
            let is_known = shipper.is_settled(announced.sequence);
            // Not to a sink that refused, nor after a signal, whose sender would have to wait.
            let may_be =
                shipper.failure().is_none() && error.reason != Reason::Sink && error.exit < 128;
            let record = failure_record(announced, &error);
            if is_known || may_be {
                shipper.push_last_record("exit", record.clone());
                shipper.drain(Instant::now() + FAILURE_RECORD_TIMEOUT);
            }
            if error.exit == EXIT_FAILED {
                // The error itself is returned.
                let _unread = self.status.event("exit", record);
            }
            error
        })
    }

    /// Ships the exit record and counts the lines; returns the exit code.
    fn finish(&self, announced: &Announced, ending: Ending, report: &Report) -> Result<u8> {
        let shipper = &announced.shipper;
        let deadline = ending.drain_until;
        let lines = shipper.drain(deadline);
        let mut code = if report.killed {
            EXIT_SIDE_EFFECT
        } else {
            ending.code
        };
        let lost = lines.read - lines.acknowledged;
        if lost > 0 && code == 0 {
            code = EXIT_LOST;
        }
        let record = json!({
            "launch": announced.launch,
            "code": code,
            "signal": ending.signal,
            "stalled": ending.stalled,
            "oomKills": ending.oom_kills,
            "sideEffects": report.summary(),
        });
        let record = with_counts(record, &lines, shipper);
        if ending.oom_kills > 0 {
            log::warn!(
                "memory: ran out, and the kernel killed {} of the container's processes",
                ending.oom_kills
            );
        }
        if let Some(line) = report.summary_line() {
            log::warn!("{line}");
            let advice = report.advice();
            advice
                .iter()
                .for_each(|piece| log::warn!(target: HINT, "{piece}"));
        }
        shipper.push_last_record("exit", record.clone());
        let settled = shipper.drain(deadline.max(Instant::now() + Duration::from_millis(100)));
        if lost > 0 || settled.pending_records > 0 {
            log::warn!("{}", loss(&lines, &settled, shipper));
        }
        self.status
            .event("exit", record)
            .map_err(|error| error.exit(EXIT_FAILED))?;
        Ok(code)
    }

    fn origin(&self, launch: &Digest) -> Result<Origin> {
        Ok(Origin {
            container_id: self.id.clone(),
            container_name: self.request.name.clone(),
            image_digest: self.loaded.name(),
            host_name: host_name()?,
            launch_id: launch.to_string(),
        })
    }

    fn status_of(&self, pid: i32, announced: &Announced) -> crate::runtime::state::Status {
        crate::runtime::state::Status {
            id: self.id.clone(),
            name: self.request.name.clone(),
            image: self.loaded.name(),
            launch: announced.launch.to_string(),
            integrity: announced.integrity.into(),
            sink: self.request.sinks[0].to_string(),
            sinks: sinks(&announced.shipper),
            supervisor: std::process::id() as i32,
            pid,
            started: crate::base::time::now(),
            args: announced.args.clone(),
        }
    }
}

/// Warns of the places that the app may expect to write to, if the log shows only bare lines.
fn warn_of_left_out(changes: &[Value]) {
    let left_out = changes.iter().filter_map(|change| {
        let asked = change["asked"].as_str()?;
        let place = change["path"].as_str()?;
        // Engines request the mounts in /dev by default.
        ([bundle::IN_MEMORY, bundle::WRITABLE].contains(&asked) && !place.starts_with("/dev/"))
            .then(|| format!("{place:?} ({asked})"))
    });
    let left_out: Vec<_> = left_out.collect();
    if !left_out.is_empty() {
        log::warn!("mounts: left out: {}", left_out.join(", "));
    }
}

/// Returns the exit record of a failed launch, or of a container that imrun could not continue.
fn failure_record(announced: &Announced, error: &Error) -> Value {
    let shipper = &announced.shipper;
    let record = json!({
        "launch": announced.launch,
        "code": error.exit,
        "error": error.to_string(),
    });
    with_counts(record, &shipper.counters(), shipper)
}

/// Adds the line counters to the record: `lines` of the sink that has acknowledged the fewest, and
/// `sinks` for each if there are several, or one that refuses or stalls.
fn with_counts(mut record: Value, lines: &Counters, shipper: &Shipper) -> Value {
    record["lines"] = json!(lines);
    let sinks = sinks(shipper);
    if sinks.len() > 1 || sinks.iter().any(|sink| sink.failure.is_some()) {
        record["sinks"] = json!(sinks);
    }
    record
}

fn sinks(shipper: &Shipper) -> Vec<crate::runtime::state::Sink> {
    let sink =
        |(url, lines, failure): (&SinkUrl, Counters, Option<String>)| crate::runtime::state::Sink {
            url: url.to_string(),
            lines,
            failure,
        };
    shipper.each().map(sink).collect()
}

fn loss(lines: &Counters, settled: &Counters, shipper: &Shipper) -> String {
    let mut text = format!(
        "logs: of {} lines {} were acknowledged, {} dropped, {} rejected, {} still waited",
        lines.read, lines.acknowledged, lines.dropped, lines.rejected, lines.pending
    );
    if settled.pending_records > 0 {
        text += "; the exit record was not acknowledged";
    }
    let mut said: Vec<_> = shipper.last_rejection().into_iter().collect();
    said.extend(shipper.last_failures());
    if !said.is_empty() {
        text += &format!("; the sink said: {}", said.join(", "));
    }
    text
}

/// Excludes all memory from core dumps, for this process and the app, which inherits the setting and
/// cannot write to its /proc. No limit stops a dump to a socket (core(5), `@`): such a dump then contains
/// registers and names, but no memory.
fn keep_memory_out_of_dumps() -> Result<()> {
    const FILTER: &str = "/proc/self/coredump_filter";
    match std::fs::write(FILTER, "0") {
        // The kernel was built without core dumps.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written.context(|| format!("write({FILTER:?})")),
    }
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context(|| "gethostname()")?;
    Ok(name.to_string_lossy().into_owned())
}

/// Makes a container id: 64 random hex digits.
fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    let mut random = File::open("/dev/urandom").context(|| "open(\"/dev/urandom\")")?;
    random
        .read_exact(&mut bytes)
        .context(|| "read(\"/dev/urandom\")")?;
    Ok(hex(&bytes))
}
