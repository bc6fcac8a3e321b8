//! One launch, from a digest to the exit record.
//!
//! ```text
//! image → verify → mount → launch record → sink's acknowledgement
//!                        ↘ prepare (clone) ↗            ↓
//!                                              execute → supervise → exit record
//! ```
#![forbid(unsafe_code)]

mod plan;

use crate::capabilities::Capabilities;
use crate::cgroup::{self, Cgroup, Limits};
use crate::digest::{Digest, hex};
use crate::error::{Context, EXIT_FAILED, EXIT_LOST, Error, Result};
use crate::integrity::{self, Demand};
use crate::launch::{self, Network};
use crate::rootfs::{self, Root};
use crate::ship::{Counters, Origin, Shipper, SinkUrl};
use crate::state::{Entry, Runtime};
use crate::status::Status;
use crate::store::Store;
use crate::store::image::Image;
use crate::supervise::{Ending, Policy, Supervisor, await_acknowledgement, signals};
use nix::sys::signalfd::SignalFd;
use plan::Plan;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the sink may take to acknowledge the launch record.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the sink may take to hear of a launch that failed.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long one attempt at it may take: the deadline's error then has the sink's own cause.
const ATTEMPT: Duration = Duration::from_secs(5);

/// What is to be launched, and how: checked, but not yet against the image.
pub struct Request {
    /// Where images are.
    pub store: Store,
    /// The directory of the runtime state.
    pub root: PathBuf,
    /// A manifest or an index.
    pub image: Digest,
    /// The weakest integrity level that is taken.
    pub integrity: Demand,
    /// In place of the image's command.
    pub args: Vec<OsString>,
    /// In place of the image's entrypoint; empty: none.
    pub entrypoint: Option<OsString>,
    /// Files of variables, which add to the image's environment and replace what is in it.
    pub env_files: Vec<PathBuf>,
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
/// With exit code 125, 126 or 127 nothing of the image ran, nor with 128+n where a signal ended the
/// start. With 121 imrun failed afterwards, and ended the container.
pub fn run(request: &Request, status: &Status) -> Result<u8> {
    cgroup::check(&request.limits)?;
    let image = Image::load(&request.store, &request.image)?;
    image.expect_host()?;
    let checked = integrity::check(&image, &request.store, request.integrity)?;
    let level = checked.level.as_str();
    status.event(
        "verified",
        json!({ "image": image.digest, "integrity": level, "memo": checked.memo.to_string() }),
    )?;
    let root = rootfs::mount(&checked.sources)?;
    let plan = Plan::new(request, &image, &root)?;
    let (record, launch) = plan.record(request, &image, &checked, &root)?.seal();
    drop(checked);

    // Until here a signal just ends imrun: there is nothing yet that it would leave behind.
    let signals = signals::catch()?;
    let runtime = Runtime::open(&request.root)?;
    runtime.sweep()?;
    let id = new_id()?;
    let entry = runtime.enter(&id, request.name.as_deref())?;
    let launch = Launch {
        request,
        id,
        launch,
        image: image.digest,
        integrity: level,
        plan,
        signals: &signals,
        status,
    };
    let outcome = launch.start_in(&entry, root, record);
    // What is left is removed whatever happened; the first error is the one that is told.
    let removed = match Cgroup::existing(&launch.id) {
        Ok(None) => entry.remove(),
        // By the entry the next command finds it, and tries again.
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error),
    };
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
    signals: &'a SignalFd,
    status: &'a Status,
}

impl Launch<'_> {
    fn start_in(&self, entry: &Entry, root: Root, record: Value) -> Result<u8> {
        let options = crate::ship::Options {
            buffer: self.request.log_buffer,
            timeout: ATTEMPT,
        };
        let shipper = Shipper::start(&self.request.sink, self.origin()?, options)?;
        // A launch that its limits forbid is none that the sink should hear of.
        let cgroup = Cgroup::create(&self.id, &self.request.limits)?;
        let sequence =
            shipper.push_record("launch", json!({ "id": self.launch, "record": record }));
        let outcome = self
            .supervise(entry, root, &cgroup, &shipper, sequence)
            .map_err(|error| match cgroup.oom_kills() {
                // Who was killed cannot say why.
                Ok(1..) => error.hint("memory ran out: --memory gives it more"),
                _ => error,
            });
        let removed = cgroup.remove();
        if let Err(error) = &outcome
            && shipper.is_settled(sequence)
        {
            self.tell_failure(&shipper, error);
        }
        let ending = outcome?;
        removed.map_err(|error| error.exit(EXIT_FAILED))?;
        self.finish(&shipper, ending)
    }

    fn supervise(
        &self,
        entry: &Entry,
        root: Root,
        cgroup: &Cgroup,
        shipper: &Shipper,
        sequence: u64,
    ) -> Result<Ending> {
        let directory = cgroup.open()?;
        let prepared = launch::prepare(
            &self.plan.spec,
            root.mount.as_fd(),
            entry.path(),
            entry.first_id(),
            directory.as_fd(),
        )?;
        // The container's own mount is the last: the kernel takes it down when nobody waits for it.
        drop(root);
        let deadline = Instant::now() + HANDSHAKE;
        await_acknowledgement(shipper, sequence, deadline, self.signals)?;
        prepared.execute()?;
        let late = |error: Error| error.exit(EXIT_FAILED);
        entry
            .publish(&self.status_of(prepared.pid.as_raw()))
            .map_err(late)?;
        let started = json!({ "id": self.id, "launch": self.launch, "pid": prepared.pid.as_raw() });
        self.status.event("started", started).map_err(late)?;
        Supervisor::new(prepared, cgroup, shipper, self.signals, self.plan.policy)
            .and_then(Supervisor::watch)
            .map_err(late)
    }

    /// The exit record of a launch that the sink knows of and that came to nothing.
    fn tell_failure(&self, shipper: &Shipper, error: &Error) {
        let record = json!({
            "launch": self.launch,
            "code": error.exit,
            "error": error.to_string(),
            "lines": counts(&shipper.counters()),
        });
        shipper.push_record("exit", record);
        shipper.drain(Instant::now() + FAREWELL);
    }

    /// The exit record, and what became of the lines.
    fn finish(&self, shipper: &Shipper, ending: Ending) -> Result<u8> {
        let deadline = ending.at + self.plan.policy.drain;
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
            "oomKills": ending.oom_kills,
            "lines": counts(&lines),
        });
        if ending.oom_kills > 0 {
            log::warn!(
                "memory: ran out, and the kernel killed {} of the container's processes",
                ending.oom_kills
            );
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

    fn origin(&self) -> Result<Origin> {
        Ok(Origin {
            container_id: self.id.clone(),
            container_name: self.request.name.clone(),
            image_digest: self.image.to_string(),
            host_name: host_name()?,
            launch_id: self.launch.to_string(),
        })
    }

    fn status_of(&self, pid: i32) -> crate::state::Status {
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
