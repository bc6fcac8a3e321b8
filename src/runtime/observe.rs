//! Side effects: calls with which an app tries to change a file system, reported before they fail.
//!
//! The kernel makes them fail: every mount is read-only. A seccomp filter notifies imrun of each such
//! call (seccomp_unotify(2)). The observer, a thread of its own, reads what the call names, lets it
//! continue to its error, counts it and reports it. It never waits for a sink: a report that does not fit
//! in the buffer is not logged, but still counted.
//!
//! Under `--on-write kill` and `imrun check`, imrun makes calls that are exempt for what they name
//! itself, so that the kernel does not read the name again ([`stand_in`]).
#![forbid(unsafe_code)]

mod advice;
mod attempt;
mod caller;
pub mod calls;
mod ioctls;
mod layers;
mod privilege;
mod report;
mod stand_in;
mod walk;

pub use layers::PathLayers;
pub use report::{Effect, Report};

use crate::base::error::{Context, Result};
use crate::base::sys::seccomp::{Listener, Notification};
use crate::logs::Shipper;
use crate::runtime::cgroup::Cgroup;
use crate::runtime::id_map::Ids;
use crate::runtime::relay::Relay;
use crate::runtime::status::Status;
use attempt::{Attempt, Change, StandIn, Verdict, flag_names};
use caller::{Caller, Unread};
use calls::{Action, Call};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use report::{Key, Seen, UNREADABLE};
use serde_json::json;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// `--on-write`: reaction to an attempt to change a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnWrite {
    /// The call fails and is reported.
    Report,
    /// The container is killed before the call returns.
    Kill,
    /// The call fails and is not observed.
    Quiet,
    /// The call fails and is reported; the app cannot change what the report is based on meanwhile.
    #[value(skip)]
    Check,
}

impl OnWrite {
    /// Returns its name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            OnWrite::Report => "report",
            OnWrite::Kill => "kill",
            OnWrite::Quiet => "quiet",
            OnWrite::Check => "check",
        }
    }
}

/// Time after which an idle observer releases the merged tree, in milliseconds.
const IDLE_TIME: u16 = 1000; // ms

/// Observes the calls of one container.
pub struct Observer<'a> {
    /// Listener of the container's filter.
    pub listener: Listener,
    /// Reaction to attempts.
    pub on_write: OnWrite,
    /// True if a process may have another root directory than the container's.
    pub is_moved: bool,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// Finds the layer of a path.
    pub layers: PathLayers<'a>,
    /// Id mappings of the container.
    pub ids: &'a Ids,
    /// Relay that the app's exit waits for.
    pub relay: Option<&'a Relay>,
    /// Shipper of the reports.
    pub shipper: &'a Shipper,
    /// Status events (`--status-fd`), which also receive the reports.
    pub status: &'a Status,
}

impl Observer<'_> {
    /// Runs `work` with the observer in a thread beside it, if there is one. Returns the result and the
    /// observer's report up to that point.
    ///
    /// # Errors
    /// The error of `work`, else that of the observer.
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

    /// Answers every call. If it cannot, it ends the container: an unanswered call would block for ever.
    ///
    /// Returns when the other end of `end` is closed, or no process is left to make calls.
    fn run(self, end: BorrowedFd<'_>) -> Result<Report> {
        let cgroup = self.cgroup;
        self.watch(end)
            .map_err(|error| cgroup.kill().err().unwrap_or(error))
    }

    fn watch(mut self, end: BorrowedFd<'_>) -> Result<Report> {
        // Optional: without it the observer is slower and just as correct.
        let _ = self.listener.wake_in_turn();
        let mut report = Report::default();
        loop {
            let mut set = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(end, PollFlags::empty()),
            ];
            let timeout = if self.layers.is_idle() {
                PollTimeout::NONE
            } else {
                PollTimeout::from(IDLE_TIME)
            };
            match poll(&mut set, timeout) {
                Ok(0) => self.layers.release(),
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
        let notification = match self.listener.receive() {
            Ok(notification) => notification,
            // The calling thread was killed meanwhile.
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno).context(|| "ioctl(SECCOMP_IOCTL_NOTIF_RECV)"),
        };
        if let Some(relay) = self.relay.filter(|_| notification.number == calls::EXIT) {
            let process = || Caller::new(notification.pid).process();
            relay.delay_exit(notification.pid, process, self.shipper)?;
        }
        let Some(call) = calls::of(notification.number) else {
            return self.proceed(&notification);
        };
        let caller = Caller::new(notification.pid);
        let attempt = Attempt::read(call, &notification, &caller);
        let attempt = match attempt {
            Ok(attempt) => attempt,
            Err(unread) => {
                return self.add_unread(report, None, call, &caller, unread, &notification);
            }
        };
        if !self.is_strict() && attempt.names_device() {
            return self.proceed(&notification);
        }
        let spelling = if self.is_moved {
            None
        } else {
            attempt.spelling()
        };
        if !self.listener.is_waiting(notification.id) {
            return Ok(());
        }
        if let Some(place) = spelling.as_ref().and_then(|spelling| report.find(spelling)) {
            self.answer(call, &notification)?;
            let seen = report.count_again(place);
            return self.emit_repeat(report, seen);
        }
        match attempt.judge() {
            Err(unread) => {
                self.add_unread(report, Some(&attempt), call, &caller, unread, &notification)
            }
            Ok(Verdict::Harmless) => {
                self.is_moved |= call.action == Action::ChangeRoot;
                self.proceed(&notification)
            }
            Ok(Verdict::Exempt(stand_in)) => self.exempt(report, &attempt, stand_in, &notification),
            Ok(Verdict::Change(change)) => {
                let key = self.add(report, &attempt, &change, &notification)?;
                if let (Some(spelling), false) = (spelling, change.is_per_process) {
                    report.remember(spelling, &key);
                }
                Ok(())
            }
        }
    }

    /// Returns true if no verdict may depend on anything that another thread can change.
    fn is_strict(&self) -> bool {
        matches!(self.on_write, OnWrite::Kill | OnWrite::Check)
    }

    /// Adds a call whose name or descriptor cannot be read.
    fn add_unread(
        &mut self,
        report: &mut Report,
        attempt: Option<&Attempt<'_>>,
        call: &'static Call,
        caller: &Caller,
        Unread(errno): Unread,
        notification: &Notification,
    ) -> Result<()> {
        let nameless;
        let attempt = match attempt {
            Some(attempt) => attempt,
            None => {
                nameless = Attempt::without_names(call, notification, caller);
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
        self.add(report, attempt, &change, notification).map(drop)
    }

    /// Answers a call that changes nothing as long as what it names stays the same.
    fn exempt(
        &mut self,
        report: &mut Report,
        attempt: &Attempt<'_>,
        stand_in: StandIn,
        notification: &Notification,
    ) -> Result<()> {
        if !self.is_strict() {
            return self.proceed(notification);
        }
        match stand_in::answer(&self.listener, notification.id, attempt, stand_in) {
            Ok(answered) => ignore_gone(answered),
            Err(unread) => {
                let (call, caller) = (attempt.call, attempt.caller);
                self.add_unread(report, Some(attempt), call, caller, unread, notification)
            }
        }
    }

    /// Adds an attempt: lets it fail, counts it and reports it.
    fn add(
        &mut self,
        report: &mut Report,
        attempt: &Attempt<'_>,
        change: &Change,
        notification: &Notification,
    ) -> Result<Key> {
        let key = attempt.key(change);
        if !self.listener.is_waiting(notification.id) {
            // The thread is gone; the memory that was read may be another's.
            return Ok(key);
        }
        let seen = report.count(&key);
        let effect = (seen == Seen::New).then(|| self.effect(attempt, change));
        if self.on_write == OnWrite::Kill && !change.is_of_process {
            report.killed = true;
            self.cgroup.kill()?;
        } else {
            self.answer(attempt.call, notification)?;
        }
        let Some(mut effect) = effect else {
            self.emit_repeat(report, seen)?;
            return Ok(key);
        };
        // The app continues meanwhile.
        if let Some(place) = &change.place {
            effect.details["layer"] = match self.layers.of(&place.nearest) {
                Ok(layer) => layer,
                Err(error) => json!({ "error": error.to_string() }),
            };
        }
        self.emit(&effect, 1)?;
        report.add(key.clone(), effect);
        Ok(key)
    }

    /// Lets the kernel make the call, or refuses a call that no container may make.
    fn answer(&self, call: &Call, notification: &Notification) -> Result<()> {
        match call.action {
            Action::Forbidden => ignore_gone(self.listener.refuse(notification.id, Errno::EPERM)),
            _ => self.proceed(notification),
        }
    }

    fn proceed(&self, notification: &Notification) -> Result<()> {
        ignore_gone(self.listener.proceed(notification.id))
    }

    fn effect(&self, attempt: &Attempt<'_>, change: &Change) -> Effect {
        let caller = attempt.caller;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let place = change.place.as_ref();
        let given = attempt.name.as_deref().unwrap_or_default();
        let user = caller
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
            executable: caller.executable().map(|path| text(&path)),
            details: json!({
                "pid": caller.pid(),
                "thread": caller.thread(),
                "user": user,
                "flags": attempt.flags().map(flag_names),
                "argument": change.argument,
                "nearest": place.map(|place| text(&place.nearest)),
                "other": change.other.as_deref().map(text),
            }),
        }
    }

    fn emit_repeat(&self, report: &Report, seen: Seen) -> Result<()> {
        match seen {
            Seen::Milestone(place, count) => self.emit(report.effect(place), count),
            Seen::New | Seen::Repeated => Ok(()),
        }
    }

    fn emit(&self, effect: &Effect, count: u64) -> Result<()> {
        let fields = effect.fields(count);
        // A report that finds no room is counted by the shipper, and here.
        self.shipper.open().push_record("side-effect", &fields);
        self.status.event("side-effect", fields)
    }
}

/// Ignores that the caller is gone; returns other errors of an answer.
fn ignore_gone(answered: nix::Result<()>) -> Result<()> {
    match answered {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| "ioctl(SECCOMP_IOCTL_NOTIF_SEND)"),
    }
}
