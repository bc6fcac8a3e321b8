//! Watches over one container: ships its lines, forwards signals, enforces the stop timeout and the
//! stall policy, and learns how it ended. One thread in poll(2).
#![forbid(unsafe_code)]

mod end;
mod output;
mod report;
pub mod signals;
pub mod stdin;

use crate::cgroup::Cgroup;
use crate::error::{Context, EXIT_STALLED, HINT, Result};
use crate::launch::{self, Prepared};
use crate::relay::Relay;
use crate::ship::{Framer, Shipper, Stream};
use crate::sys::guard::Guard;
use crate::sys::memory::{self, Program};
use crate::sys::process::{self, pidfd_send_signal};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use output::Output;
use report::Report;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an app has run when it is taken for one that stays.
const SETTLED: Duration = Duration::from_secs(1);

/// How long an app that ends may take from the end of its output to its own.
const LINGERING: Duration = Duration::from_millis(50);

/// How long after a stop's timeout lines may still take to reach the sink.
const FAREWELL: Duration = Duration::from_millis(500);

/// What happens to lines, or to the app, while the sink does not take any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnStall {
    /// The app waits.
    Block,
    /// Lines are dropped, and counted.
    Drop,
    /// The container is stopped when the deadline has passed.
    Kill,
}

/// How a container is watched over.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// See [`OnStall`].
    pub on_stall: OnStall,
    /// How long a sink may make no progress, under [`OnStall::Kill`].
    pub stall_deadline: Duration,
    /// What the app is sent to stop it.
    pub stop_signal: i32,
    /// How long after that it is killed.
    pub stop_timeout: Duration,
    /// How long lines may take to reach the sink after the app's end.
    pub drain: Duration,
    /// How long it runs before it is stopped, if it is.
    pub run_for: Option<Duration>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// imrun's exit code for it.
    pub code: u8,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How long it ran, where it ended before anybody stopped it.
    pub by_itself: Option<Duration>,
    /// Until when lines may take to reach the sink.
    pub drain_until: Instant,
    /// Whether imrun stopped it because the sink stayed stalled.
    pub stalled: bool,
    /// How many processes the kernel killed because memory ran out.
    pub oom_kills: u64,
}

/// Waits until the sink has acknowledged the launch record, the event `sequence`.
///
/// # Errors
/// The sink's, the deadline's; with exit code 128+n, signal n that came meanwhile.
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

/// Waits for one of the descriptors, until the deadline.
fn wait(set: &mut [PollFd<'_>], deadline: Instant) -> Result<()> {
    // Rounded up, or the last millisecond would be spent spinning.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    match poll(set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context(|| "poll()"),
    }
}

/// The container that is watched over, and what it is watched with.
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
    /// When an app that runs for a time is stopped.
    ends_at: Option<Instant>,
    /// When an app that is being stopped is killed.
    kill_at: Option<Instant>,
    /// The same, kept when that was done.
    stop_at: Option<Instant>,
    /// Whether it was told that the app does not take its stop signal.
    is_deaf_told: bool,
    stalled: bool,
    memory: Memory,
    report: Report<'a>,
    /// When an app that has closed its standard error is taken for one that goes on without.
    mute_at: Option<Instant>,
}

/// What becomes of the memory that the start took.
enum Memory {
    /// It is kept until then: most apps that end soon end sooner.
    Keep(Instant),
    /// It is given back in front of the next poll(2), or was given back in front of an earlier one.
    Give { program: Program, done: bool },
}

impl<'a> Supervisor<'a> {
    /// Takes over a container whose program was executed. `report` tells others of the shipper's
    /// counters; it is called once a second at most.
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
            memory: Memory::Keep(Instant::now() + SETTLED),
            report: Report::new(report),
            mute_at: None,
        })
    }

    /// Runs until the app has ended and its last line was read.
    pub fn watch(mut self) -> Result<Ending> {
        while !self.poll()? {
            self.forward_signals()?;
            self.ship()?;
            self.enforce_deadlines()?;
            self.report.when_due(self.shipper);
            self.settle()?;
        }
        let ending = self.ending()?;
        // It ends while the last lines are shipped.
        self.guard.kill();
        let reaped = (!self.adopted).then(|| Arc::clone(&self.guard));
        self.finish(ending.drain_until)?;
        if let Some(guard) = reaped {
            guard.end();
        }
        Ok(ending)
    }

    /// Waits for something to do; says whether the app has ended.
    ///
    /// Nothing here allocates: after a release, each part of the program that runs before poll(2)
    /// is a part that stays in memory while imrun waits.
    fn poll(&mut self) -> Result<bool> {
        let timeout = self.timeout();
        let none = || PollFd::new(self.app.as_fd(), PollFlags::empty());
        let mut set = [
            PollFd::new(self.app.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shipper.notice(), PollFlags::POLLIN),
            self.outputs[0].poll_fd().unwrap_or_else(none),
            self.outputs[1].poll_fd().unwrap_or_else(none),
            launch::loss_of(&self.guard),
        ];
        if let Memory::Give {
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
        if let Memory::Give { done, .. } = &mut self.memory {
            *done = true;
        }
        match polled {
            Ok(_) if ready[5] && !ready[0] => Err(launch::unguarded()),
            Ok(_) | Err(Errno::EINTR) => Ok(ready[0]),
            Err(errno) => Err(errno).context(|| "poll()"),
        }
    }

    fn timeout(&self) -> PollTimeout {
        const STALL_CHECK: Duration = Duration::from_millis(100);
        let settle = match self.memory {
            Memory::Keep(until) => Some(until),
            Memory::Give { .. } => None,
        };
        let times = self
            .kill_at
            .into_iter()
            .chain(self.ends_at)
            .chain(settle)
            .chain(self.mute_at)
            .chain(self.report.due());
        let times = times.map(|at| at.saturating_duration_since(Instant::now()));
        let stall = (self.policy.on_stall == OnStall::Kill).then_some(STALL_CHECK);
        let wait = times.chain(stall).min();
        // Rounded up, or the last millisecond would be spent spinning.
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
        let mut turn = self.relay.map(Relay::turn);
        for output in self
            .outputs
            .iter_mut()
            .filter(|output| output.ready || output.full)
        {
            if output.pump(self.shipper, drop)? {
                self.report.need();
            }
        }
        if let Some(turn) = &mut turn {
            **turn = self.outputs.iter().any(|output| output.full);
        }
        std::mem::drop(turn);
        // Of a container that another process reaps, imrun's standard error is the app's alone.
        if self.adopted && self.outputs[1].has_just_ended() {
            self.mute_at = Some(Instant::now() + LINGERING);
        }
        Ok(())
    }

    fn forward_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            let number = info.ssi_signo as i32;
            let stops = [Signal::SIGTERM as i32, Signal::SIGINT as i32].contains(&number);
            let signal = match number == Signal::SIGTERM as i32 {
                true => self.policy.stop_signal,
                false => number,
            };
            match stops {
                true => {
                    let timeout = signals::stop_timeout(&info);
                    self.stop(signal, timeout.unwrap_or(self.policy.stop_timeout))?;
                }
                false => self.send(signal)?,
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
        if self.mute_at.is_some_and(|at| at <= Instant::now()) {
            self.mute_at = None;
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

    /// Prepares to give memory back, once it is clear that the app stays.
    fn settle(&mut self) -> Result<()> {
        if matches!(self.memory, Memory::Keep(until) if until <= Instant::now()) {
            memory::trim_heap();
            let program = Program::find().context(|| "read(\"/proc/self/maps\")")?;
            self.memory = Memory::Give {
                program,
                done: false,
            };
        }
        Ok(())
    }

    fn ending(&self) -> Result<Ending> {
        let status = match self.adopted {
            false => {
                let status = waitid(Id::PIDFd(self.app.as_fd()), WaitPidFlag::WEXITED);
                status.context(|| "waitid(P_PIDFD)")?
            }
            true => end::of_another(self.pid, self.app.as_fd())?,
        };
        let status = match &self.init {
            Some(channel) => match launch::ending_of_app(channel)? {
                Some(told) => WaitStatus::from_raw(self.pid, told).context(|| "wait status")?,
                None => status,
            },
            None => status,
        };
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (code as u8, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as u8, Some(signal as i32)),
            // waitid was asked for ends alone.
            other => unreachable!("waitid(WEXITED) gave {other:?}"),
        };
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

    /// A stop's timeout is for the lines too: whoever stops a container waits for it.
    fn drain_until(&self) -> Instant {
        let now = Instant::now();
        let drained = now + self.policy.drain;
        self.stop_at
            .map_or(drained, |stop| drained.min(stop.max(now) + FAREWELL))
    }

    /// Reads what the app left in its pipes. Nobody writes any more: its namespace died with it.
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
