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
use crate::runtime::cgroup::{self, Cgroup, Limits, Made};
use crate::runtime::id_map::Ids;
use crate::runtime::integrity::Demand;
use crate::runtime::launch::{
    self, Attachment, Birthplace, Network, Newborn, OnMounted, Prepared, Spec,
};
use crate::runtime::observe::{Observer, OnWrite, Owners, Report};
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
use subject::{Loaded, Material, Mounted};

pub use bundle::{Bundle, Process};
pub use gate::{Gate, Open};
pub use subject::{Subject, root_alone};

/// How long the sink may take to acknowledge the launch record.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the sink may take to hear of a launch that failed.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long one attempt at it may take: the deadline's error then has the sink's own cause.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A file of variables. It may be a pipe: it is read before signals are caught, which a wait for it would leave
/// unanswered.
pub struct EnvFile {
    /// Its path.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// What is to be launched, and how: checked, but not yet against the image.
pub struct Request {
    /// Where images are.
    pub store: Store,
    /// The directory of the runtime state.
    pub root: PathBuf,
    /// What its root is.
    pub subject: Subject,
    /// In place of the image's config, and of what follows here of the same.
    pub bundle: Option<Bundle>,
    /// The weakest integrity level that is taken.
    pub integrity: Demand,
    /// How an image becomes a root.
    pub driver: Driver,
    /// In place of the image's command.
    pub args: Vec<OsString>,
    /// In place of the image's entrypoint; empty: none.
    pub entrypoint: Option<OsString>,
    /// Files of variables, which add to the image's environment and replace what is in it.
    pub env_files: Vec<EnvFile>,
    /// Variables, `NAME=VALUE` or a NAME of imrun's own environment, which come after the files'.
    pub env: Vec<OsString>,
    /// In place of the image's user.
    pub user: Option<String>,
    /// In place of the image's working directory.
    pub workdir: Option<String>,
    /// In place of a name made from the digest.
    pub hostname: Option<String>,
    /// Unique among the running containers.
    pub name: Option<String>,
    /// What the app may do beyond its user's rights.
    pub capabilities: Capabilities,
    /// Which network it sees.
    pub network: Network,
    /// What it may use.
    pub limits: Limits,
    /// What becomes of it when it tries to change a file system.
    pub on_write: OnWrite,
    /// What becomes the app's standard input.
    pub stdin: Option<OwnedFd>,
    /// Where lines and records go: to each of them. There is one at least.
    pub sinks: Vec<SinkUrl>,
    /// Bytes that may wait for the sink.
    pub log_buffer: usize,
    /// In place of the image's stop signal.
    pub stop_signal: Option<i32>,
    /// How it is watched over; its stop signal is the default.
    pub policy: Policy,
    /// Paths that are covered, beyond those that always are; see [`Spec::masked`].
    pub masked: Vec<CString>,
    /// What became of the image in whose place this one is launched: a record of it follows the
    /// launch record.
    pub instead_of: Option<Value>,
}

/// What a launch came to.
pub struct Outcome {
    /// imrun's exit code for it.
    pub code: u8,
    /// What the app tried to change.
    pub effects: Report,
}

/// Launches, supervises and cleans up.
///
/// # Errors
/// With exit code 125, 126 or 127 nothing of the image ran, nor with 128+n where a signal ended the
/// start. With 121 imrun failed afterwards, and ended the container.
pub fn run(request: &Request, status: &Status) -> Result<Outcome> {
    run_behind(request, status, &Open)
}

/// The same, where `gate` says when the app may start.
pub fn run_behind(request: &Request, status: &Status, gate: &dyn Gate) -> Result<Outcome> {
    memory::share_heap();
    keep_out_of_dumps()?;
    cgroup::check(&request.limits)?;
    if ids::is_ordinary()? {
        launch::seal_ipc()?;
    }
    let (loaded, material) =
        request
            .subject
            .load(&request.store, request.integrity, request.driver)?;
    let memo = material.memo().map(|memo| memo.to_string());
    status.event(
        "verified",
        json!({ "image": loaded.name(), "integrity": material.level(), "memo": memo }),
    )?;

    // Until here a signal just ends imrun: there is nothing yet that it would leave behind.
    let signals = signals::catch()?;
    let runtime = Runtime::open(&request.root)?;
    runtime.sweep()?;
    let id = new_id()?;
    let place = match request
        .bundle
        .as_ref()
        .and_then(|bundle| bundle.cgroup.clone())
    {
        Some(asked) => Some(asked),
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
        made: OnceCell::new(),
    };
    let outcome = launch.run(material);
    // What is left is removed whatever happened; the first error is the one that is told.
    let left = launch.made.get().map(Cgroup::existing).transpose();
    let removed = match left.map(Option::flatten) {
        Ok(None) => entry.remove(),
        // By the entry the next command finds it, and tries again.
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
    /// Where its cgroup is to be, beneath the root of the hierarchy, if it gets one.
    place: Option<PathBuf>,
    /// Its cgroup.
    made: OnceCell<Made>,
    loaded: &'a Loaded,
    entry: &'a Entry,
    signals: &'a SignalFd,
    status: &'a Status,
    gate: &'a dyn Gate,
}

/// A launch whose record is made, and who ships it.
struct Announced {
    /// The record's digest.
    launch: Digest,
    integrity: &'static str,
    args: Vec<String>,
    policy: Policy,
    shipper: Shipper,
    /// The launch record's number among the events.
    sequence: u64,
    ids: Ids,
}

impl Launch<'_> {
    fn run(&self, material: Material) -> Result<Outcome> {
        let network = self.request.network.attach()?;
        let cgroup = match &self.place {
            // A launch that its limits forbid is none that the sink should hear of.
            Some(place) => Cgroup::create(place, &self.request.limits)?,
            None => Cgroup::none(),
        };
        let recorded = self.record(&cgroup);
        let outcome = recorded.and_then(|()| self.start_in(&cgroup, &network, material));
        let removed = cgroup.remove();
        let (announced, ending, report) = outcome?;
        removed.map_err(|error| error.exit(EXIT_FAILED))?;
        let code = self.finish(&announced, ending, &report)?;
        Ok(Outcome {
            code,
            effects: report,
        })
    }

    /// Leaves word of a cgroup that was made.
    fn record(&self, cgroup: &Cgroup) -> Result<()> {
        let Some(made) = cgroup.made() else {
            return Ok(());
        };
        let made = self.made.get_or_init(|| made.clone());
        self.entry.record_cgroup(made)?;
        self.gate.grouped(made)
    }

    /// Returns when the app has ended.
    fn start_in(
        &self,
        cgroup: &Cgroup,
        network: &Attachment,
        material: Material,
    ) -> Result<(Announced, Ending, Report)> {
        let place = Birthplace {
            network,
            stdin: self.request.stdin.as_ref().map(AsFd::as_fd),
            cgroup: cgroup.handle(),
            adopted: self.gate.adopts(),
            owner: (!ids::is_ordinary()?).then(|| self.entry.first_id()),
        };
        let start = |newborn: Newborn<'_>| {
            let (material, root) = self.mount(material)?;
            let held = material.hold()?;
            let plan = Plan::new(self.request, self.loaded, root.file())?;
            let ids = self.ids(&root, &plan.spec)?;
            let announced = self.announce(&plan, &material, &root, &ids, network)?;
            drop(material);
            let outcome = self.execute(newborn, plan.spec, root, &ids, &announced, cgroup);
            let app = self.told(outcome, &announced, cgroup)?;
            Ok((announced, app, held))
        };
        let (announced, app, _held) = launch::start(&place, start)?;
        let ended = self.supervise(app, &announced, cgroup);
        let ended = ended.map_err(|error| error.exit(EXIT_FAILED));
        let (ending, report) = self.told(ended, &announced, cgroup)?;
        Ok((announced, ending, report))
    }

    fn mount(&self, material: Material) -> Result<(Material, Mounted)> {
        let request = self.request;
        let (demand, driver) = (request.integrity, request.driver);
        material.mount_or_unpack(self.loaded.image(), &request.store, demand, driver)
    }

    /// Seals the launch record, and has it shipped.
    fn announce(
        &self,
        plan: &Plan,
        material: &Material,
        root: &Mounted,
        ids: &Ids,
        network: &Attachment,
    ) -> Result<Announced> {
        let record = plan.record(self.request, self.loaded, material, root, ids, network)?;
        let (record, launch) = record.seal();
        let options = crate::logs::Options {
            buffer: self.request.log_buffer,
            timeout: ATTEMPT,
        };
        let shipper = Shipper::start(&self.request.sinks, &self.origin(&launch)?, options)?;
        let sequence = shipper.push_record("launch", json!({ "id": launch, "record": record }));
        if let Some(other) = &self.request.instead_of {
            shipper.push_record("fallback", other.clone());
        }
        self.tell_changes(&shipper)?;
        Ok(Announced {
            launch,
            integrity: material.level(),
            args: plan.args(),
            policy: plan.policy,
            shipper,
            sequence,
            ids: ids.clone(),
        })
    }

    /// What a bundle asked for and does not get is a side effect of the request.
    fn tell_changes(&self, shipper: &Shipper) -> Result<()> {
        let bundle = self.request.bundle.as_ref();
        for change in bundle.into_iter().flat_map(|bundle| &bundle.changes) {
            shipper.open().push_record("side-effect", change);
            self.status.event("side-effect", change.clone())?;
        }
        if let Some(bundle) = bundle.filter(|_| self.request.sinks.iter().all(SinkUrl::is_bare)) {
            warn_of_left_out(&bundle.changes);
        }
        Ok(())
    }

    fn ids(&self, root: &Mounted, spec: &Spec) -> Result<Ids> {
        let bundle = self.request.bundle.as_ref();
        let owners = ids::Owners::own()?;
        let ids = match bundle.and_then(|bundle| bundle.ids.clone()) {
            // The bundle decides, also of what has no number there.
            Some((users, groups)) => return Ok(Ids::mapped(users, groups)),
            None if !owners.are_all() => Ids::of_a_user(ids::Owners::ranges()?, spec.uid, spec.gid),
            None if root.can_be_mapped() => Ids::own(self.entry.first_id()),
            None => Ids::of_the_host(),
        };
        ids.with(spec.uid, &[&[spec.gid][..], &spec.groups].concat())
    }

    /// Returns when the app runs: prepared, and known to the sink.
    fn execute(
        &self,
        newborn: Newborn<'_>,
        spec: Spec,
        root: Mounted,
        ids: &Ids,
        announced: &Announced,
        cgroup: &Cgroup,
    ) -> Result<Prepared> {
        let stage = self.entry.path();
        let acknowledged = || {
            let deadline = Instant::now() + HANDSHAKE;
            await_acknowledgement(
                &announced.shipper,
                announced.sequence,
                deadline,
                self.signals,
            )
        };
        // Where hooks look for it.
        let place = match self.loaded {
            Loaded::Directory(path) if path != Path::new("/") => path,
            _ => stage,
        };
        let work = |prepared: &Prepared| {
            acknowledged()?;
            self.gate.mounted(prepared, place, self.signals)
        };
        let hooks = OnMounted { place, work: &work };
        let mounted = self.gate.has_hooks().then_some(hooks);
        let prepared = newborn.prepare(spec, root.ground(), stage, ids, mounted)?;
        let init = prepared.pidfd.try_clone().context(|| "dup(pidfd)")?;
        cgroup.follow(init);
        // The container's own mount is the last: the kernel takes it down when nobody waits for it.
        drop(root);
        acknowledged()?;
        self.gate.pass(&prepared, self.signals)?;
        prepared.execute(|listener| self.gate.give(listener, self.signals))?;
        self.gate.passed(self.signals)?;
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
            owners: Owners::new(self.loaded.image(), &self.request.store),
            ids: &announced.ids,
            relay,
            shipper,
            status: self.status,
        });
        Observer::beside(observer, || {
            self.entry.publish(&self.status_of(pid, announced))?;
            let started = json!({ "id": self.id, "launch": announced.launch, "pid": pid });
            self.status.event("started", started)?;
            let report = || lines.write(shipper.each().map(|(_, lines)| lines));
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

    /// Tells the sink of a failure, if it knows of the launch or may be about to: what fails in the child
    /// can come before the acknowledgement.
    fn told<T>(&self, outcome: Result<T>, announced: &Announced, cgroup: &Cgroup) -> Result<T> {
        outcome.map_err(|error| {
            let error = match cgroup.oom_kills() {
                // Who was killed cannot say why.
                Ok(1..) => error.hint("memory ran out: --memory gives it more"),
                _ => error,
            };
            let shipper = &announced.shipper;
            let is_known = shipper.is_settled(announced.sequence);
            // Neither a sink that said no nor one that whoever stops the launch would wait for.
            let may_be =
                shipper.failure().is_none() && error.reason != Reason::Sink && error.exit < 128;
            if is_known || may_be {
                tell_failure(announced, &error);
            }
            error
        })
    }

    /// The exit record, and what became of the lines.
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
        if let Some(line) = report.line() {
            log::warn!("{line}");
            let advice = report.advice();
            advice
                .iter()
                .for_each(|piece| log::warn!(target: HINT, "{piece}"));
        }
        shipper.push_record("exit", record.clone());
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

/// Names the places that an app may expect to write to, for who sees the bare lines alone.
fn warn_of_left_out(changes: &[Value]) {
    let left_out = changes.iter().filter_map(|change| {
        let asked = change["asked"].as_str()?;
        let place = change["path"].as_str()?;
        // What engines ask for by themselves is in /dev.
        ([bundle::IN_MEMORY, bundle::WRITABLE].contains(&asked) && !place.starts_with("/dev/"))
            .then(|| format!("{place:?} ({asked})"))
    });
    let left_out: Vec<_> = left_out.collect();
    if !left_out.is_empty() {
        log::warn!("mounts: left out: {}", left_out.join(", "));
    }
}

/// The exit record of a launch that came to nothing.
fn tell_failure(announced: &Announced, error: &Error) {
    let shipper = &announced.shipper;
    let record = json!({
        "launch": announced.launch,
        "code": error.exit,
        "error": error.to_string(),
    });
    let record = with_counts(record, &shipper.counters(), shipper);
    shipper.push_record("exit", record);
    shipper.drain(Instant::now() + FAREWELL);
}

/// The record with what became of the lines: `lines` at the sink that has acknowledged the fewest,
/// and `sinks` each where there are several.
fn with_counts(mut record: Value, lines: &Counters, shipper: &Shipper) -> Value {
    record["lines"] = json!(lines);
    let sinks = sinks(shipper);
    if sinks.len() > 1 {
        record["sinks"] = json!(sinks);
    }
    record
}

fn sinks(shipper: &Shipper) -> Vec<crate::runtime::state::Sink> {
    let sink = |(url, lines): (&SinkUrl, Counters)| crate::runtime::state::Sink {
        url: url.to_string(),
        lines,
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
    if let Some(why) = shipper.last_rejection() {
        text += &format!("; the sink said: {why}");
    }
    text
}

/// Leaves all memory out of core dumps, from this process on and in the app, which inherits that and cannot write to
/// its /proc. No limit stops a dump that goes to a socket (core(5), `@`): it has registers and names then, and no
/// memory.
fn keep_out_of_dumps() -> Result<()> {
    const FILTER: &str = "/proc/self/coredump_filter";
    match std::fs::write(FILTER, "0") {
        // A kernel that makes no dumps.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written.context(|| format!("write({FILTER:?})")),
    }
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context(|| "gethostname()")?;
    Ok(name.to_string_lossy().into_owned())
}

/// 64 random hex digits.
fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    let mut random = File::open("/dev/urandom").context(|| "open(\"/dev/urandom\")")?;
    random
        .read_exact(&mut bytes)
        .context(|| "read(\"/dev/urandom\")")?;
    Ok(hex(&bytes))
}
