//! Supervision of one container: ships its lines, forwards signals, enforces the stop timeout and the
//! stall policy, and determines the exit status. One thread in poll(2).
#![forbid(unsafe_code)]

mod end;
mod output;
mod report;
pub mod signals;
pub mod stdin;

use crate::base::error::{Context, EXIT_STALLED, HINT, Result};
use crate::base::sys::guard::Guard;
use crate::base::sys::memory::{self, Program};
use crate::base::sys::process::{self, pidfd_send_signal};
use crate::logs::{Framer, Shipper, Stream};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::launch::{self, Prepared};
use crate::runtime::relay::Relay;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use output::Output;
use report::CounterReport;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Run time after which imrun releases memory, because the app is expected to stay.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Maximum time between the end of the app's output and its exit.
const EXIT_GRACE: Duration = Duration::from_millis(50);

/// Additional time, after the stop timeout, for lines to reach the sink.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// Reaction to a sink that accepts no lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnStall {
    /// The app blocks when it writes.
    Block,
    /// Lines are dropped and counted.
    Drop,
    /// The container is killed after the deadline.
    Kill,
}

/// Supervision policy of a container.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Reaction to a stalled sink.
    pub on_stall: OnStall,
    /// Maximum time without progress of a sink, for [`OnStall::Kill`].
    pub stall_deadline: Duration,
    /// Signal that stops the app.
    pub stop_signal: i32,
    /// Time between the stop signal and SIGKILL.
    pub stop_timeout: Duration,
    /// Time for lines to reach the sink after the app's exit.
    pub drain: Duration,
    /// Run time after which imrun stops the app; `None` is unlimited.
    pub run_for: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            on_stall: OnStall::Block,
            stall_deadline: Duration::from_secs(30),
            stop_signal: libc::SIGTERM,
            stop_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            run_for: None,
        }
    }
}

/// End of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Exit code of imrun.
    pub code: u8,
    /// Signal that ended the app.
    pub signal: Option<i32>,
    /// Run time of an app that ended before anybody stopped it.
    pub by_itself: Option<Duration>,
    /// Deadline for lines to reach the sink.
    pub drain_until: Instant,
    /// True if imrun killed the container because the sink stayed stalled.
    pub stalled: bool,
    /// Number of processes that the kernel killed because memory ran out.
    pub oom_kills: u64,
}

/// Waits until the sink has acknowledged the launch record, event number `sequence`.
///
/// # Errors
/// The sink refused the record or the deadline passed; with exit code 128+n, signal n arrived meanwhile.
pub fn await_acknowledgement(
    shipper: &Shipper,
    sequence: u64,
    deadline: Instant,
    signals: &SignalFd,
) -> Result<()> {
    loop {
        signals::refuse(signals)?;
        let now = Instant::now();
        if shipper.is_settled(sequence) || shipper.failure().is_some() || now >= deadline {
            return shipper.wait_acknowledged(sequence, now);
        }
        let mut set = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(shipper.notice(), PollFlags::POLLIN),
        ];
        wait(&mut set, deadline)?;
        shipper.clear_notice()?;
    }
}

/// Waits for one of the descriptors until the deadline.
fn wait(set: &mut [PollFd<'_>], deadline: Instant) -> Result<()> {
    // Rounded up; otherwise the loop would spin for the last millisecond.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    match poll(set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context(|| "poll()"),
    }
}

/// Supervisor of one container.
pub struct Supervisor<'a> {
    app: OwnedFd,
    pid: Pid,
    adopted: bool,
    /// Tells of the app, where a process 1 is in front of it.
    init: Option<OwnedFd>,
    guard: Arc<Guard>,
    cgroup: &'a Cgroup,
    shipper: &'a Shipper,
    signals: &'a SignalFd,
    policy: Policy,
    outputs: [Output; 2],
    relay: Option<&'a Relay>,
    started: Instant,
    /// Time at which a run of limited length is stopped.
    ends_at: Option<Instant>,
    /// Time at which a stopping app is killed.
    kill_at: Option<Instant>,
    /// Like `kill_at`, kept after the kill.
    stop_at: Option<Instant>,
    /// Whether it was told that the app does not take its stop signal.
    is_deaf_told: bool,
    stalled: bool,
    memory: Memory,
    report: CounterReport<'a>,
    /// Time at which imrun closes its own standard error, after the app has closed its own.
    close_stderr_at: Option<Instant>,
}

/// State of the memory that the start used.
enum Memory {
    /// Kept until this time: most short-lived apps have ended by then.
    Keep(Instant),
    /// Released before the next poll(2), or `done` before an earlier one.
    Release { program: Program, done: bool },
}

impl<'a> Supervisor<'a> {
    /// Takes over a running container. `report` publishes the shipper's counters; it is called once a
    /// second at most.
    pub fn new(
        app: Prepared,
        cgroup: &'a Cgroup,
        shipper: &'a Shipper,
        signals: &'a SignalFd,
        policy: Policy,
        relay: Option<&'a Relay>,
        report: Box<dyn FnMut() -> Result<()> + 'a>,
    ) -> Result<Supervisor<'a>> {
        let init = app.init_channel()?;
        let framer = || relay.map_or_else(Framer::new, |_| Framer::hasty());
        let outputs = [
            Output::new(Stream::Stdout, app.stdout, framer())?,
            Output::new(Stream::Stderr, app.stderr, framer())?,
        ];
        Ok(Supervisor {
            init,
            app: app.pidfd,
            pid: app.pid,
            adopted: app.adopted,
            guard: app.guard,
            cgroup,
            shipper,
            signals,
            policy,
            outputs,
            relay,
            started: Instant::now(),
            ends_at: policy.run_for.map(|time| Instant::now() + time),
            kill_at: None,
            stop_at: None,
            is_deaf_told: false,
            stalled: false,
            memory: Memory::Keep(Instant::now() + SETTLE_TIME),
            report: CounterReport::new(report),
            close_stderr_at: None,
        })
    }

    /// Runs until the app has ended and its last line has been read.
    pub fn watch(mut self) -> Result<Ending> {
        while !self.poll()? {
            self.forward_signals()?;
            self.ship()?;
            self.enforce_deadlines()?;
            self.report.when_due(self.shipper);
            self.settle()?;
        }
        let ending = self.ending()?;
        // The guard's process ends while the last lines are shipped.
        self.guard.kill();
        let reaped = (!self.adopted).then(|| Arc::clone(&self.guard));
        self.finish(ending.drain_until)?;
        if let Some(guard) = reaped {
            guard.end();
        }
        Ok(ending)
    }

    /// Waits for an event; returns true if the app has ended.
    ///
    /// Allocates nothing: after a release, every part of the program that runs before poll(2) stays in
    /// memory while imrun waits.
    fn poll(&mut self) -> Result<bool> {
        let timeout = self.timeout();
        let none = || PollFd::new(self.app.as_fd(), PollFlags::empty());
        let mut set = [
            PollFd::new(self.app.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shipper.notice(), PollFlags::POLLIN),
            self.outputs[0].poll_fd().unwrap_or_else(none),
            self.outputs[1].poll_fd().unwrap_or_else(none),
            launch::guard_poll_fd(&self.guard),
        ];
        if let Memory::Release {
            program,
            done: false,
        } = &self.memory
        {
            program.release().context(|| "madvise(MADV_DONTNEED)")?;
        }
        let polled = poll(&mut set, timeout);
        let ready = set.map(|fd| fd.any().unwrap_or(false));
        self.outputs[0].ready = ready[3];
        self.outputs[1].ready = ready[4];
        if let Memory::Release { done, .. } = &mut self.memory {
            *done = true;
        }
        match polled {
            Ok(_) if ready[5] && !ready[0] => Err(launch::guard_lost()),
            Ok(_) | Err(Errno::EINTR) => Ok(ready[0]),
            Err(errno) => Err(errno).context(|| "poll()"),
        }
    }

    fn timeout(&self) -> PollTimeout {
        const STALL_CHECK: Duration = Duration::from_millis(100);
        let settle = match self.memory {
            Memory::Keep(until) => Some(until),
            Memory::Release { .. } => None,
        };
        let times = self
            .kill_at
            .into_iter()
            .chain(self.ends_at)
            .chain(settle)
            .chain(self.close_stderr_at)
            .chain(self.report.due());
        let times = times.map(|at| at.saturating_duration_since(Instant::now()));
        let stall = (self.policy.on_stall == OnStall::Kill).then_some(STALL_CHECK);
        let wait = times.chain(stall).min();
        // Rounded up; otherwise the loop would spin for the last millisecond.
        wait.map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        })
    }

    fn ship(&mut self) -> Result<()> {
        self.shipper.clear_notice()?;
        if let Some(error) = self.shipper.failure() {
            return Err(error);
        }
        let drop = self.policy.on_stall == OnStall::Drop;
        let mut is_waiting = self.relay.map(Relay::lock);
        for output in self
            .outputs
            .iter_mut()
            .filter(|output| output.ready || output.full)
        {
            if output.pump(self.shipper, drop)? {
                self.report.need();
            }
        }
        if let Some(is_waiting) = &mut is_waiting {
            **is_waiting = self.outputs.iter().any(|output| output.full);
        }
        std::mem::drop(is_waiting);
        // Whoever reads imrun's standard output learns that the app has closed its own.
        if self.outputs[0].has_just_ended() {
            process::close_stream(1).context(|| "dup2(/dev/null, 1)")?;
        }
        // If another process reaps the container, imrun's standard error belongs to the app alone.
        if self.adopted && self.outputs[1].has_just_ended() {
            self.close_stderr_at = Some(Instant::now() + EXIT_GRACE);
        }
        Ok(())
    }

    fn forward_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            let number = info.ssi_signo as i32;
            let stops = [Signal::SIGTERM as i32, Signal::SIGINT as i32].contains(&number);
            let signal = if number == Signal::SIGTERM as i32 {
                self.policy.stop_signal
            } else {
                number
            };
            if stops {
                let timeout = signals::stop_timeout(&info);
                self.stop(signal, timeout.unwrap_or(self.policy.stop_timeout))?;
            } else {
                self.send(signal)?
            }
        }
        Ok(())
    }

    /// Sends a signal that is to end the app, which is killed after `timeout`; at once where the kernel gives the app
    /// no signal that would end it.
    fn stop(&mut self, signal: i32, timeout: Duration) -> Result<()> {
        let mut at = *self.stop_at.get_or_insert(Instant::now() + timeout);
        if self.kill_at.is_none() && !self.is_deaf_told && self.is_deaf_to(signal) {
            self.is_deaf_told = true;
            let name = signals::name(signal);
            log::warn!(
                "stop: the app has no handler for {name}, and the kernel gives process 1 no signal without: killed at once"
            );
            log::warn!(target: HINT, "--init runs it as process 2, which {name} ends; or --stop-signal names one that it handles");
            at = Instant::now();
        }
        self.kill_at.get_or_insert(at);
        self.send(signal)
    }

    /// Returns true when neither `signal` nor the stop signal does anything to the app.
    fn is_deaf_to(&self, signal: i32) -> bool {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.pid));
        // While a process waits for signals (sigtimedwait(2)), /proc does not show that it blocks them.
        let is_elsewhere = || read("syscall").is_ok_and(|call| !signals::is_waited_for(&call));
        // Where something cannot be read, the app has its time.
        let nothing = |status: String| {
            let signals = [signal, self.policy.stop_signal];
            signals
                .iter()
                .all(|signal| signals::does_nothing(&status, *signal))
        };
        self.init.is_none() && is_elsewhere() && read("status").is_ok_and(nothing) && is_elsewhere()
    }

    fn send(&self, signal: i32) -> Result<()> {
        match pidfd_send_signal(self.app.as_fd(), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno).context(|| format!("pidfd_send_signal({signal})")),
        }
    }

    fn enforce_deadlines(&mut self) -> Result<()> {
        if self.ends_at.is_some_and(|at| at <= Instant::now()) {
            self.ends_at = None;
            self.stop(self.policy.stop_signal, self.policy.stop_timeout)?;
        }
        if self.close_stderr_at.is_some_and(|at| at <= Instant::now()) {
            self.close_stderr_at = None;
            process::close_stream(2).context(|| "dup2(/dev/null, 2)")?;
        }
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            self.kill_at = None;
            self.cgroup.kill()?;
        }
        let deadline = self.policy.stall_deadline;
        if self.policy.on_stall == OnStall::Kill
            && !self.stalled
            && self
                .shipper
                .stalled()
                .is_some_and(|since| since >= deadline)
        {
            self.stalled = true;
            self.cgroup.kill()?;
        }
        Ok(())
    }

    /// Prepares to release memory, once the app has run for [`SETTLE_TIME`].
    fn settle(&mut self) -> Result<()> {
        if matches!(self.memory, Memory::Keep(until) if until <= Instant::now()) {
            memory::trim_heap();
            let program = Program::find().context(|| "read(\"/proc/self/maps\")")?;
            self.memory = Memory::Release {
                program,
                done: false,
            };
        }
        Ok(())
    }

    fn ending(&self) -> Result<Ending> {
        let status = if self.adopted {
            end::of_adopted(self.pid, self.app.as_fd())?
        } else {
            process::wait_for(self.app.as_fd()).context(|| "waitid(P_PIDFD)")?
        };
        let status = match &self.init {
            Some(channel) => launch::ending_of_app(channel)?.unwrap_or(status),
            None => status,
        };
        let (code, signal) = process::code_of(status);
        let code = if self.stalled { EXIT_STALLED } else { code };
        Ok(Ending {
            code,
            signal,
            by_itself: (self.stop_at.is_none() && !self.stalled).then(|| self.started.elapsed()),
            drain_until: self.drain_until(),
            stalled: self.stalled,
            oom_kills: self.cgroup.oom_kills()?,
        })
    }

    /// Returns the deadline for lines. The stop timeout includes it, because the caller of a stop waits
    /// for it.
    fn drain_until(&self) -> Instant {
        let now = Instant::now();
        let drained = now + self.policy.drain;
        self.stop_at
            .map_or(drained, |stop| drained.min(stop.max(now) + DRAIN_GRACE))
    }

    /// Reads what the app left in its pipes. No process writes any more: the pid namespace has ended.
    fn finish(mut self, deadline: Instant) -> Result<()> {
        self.shipper.begin_drain();
        loop {
            let late = Instant::now() >= deadline || self.shipper.failure().is_some();
            let drop = late || self.policy.on_stall == OnStall::Drop;
            let mut moved = false;
            for output in &mut self.outputs {
                moved |= output.pump(self.shipper, drop)?;
            }
            if moved {
                continue;
            }
            if self.outputs.iter().all(|output| !output.full) {
                break;
            }
            self.await_room(deadline)?;
        }
        for output in &mut self.outputs {
            output.end(self.shipper);
        }
        Ok(())
    }

    fn await_room(&self, deadline: Instant) -> Result<()> {
        wait(
            &mut [PollFd::new(self.shipper.notice(), PollFlags::POLLIN)],
            deadline,
        )?;
        self.shipper.clear_notice()
    }
}
