//! The first process of an appliance: it makes an initramfs a host for one image, and launches what
//! the kernel's command line names.
//!
//! ```text
//! file systems → command line → modules → network → store → launch → launch of the fallback → end
//!                                                            └ forked: `imrun run` itself; this process
//!                                                              reaps, feeds the watchdog, hears how it went
//! ```
#![forbid(unsafe_code)]

mod address;
mod disk;
mod machine;
mod network;
mod superblock;
mod watch;
mod words;

use crate::digest::Digest;
use crate::error::{Context, EXIT_REFUSED, Result, say};
use crate::sys::process;
use nix::fcntl::OFlag;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::SigSet;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use watch::{Ended, Watch};
use words::{OnExit, Orders};

/// What covers the command line from the app, to whom it would tell the variables of imrun's own
/// words: paths in the container.
pub const MASKED: [&std::ffi::CStr; 2] = [c"/proc/cmdline", c"/proc/bootconfig"];

/// One launch.
pub struct Attempt {
    /// Where the image is.
    pub store: PathBuf,
    /// Options, image and arguments of `imrun run`.
    pub arguments: Vec<OsString>,
    /// Where status events go.
    pub status: OwnedFd,
    /// What became of the image in whose place this one is launched: a record for the sinks.
    pub instead_of: Option<Value>,
}

/// Runs the machine until the app has ended, and ends the machine. `launch` does one launch, in a
/// process of its own, and says its exit code.
///
/// Returns where the machine is to end by its first process's end: an exit code.
pub fn run(launch: &dyn Fn(Attempt) -> u8) -> u8 {
    let (on_exit, outcome) = match begin() {
        Ok(line) => (words::on_exit(&line), serve(&line, launch)),
        Err(error) => (OnExit::PowerOff, Err(error)),
    };
    let code = outcome.unwrap_or_else(|error| {
        tell(&error.to_string());
        if let Some(hint) = &error.hint {
            say(&format!("hint: {hint}\n"));
        }
        error.exit
    });
    end(on_exit, code)
}

/// The kernel's command line.
fn begin() -> Result<Vec<u8>> {
    const LINE: &str = "/proc/cmdline";
    machine::mount_all()?;
    std::fs::read(LINE).context(|| format!("read({LINE:?})"))
}

fn serve(line: &[u8], launch: &dyn Fn(Attempt) -> u8) -> Result<u8> {
    let orders = words::parse(line)?;
    machine::load_modules(line)?;
    network::configure(orders.address.as_deref())?;
    machine::settle()?;
    let store = disk::find(&orders.store)?;
    let mut watch = Watch::new()?;
    let first = attempt(&orders, &store, &orders.image, None, &mut watch, launch)?;
    match &orders.fallback {
        Some(fallback) if !watch.stopped && has_failed(&first, &orders) => {
            tell(&format!("launching the fallback {fallback}"));
            let report = Some(report(&orders.image, &first));
            let second = attempt(&orders, &store, fallback, report, &mut watch, launch)?;
            Ok(second.code)
        }
        _ => Ok(first.code),
    }
}

/// Launches one image, and says on the console how it ended.
fn attempt(
    orders: &Orders,
    store: &Path,
    image: &Digest,
    instead_of: Option<Value>,
    watch: &mut Watch,
    launch: &dyn Fn(Attempt) -> u8,
) -> Result<Ended> {
    let mut arguments = orders.options.clone();
    arguments.extend(["--".into(), image.to_string().into()]);
    arguments.extend(orders.arguments.iter().cloned());
    let ended = fork(watch, launch, |status| Attempt {
        store: store.into(),
        arguments,
        status,
        instead_of,
    })?;
    tell(&how(image, &ended));
    Ok(ended)
}

/// The record of the image that the fallback stands in for.
fn report(image: &Digest, ended: &Ended) -> Value {
    json!({
        "image": image,
        "code": ended.code,
        "error": ended.error,
        "ranMs": ended.ran.map(|ran| ran.as_millis() as u64),
    })
}

/// Whether the fallback is the better one: the app was not started, or did not last.
fn has_failed(ended: &Ended, orders: &Orders) -> bool {
    match ended.ran {
        None => true,
        Some(ran) => ended.code != 0 && ran < orders.fallback_within,
    }
}

fn how(image: &Digest, ended: &Ended) -> String {
    match (ended.ran, &ended.error) {
        (Some(ran), _) => format!(
            "{image} ended with {} after {:.1} s",
            ended.code,
            ran.as_secs_f64()
        ),
        (None, Some(error)) => format!("{image} was not started: {error}"),
        (None, None) => format!("{image} was not started: exit code {}", ended.code),
    }
}

/// Launches in a process of its own: what becomes of that one is never the end of this one, which
/// would be the machine's.
fn fork(
    watch: &mut Watch,
    launch: &dyn Fn(Attempt) -> u8,
    attempt: impl FnOnce(OwnedFd) -> Attempt,
) -> Result<Ended> {
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (status, told) = nix::unistd::pipe2(flags).context(|| "pipe2(O_CLOEXEC)")?;
    // A launch waits for who reads its events.
    nix::fcntl::fcntl(&told, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))
        .context(|| "fcntl(pipe, F_SETFL)")?;
    match process::fork().context(|| "fork()")? {
        Some(child) => {
            drop(told);
            watch.over(child, status)
        }
        None => {
            let code = match SigSet::empty().thread_set_mask() {
                Ok(()) => launch(attempt(told)),
                Err(_) => EXIT_REFUSED,
            };
            process::exit(code.into())
        }
    }
}

fn tell(text: &str) {
    say(&format!("imrun: {text}\n"));
}

/// Nothing was written to any disk: there is nothing to sync.
fn end(on_exit: OnExit, code: u8) -> u8 {
    let mode = match on_exit {
        OnExit::PowerOff => RebootMode::RB_POWER_OFF,
        OnExit::Reboot => RebootMode::RB_AUTOBOOT,
        // The kernel panics without its first process.
        OnExit::Panic => return code,
    };
    let Err(errno) = reboot(mode);
    tell(&format!("reboot({mode:?}): {}", errno.desc()));
    code
}

impl Attempt {
    /// The number for `--status-fd`.
    pub fn status_number(&self) -> i32 {
        self.status.as_raw_fd()
    }
}
