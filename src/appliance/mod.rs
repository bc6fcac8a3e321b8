//! The first process of an appliance: it prepares an initramfs as a host for one image, and launches the image
//! that the kernel command line names.
//!
//! ```text
//! file systems → command line → modules → network → store → launch → launch of the fallback → end
//!                                                            └ forked: `imrun run` itself; this process
//!                                                              reaps, feeds the watchdog, reads status events
//! ```
#![forbid(unsafe_code)]

mod address;
mod cmdline;
mod disk;
mod machine;
mod network;
mod superblock;
mod watch;

use crate::base::digest::Digest;
use crate::base::error::{Context, EXIT_REFUSED, Result, say};
use crate::base::sys::process;
use cmdline::{OnExit, Settings};
use nix::fcntl::OFlag;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::SigSet;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use watch::{Ended, Watch};

/// Paths masked in the container, because the kernel command line contains the variables of `imrun.env.*`.
pub const MASKED: [&std::ffi::CStr; 2] = [c"/proc/cmdline", c"/proc/bootconfig"];

/// Arguments of one launch.
pub struct Attempt {
    /// Store of the image.
    pub store: PathBuf,
    /// Options, image and arguments for `imrun run`.
    pub arguments: Vec<OsString>,
    /// Pipe for status events.
    pub status: OwnedFd,
    /// For a fallback: the record about the failed launch before, for the sinks.
    pub instead_of: Option<Value>,
}

/// Runs the machine until the app has ended, then ends the machine. `launch` runs in a process of its own, and
/// returns the exit code of `imrun run`.
///
/// Returns only if the kernel is to panic: an exit code for the first process.
pub fn run(launch: &dyn Fn(Attempt) -> u8) -> u8 {
    let (on_exit, outcome) = match begin() {
        Ok(line) => (cmdline::on_exit(&line), serve(&line, launch)),
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

/// Mounts the file systems and reads the kernel command line.
fn begin() -> Result<Vec<u8>> {
    const LINE: &str = "/proc/cmdline";
    machine::mount_all()?;
    std::fs::read(LINE).context(|| format!("read({LINE:?})"))
}

fn serve(line: &[u8], launch: &dyn Fn(Attempt) -> u8) -> Result<u8> {
    let settings = cmdline::parse(line)?;
    machine::load_modules(line)?;
    network::configure(settings.address.as_deref())?;
    machine::write_settings()?;
    let store = disk::find(&settings.store)?;
    let mut watch = Watch::new()?;
    let first = attempt(&settings, &store, &settings.image, None, &mut watch, launch)?;
    match &settings.fallback {
        Some(fallback) if !watch.stopped && has_failed(&first, &settings) => {
            tell(&format!("launching the fallback {fallback}"));
            let report = Some(report(&settings.image, &first));
            let second = attempt(&settings, &store, fallback, report, &mut watch, launch)?;
            Ok(second.code)
        }
        _ => Ok(first.code),
    }
}

/// Launches one image, and reports its end on the console.
fn attempt(
    settings: &Settings,
    store: &Path,
    image: &Digest,
    instead_of: Option<Value>,
    watch: &mut Watch,
    launch: &dyn Fn(Attempt) -> u8,
) -> Result<Ended> {
    let mut arguments = settings.options.clone();
    arguments.extend(["--".into(), image.to_string().into()]);
    arguments.extend(settings.arguments.iter().cloned());
    let ended = fork(watch, launch, |status| Attempt {
        store: store.into(),
        arguments,
        status,
        instead_of,
    })?;
    tell(&how(image, &ended));
    Ok(ended)
}

/// Returns the record about a failed launch, for the launch of the fallback.
fn report(image: &Digest, ended: &Ended) -> Value {
    json!({
        "image": image,
        "code": ended.code,
        "error": ended.error,
        "ranMs": ended.ran.map(|ran| ran.as_millis() as u64),
    })
}

/// Returns true if the fallback is to be launched: the app did not start, or failed too soon.
fn has_failed(ended: &Ended, settings: &Settings) -> bool {
    match ended.ran {
        None => true,
        Some(ran) => ended.code != 0 && ran < settings.fallback_within,
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

/// Launches in a process of its own: if this process crashed, the kernel would panic.
fn fork(
    watch: &mut Watch,
    launch: &dyn Fn(Attempt) -> u8,
    attempt: impl FnOnce(OwnedFd) -> Attempt,
) -> Result<Ended> {
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (status, told) = nix::unistd::pipe2(flags).context(|| "pipe2(O_CLOEXEC)")?;
    // A launch blocks until its events are read.
    nix::fcntl::fcntl(&told, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))
        .context(|| "fcntl(pipe, F_SETFL)")?;
    match process::fork().context(|| "fork()")? {
        Some(child) => {
            drop(told);
            watch.wait_for(child, status)
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

/// Ends the machine. Nothing was written to disks, so there is nothing to sync.
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
    /// Returns the number for `--status-fd`.
    pub fn status_number(&self) -> i32 {
        self.status.as_raw_fd()
    }
}
