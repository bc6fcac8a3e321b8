//! Watches over one container: ships its lines, forwards signals, enforces the stop timeout and the
//! stall policy, and learns how it ended. One thread in poll(2).
#![forbid(unsafe_code)]

use crate::cgroup::Cgroup;
use crate::error::{Context, EXIT_STALLED, Error, Result};
use crate::launch::Prepared;
use crate::ship::{Framer, Pushed, Shipper, Stream};
use crate::sys::memory::{self, Program};
use crate::sys::process::pidfd_send_signal;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long an app has run when it is taken for one that stays.
const SETTLED: Duration = Duration::from_secs(1);

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
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// imrun's exit code for it.
    pub code: u8,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When imrun saw it.
    pub at: Instant,
    /// Whether imrun stopped it because the sink stayed stalled.
    pub stalled: bool,
    /// How many processes the kernel killed because memory ran out.
    pub oom_kills: u64,
}

/// The signals that are passed on to the app.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Blocks the signals that are passed on, for this thread and those that it makes from now on.
pub fn catch_signals() -> Result<SignalFd> {
    let set: SigSet = FORWARDED.into_iter().collect();
    set.thread_block().context(|| "rt_sigprocmask(SIG_BLOCK)")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&set, flags).context(|| "signalfd(SFD_CLOEXEC)")
}

/// The signals that end a launch whose app was not started yet.
const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

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
        refuse_signals(signals)?;
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

/// The error that a signal is, before there is an app that it could be passed on to.
fn refuse_signals(signals: &SignalFd) -> Result<()> {
    while let Some(info) = signals.read_signal().context(|| "read(signalfd)")? {
        let number = info.ssi_signo as i32;
        if let Some(signal) = ENDING.into_iter().find(|signal| *signal as i32 == number) {
            let error = Error::system(
                "launch",
                format_args!("{signal} came before the app started"),
            );
            return Err(error.exit(128 + number as u8));
        }
    }
    Ok(())
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

/// One of the app's output pipes.
struct Output {
    stream: Stream,
    file: Option<File>,
    framer: Framer,
    /// A frame waits for room in the buffer.
    full: bool,
    /// There is something to read.
    ready: bool,
}

/// The container that is watched over, and what it is watched with.
pub struct Supervisor<'a> {
    app: OwnedFd,
    cgroup: &'a Cgroup,
    shipper: &'a Shipper,
    signals: &'a SignalFd,
    policy: Policy,
    outputs: [Output; 2],
    kill_at: Option<Instant>,
    stalled: bool,
    memory: Memory,
}

/// What becomes of the memory that the start took.
enum Memory {
    /// It is kept until then: most apps that end soon end sooner.
    Keep(Instant),
    /// It is given back in front of the next poll(2).
    Release(Program),
    /// It was given back.
    Released,
}

impl<'a> Supervisor<'a> {
    /// Takes over a container whose program was executed.
    pub fn new(
        app: Prepared,
        cgroup: &'a Cgroup,
        shipper: &'a Shipper,
        signals: &'a SignalFd,
        policy: Policy,
    ) -> Result<Supervisor<'a>> {
        let outputs = [
            Output::new(Stream::Stdout, app.stdout)?,
            Output::new(Stream::Stderr, app.stderr)?,
        ];
        Ok(Supervisor {
            app: app.pidfd,
            cgroup,
            shipper,
            signals,
            policy,
            outputs,
            kill_at: None,
            stalled: false,
            memory: Memory::Keep(Instant::now() + SETTLED),
        })
    }

    /// Runs until the app has ended and its last line was read.
    pub fn watch(mut self) -> Result<Ending> {
        while !self.poll()? {
            self.forward_signals()?;
            self.ship()?;
            self.enforce_deadlines()?;
            self.settle()?;
        }
        let status = waitid(Id::PIDFd(self.app.as_fd()), WaitPidFlag::WEXITED);
        let ending = self.ending(status.context(|| "waitid(P_PIDFD)")?)?;
        self.finish(ending.at)?;
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
        ];
        if let Memory::Release(program) = &self.memory {
            program.release().context(|| "madvise(MADV_DONTNEED)")?;
        }
        let polled = poll(&mut set, timeout);
        let ready = set.map(|fd| fd.any().unwrap_or(false));
        self.outputs[0].ready = ready[3];
        self.outputs[1].ready = ready[4];
        if matches!(self.memory, Memory::Release(_)) {
            self.memory = Memory::Released;
        }
        match polled {
            Ok(_) | Err(Errno::EINTR) => Ok(ready[0]),
            Err(errno) => Err(errno).context(|| "poll()"),
        }
    }

    fn timeout(&self) -> PollTimeout {
        const STALL_CHECK: Duration = Duration::from_millis(100);
        let settle = match self.memory {
            Memory::Keep(until) => Some(until),
            Memory::Release(_) | Memory::Released => None,
        };
        let times = self.kill_at.into_iter().chain(settle);
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
        for output in self
            .outputs
            .iter_mut()
            .filter(|output| output.ready || output.full)
        {
            output.pump(self.shipper, drop)?;
        }
        Ok(())
    }

    fn forward_signals(&mut self) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context(|| "read(signalfd)")? {
            let number = info.ssi_signo as i32;
            let stops = [Signal::SIGTERM as i32, Signal::SIGINT as i32].contains(&number);
            if stops {
                let timeout = stop_timeout(&info).unwrap_or(self.policy.stop_timeout);
                self.kill_at.get_or_insert(Instant::now() + timeout);
            }
            let sent = match number == Signal::SIGTERM as i32 {
                true => self.policy.stop_signal,
                false => number,
            };
            match pidfd_send_signal(self.app.as_fd(), sent) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno).context(|| format!("pidfd_send_signal({sent})")),
            }
        }
        Ok(())
    }

    fn enforce_deadlines(&mut self) -> Result<()> {
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
            self.memory = Memory::Release(program);
        }
        Ok(())
    }

    fn ending(&self, status: WaitStatus) -> Result<Ending> {
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
            at: Instant::now(),
            stalled: self.stalled,
            oom_kills: self.cgroup.oom_kills()?,
        })
    }

    /// Reads what the app left in its pipes. Nobody writes any more: its namespace died with it.
    fn finish(mut self, ended: Instant) -> Result<()> {
        let deadline = ended + self.policy.drain;
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

/// `imrun stop -t` sends its timeout along, in milliseconds (sigqueue(3)).
fn stop_timeout(info: &nix::sys::signalfd::siginfo) -> Option<Duration> {
    (info.ssi_code == libc::SI_QUEUE && info.ssi_int >= 0)
        .then(|| Duration::from_millis(info.ssi_int as u64))
}

impl Output {
    fn new(stream: Stream, pipe: OwnedFd) -> Result<Output> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(|| "fcntl(pipe, O_NONBLOCK)")?;
        Ok(Output {
            stream,
            file: Some(pipe.into()),
            framer: Framer::new(),
            full: false,
            ready: false,
        })
    }

    /// What to wait for: something to read, if it could be shipped.
    fn poll_fd(&self) -> Option<PollFd<'_>> {
        let file = self.file.as_ref().filter(|_| !self.full)?;
        Some(PollFd::new(file.as_fd(), PollFlags::POLLIN))
    }

    /// Moves what one read gives to the shipper, as far as there is room; says whether there was
    /// anything. With `drop`, lines that find no room are counted and given up.
    ///
    /// One read, not all there is: an app that never pauses must not keep signals waiting.
    fn pump(&mut self, shipper: &Shipper, drop: bool) -> Result<bool> {
        self.offer(shipper, drop);
        let Some(file) = self.file.as_mut().filter(|_| !self.full) else {
            return Ok(false);
        };
        match self.framer.read_from(file) {
            Ok(0) => self.file = None,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| format!("read({})", self.stream.as_str())),
        }
        self.offer(shipper, drop);
        Ok(true)
    }

    fn offer(&mut self, shipper: &Shipper, drop: bool) {
        let stream = self.stream;
        self.full = !self.framer.frames(|frame| {
            match shipper.push_line(stream, frame.bytes, frame.partial()) {
                Pushed::Taken(_) => true,
                Pushed::Full if drop => {
                    shipper.drop_lines(1);
                    true
                }
                Pushed::Full => false,
            }
        });
    }

    /// The last line may have no newline; there is no time left to wait for room.
    fn end(&mut self, shipper: &Shipper) {
        self.framer.finish();
        self.offer(shipper, true);
    }
}

/// The number of a signal by its name (`SIGTERM`, `TERM`, `RTMIN+3`) or number, as image configs
/// and docker write it.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::usage(format_args!("signal {text:?}"), "is none that Linux has");
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |offset: i32| libc::SIGRTMIN() + offset;
    let number = match name.parse::<i32>() {
        Ok(number) => number,
        Err(_) if name == "RTMIN" => real_time(0),
        Err(_) => match name.strip_prefix("RTMIN+") {
            Some(offset) => real_time(offset.parse().map_err(|_| unknown())?),
            None => format!("SIG{name}")
                .parse::<Signal>()
                .map_err(|_| unknown())? as i32,
        },
    };
    if (1..=libc::SIGRTMAX()).contains(&number) {
        Ok(number)
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_ends_a_launch_is_told_apart_from_one_that_does_not() {
        // Pending for this thread alone, and blocked in it.
        let signals = catch_signals().unwrap();
        refuse_signals(&signals).unwrap();
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        refuse_signals(&signals).unwrap();
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        let error = refuse_signals(&signals).unwrap_err();
        assert_eq!(error.exit, 130);
        assert!(error.why.contains("SIGINT"), "{error}");
    }

    #[test]
    fn signals_are_read_by_name_and_number() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(parse_signal(text).unwrap(), 15);
        }
        assert_eq!(parse_signal("SIGRTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        for text in ["", "SIG", "0", "-1", "99", "SIGTERMX", "RTMIN+99"] {
            assert!(parse_signal(text).is_err(), "{text:?} was taken");
        }
    }
}
