//! Side effects: the calls by which an app tries to change a file system, seen before they fail.
//!
//! That they fail is the kernel's work: every mount is read-only. A filter asks about each such call
//! (seccomp_unotify(2)); the observer, a thread of its own, reads what the call names, lets it go on
//! to its error, and counts and reports it. It never waits for the sink: what there is no room for
//! is lost to the log and still counted.
//!
//! Under `--on-write kill` and `imrun check`, no call continues because of what it names: imrun makes it
//! in the kernel's place ([`stand_in`]).
#![forbid(unsafe_code)]

mod advice;
mod attempt;
pub mod calls;
mod ioctls;
mod owner;
mod privilege;
mod report;
mod scene;
mod stand_in;
mod walk;

pub use owner::Owners;
pub use report::{Effect, Report};

use crate::cgroup::Cgroup;
use crate::error::{Context, Result};
use crate::id_map::Ids;
use crate::relay::Relay;
use crate::ship::Shipper;
use crate::status::Status;
use crate::sys::seccomp::{Listener, Notification};
use attempt::{Attempt, Change, StandIn, Verdict, flag_names};
use calls::{Action, Call};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use report::{Key, Seen, UNREADABLE};
use scene::{Scene, Unread};
use serde_json::json;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// `--on-write`: what becomes of an app that tries to change a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnWrite {
    /// The call fails, and is reported.
    Report,
    /// The container is killed before the call returns.
    Kill,
    /// The call fails, and nobody looks.
    Quiet,
    /// The call fails, and is reported; the report rests on nothing that the app can change meanwhile.
    #[value(skip)]
    Check,
}

impl OnWrite {
    /// The word for it in records.
    pub fn as_str(self) -> &'static str {
        match self {
            OnWrite::Report => "report",
            OnWrite::Kill => "kill",
            OnWrite::Quiet => "quiet",
            OnWrite::Check => "check",
        }
    }
}

/// Time for which the observer keeps the tree of the image's layers.
const REST: u16 = 1000; // ms

/// Watches over the calls of one container.
pub struct Observer<'a> {
    /// Listener of the container's filter.
    pub listener: Listener,
    /// Treatment of attempts.
    pub on_write: OnWrite,
    /// True if a process may have another root directory than the container's.
    pub is_moved: bool,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// Layers of paths.
    pub owners: Owners<'a>,
    /// Users of the container, by the host's numbers.
    pub ids: &'a Ids,
    /// What an exit of the app waits for.
    pub relay: Option<&'a Relay>,
    /// Shipper of the reports.
    pub shipper: &'a Shipper,
    /// Second receiver of the reports.
    pub status: &'a Status,
}

impl Observer<'_> {
    /// Runs `work` with the observer beside it, if there is one; what it saw until `work` was done.
    ///
    /// # Errors
    /// That of `work`, else the observer's.
    pub fn beside<T>(
        observer: Option<Observer<'_>>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Report)> {
        let Some(observer) = observer else {
            return Ok((work()?, Report::default()));
        };
        let (end, open) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")?;
        std::thread::scope(|scope| {
            let watching = std::thread::Builder::new()
                .name("observer".into())
                .spawn_scoped(scope, || observer.run(end.as_fd()))
                .context(|| "clone(thread)")?;
            let done = work();
            drop(open);
            let report = watching
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((done?, report?))
        })
    }

    /// Answers every call, and ends the container where it cannot: a call without an answer waits for
    /// ever.
    ///
    /// Returns when `end` is closed at its other end, or nobody is left to call.
    fn run(self, end: BorrowedFd<'_>) -> Result<Report> {
        let cgroup = self.cgroup;
        self.watch(end)
            .map_err(|error| cgroup.kill().err().unwrap_or(error))
    }

    fn watch(mut self, end: BorrowedFd<'_>) -> Result<Report> {
        // Slower where the kernel does not know it, and just as right.
        let _ = self.listener.wake_in_turn();
        let mut report = Report::default();
        loop {
            let mut set = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(end, PollFlags::empty()),
            ];
            let timeout = match self.owners.is_at_rest() {
                true => PollTimeout::NONE,
                false => PollTimeout::from(REST),
            };
            match poll(&mut set, timeout) {
                Ok(0) => self.owners.rest(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context(|| "poll()"),
                Ok(_) => {
                    let events = set.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
                    if events[0].contains(PollFlags::POLLIN) {
                        self.receive(&mut report)?;
                    } else if events.iter().any(|events| !events.is_empty()) {
                        return Ok(report);
                    }
                }
            }
        }
    }

    fn receive(&mut self, report: &mut Report) -> Result<()> {
        let told = match self.listener.receive() {
            Ok(told) => told,
            // Its thread was killed meanwhile.
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno).context(|| "ioctl(SECCOMP_IOCTL_NOTIF_RECV)"),
        };
        if let Some(relay) = self.relay.filter(|_| told.number == calls::EXIT) {
            let process = || Scene::new(told.pid).process();
            relay.hold(told.pid, process, self.shipper)?;
        }
        let Some(call) = calls::of(told.number) else {
            return self.proceed(&told);
        };
        let scene = Scene::new(told.pid);
        let attempt = Attempt::read(call, &told, &scene);
        let attempt = match attempt {
            Ok(attempt) => attempt,
            Err(unread) => return self.add_unread(report, None, call, &scene, unread, &told),
        };
        if !self.is_strict() && attempt.names_device() {
            return self.proceed(&told);
        }
        let spelling = if self.is_moved {
            None
        } else {
            attempt.spelling()
        };
        if !self.listener.is_waiting(told.id) {
            return Ok(());
        }
        if let Some(place) = spelling.as_ref().and_then(|spelling| report.find(spelling)) {
            self.answer(call, &told)?;
            let seen = report.count_again(place);
            return self.tell_often(report, seen);
        }
        match attempt.judge() {
            Err(unread) => self.add_unread(report, Some(&attempt), call, &scene, unread, &told),
            Ok(Verdict::Harmless) => {
                self.is_moved |= call.action == Action::ChangeRoot;
                self.proceed(&told)
            }
            Ok(Verdict::Exempt(stand_in)) => self.exempt(report, &attempt, stand_in, &told),
            Ok(Verdict::Change(change)) => {
                let key = self.add(report, &attempt, &change, &told)?;
                if let (Some(spelling), false) = (spelling, change.is_personal) {
                    report.remember(spelling, &key);
                }
                Ok(())
            }
        }
    }

    /// Returns true if no verdict may rest on something that another thread can change.
    fn is_strict(&self) -> bool {
        matches!(self.on_write, OnWrite::Kill | OnWrite::Check)
    }

    /// A call that names what cannot be read.
    fn add_unread(
        &mut self,
        report: &mut Report,
        attempt: Option<&Attempt<'_>>,
        call: &'static Call,
        scene: &Scene,
        Unread(errno): Unread,
        told: &Notification,
    ) -> Result<()> {
        let nameless;
        let attempt = match attempt {
            Some(attempt) => attempt,
            None => {
                nameless = Attempt::without_names(call, told, scene);
                &nameless
            }
        };
        let change = Change {
            errno: Some(if call.action == Action::Forbidden {
                Errno::EPERM
            } else {
                errno
            }),
            is_unread: true,
            ..Change::default()
        };
        self.add(report, attempt, &change, told).map(drop)
    }

    /// A call that changes nothing, if what it names stays what it is.
    fn exempt(
        &mut self,
        report: &mut Report,
        attempt: &Attempt<'_>,
        stand_in: StandIn,
        told: &Notification,
    ) -> Result<()> {
        if !self.is_strict() {
            return self.proceed(told);
        }
        match stand_in::answer(&self.listener, told.id, attempt, stand_in) {
            Ok(answered) => gone_or(answered),
            Err(unread) => {
                let (call, scene) = (attempt.call, attempt.scene);
                self.add_unread(report, Some(attempt), call, scene, unread, told)
            }
        }
    }

    /// An attempt: lets it fail, counts it and tells of it.
    fn add(
        &mut self,
        report: &mut Report,
        attempt: &Attempt<'_>,
        change: &Change,
        told: &Notification,
    ) -> Result<Key> {
        let key = attempt.key(change);
        if !self.listener.is_waiting(told.id) {
            // What was read is not its own, perhaps.
            return Ok(key);
        }
        let seen = report.count(&key);
        let effect = (seen == Seen::New).then(|| self.effect(attempt, change));
        if self.on_write == OnWrite::Kill && !change.is_of_process {
            report.killed = true;
            self.cgroup.kill()?;
        } else {
            self.answer(attempt.call, told)?;
        }
        let Some(mut effect) = effect else {
            self.tell_often(report, seen)?;
            return Ok(key);
        };
        // The app goes on meanwhile.
        if let Some(place) = &change.place {
            effect.details["layer"] = match self.owners.of(&place.nearest) {
                Ok(layer) => layer,
                Err(error) => json!({ "error": error.to_string() }),
            };
        }
        self.tell(&effect, 1)?;
        report.add(key.clone(), effect);
        Ok(key)
    }

    /// Lets the kernel make the call, or refuses what no container may do.
    fn answer(&self, call: &Call, told: &Notification) -> Result<()> {
        match call.action {
            Action::Forbidden => gone_or(self.listener.refuse(told.id, Errno::EPERM)),
            _ => self.proceed(told),
        }
    }

    fn proceed(&self, told: &Notification) -> Result<()> {
        gone_or(self.listener.proceed(told.id))
    }

    fn effect(&self, attempt: &Attempt<'_>, change: &Change) -> Effect {
        let scene = attempt.scene;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let place = change.place.as_ref();
        let given = attempt.name.as_deref().unwrap_or_default();
        let user = scene
            .users()
            .get(1)
            .map(|user| self.ids.user_inside(*user).unwrap_or(*user));
        Effect {
            syscall: attempt.call.name,
            path: match (change.is_unread, given) {
                (true, _) => Some(UNREADABLE.into()),
                (false, []) => place.map(|place| text(&place.path)),
                (false, given) => Some(String::from_utf8_lossy(given).into_owned()),
            },
            resolved: place.map(|place| text(&place.path)),
            errno: change
                .errno
                .map_or_else(String::new, |errno| format!("{errno:?}")),
            executable: scene.executable().map(|path| text(&path)),
            details: json!({
                "pid": scene.pid(),
                "thread": scene.thread(),
                "user": user,
                "flags": attempt.flags().map(flag_names),
                "argument": change.argument,
                "nearest": place.map(|place| text(&place.nearest)),
                "other": change.other.as_deref().map(text),
            }),
        }
    }

    fn tell_often(&self, report: &Report, seen: Seen) -> Result<()> {
        match seen {
            Seen::Often(place, count) => self.tell(report.effect(place), count),
            Seen::New | Seen::Again => Ok(()),
        }
    }

    fn tell(&self, effect: &Effect, count: u64) -> Result<()> {
        let fields = effect.fields(count);
        // What there is no room for is counted by the shipper, and here.
        self.shipper.open().push_record("side-effect", &fields);
        self.status.event("side-effect", fields)
    }
}

/// An answer that failed; that the caller is gone is no failure.
fn gone_or(answered: nix::Result<()>) -> Result<()> {
    match answered {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| "ioctl(SECCOMP_IOCTL_NOTIF_SEND)"),
    }
}
