//! Side effects: the calls by which an app tries to change a file system, seen before they fail.
//!
//! That they fail is the kernel's work: every mount is read-only. A filter asks about each such call
//! (seccomp_unotify(2)); the observer, a thread of its own, reads what the call names, lets it go on
//! to its error, and counts and reports it. It never waits for the sink: what there is no room for
//! is lost to the log and still counted.
#![forbid(unsafe_code)]

mod advice;
mod attempt;
pub mod calls;
mod owner;
mod report;
mod scene;

pub use owner::Owners;
pub use report::{Effect, Report};

use crate::cgroup::Cgroup;
use crate::error::{Context, Result};
use crate::launch::Ids;
use crate::ship::Shipper;
use crate::status::Status;
use crate::sys::seccomp::{Listener, Notification};
use attempt::{Attempt, Verdict, flag_names, is_device};
use calls::{Action, Call};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use report::{Key, Seen};
use scene::{Place, Scene};
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
}

impl OnWrite {
    /// The word for it in records.
    pub fn as_str(self) -> &'static str {
        match self {
            OnWrite::Report => "report",
            OnWrite::Kill => "kill",
            OnWrite::Quiet => "quiet",
        }
    }
}

/// How long the observer keeps what it made to find a path's layer.
const REST: u16 = 1000; // ms

/// Watches over the calls of one container.
pub struct Observer<'a> {
    /// Of the container's filter.
    pub listener: Listener,
    /// Whether the first attempt ends the container.
    pub kills: bool,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// Which layer a path comes from.
    pub owners: Owners<'a>,
    /// Which of the host's users those of the container are.
    pub ids: &'a Ids,
    /// Where reports go.
    pub shipper: &'a Shipper,
    /// And here.
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
        let Some(call) = calls::of(told.number) else {
            return self.answer(None, &told);
        };
        let scene = Scene::new(told.pid);
        let attempt = Attempt::read(call, &told, &scene);
        if !self.listener.is_waiting(told.id) {
            return Ok(());
        }
        let Ok(attempt) = attempt else {
            // The kernel will not be able to read it either.
            report.add_unread();
            return self.let_fail(report, call, &told);
        };
        let key: Key = (
            told.number,
            attempt.flags().unwrap_or(0),
            attempt.name.clone(),
        );
        if is_device(&attempt.name) && call.action != Action::Forbidden {
            return self.answer(Some(call), &told);
        }
        if !key.2.is_empty() && report.effect(&key).is_some() {
            self.answer(Some(call), &told)?;
            if let Seen::Often(count) = report.count(&key)
                && let Some(effect) = report.effect(&key)
            {
                self.tell(effect, count)?;
            }
            return Ok(());
        }
        self.look(report, key, &attempt, &told)
    }

    /// A call that was not seen before, or that names nothing by which it could be known again.
    fn look(
        &mut self,
        report: &mut Report,
        mut key: Key,
        attempt: &Attempt<'_>,
        told: &Notification,
    ) -> Result<()> {
        let verdict = match attempt.judge() {
            Ok(Some(verdict)) => verdict,
            Ok(None) => return self.answer(Some(attempt.call), told),
            Err(_) => {
                report.add_unread();
                return self.let_fail(report, attempt.call, told);
            }
        };
        if key.2.is_empty()
            && let Some(place) = &verdict.place
        {
            key.2 = place.path.as_os_str().as_encoded_bytes().to_vec();
        }
        let seen = report.count(&key);
        let effect = (seen == Seen::New).then(|| self.effect(attempt, &verdict, told.pid));
        self.let_fail(report, attempt.call, told)?;
        let Some(mut effect) = effect else {
            if let (Seen::Often(count), Some(effect)) = (seen, report.effect(&key)) {
                self.tell(effect, count)?;
            }
            return Ok(());
        };
        // The app goes on meanwhile.
        if let Some(place) = &verdict.place {
            effect.details["layer"] = match self.owners.of(&place.nearest) {
                Ok(layer) => layer,
                Err(error) => json!({ "error": error.to_string() }),
            };
        }
        self.tell(&effect, 1)?;
        report.add(key, effect);
        Ok(())
    }

    /// Lets the call go on to its error; under `kill` it gets no answer, and the container its end.
    fn let_fail(&self, report: &mut Report, call: &Call, told: &Notification) -> Result<()> {
        if !self.kills {
            return self.answer(Some(call), told);
        }
        if self.listener.is_waiting(told.id) {
            report.killed = true;
            self.cgroup.kill()?;
        }
        Ok(())
    }

    fn answer(&self, call: Option<&Call>, told: &Notification) -> Result<()> {
        let answered = match call.map(|call| call.action) {
            Some(Action::Forbidden) => self.listener.refuse(told.id, Errno::EPERM),
            _ => self.listener.proceed(told.id),
        };
        match answered {
            // Its thread was killed meanwhile.
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).context(|| "ioctl(SECCOMP_IOCTL_NOTIF_SEND)"),
        }
    }

    fn effect(&self, attempt: &Attempt<'_>, verdict: &Verdict, pid: i32) -> Effect {
        let scene = attempt.scene;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let place: Option<&Place> = verdict.place.as_ref();
        let given = String::from_utf8_lossy(&attempt.name).into_owned();
        let user = scene
            .user()
            .map(|user| self.ids.user_inside(user).unwrap_or(user));
        Effect {
            syscall: attempt.call.name,
            path: match given.is_empty() {
                true => place.map(|place| text(&place.path)),
                false => Some(given),
            },
            resolved: place.map(|place| text(&place.path)),
            errno: format!("{:?}", verdict.errno),
            executable: scene.executable().map(|path| text(&path)),
            details: json!({
                "pid": pid,
                "thread": scene.thread(),
                "user": user,
                "flags": attempt.flags().map(flag_names),
                "nearest": place.map(|place| text(&place.nearest)),
                "other": verdict.other.as_deref().map(text),
            }),
        }
    }

    fn tell(&self, effect: &Effect, count: u64) -> Result<()> {
        let fields = effect.fields(count);
        // What there is no room for is counted by the shipper, and here.
        self.shipper.open().push_record("side-effect", &fields);
        self.status.event("side-effect", fields)
    }
}
