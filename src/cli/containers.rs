//! `imrun ps`, `imrun stop`.

use super::table::table;
use super::{Global, print, report, values};
use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use crate::runtime::state::{Runtime, Status};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// List running containers
#[derive(Args)]
pub struct Ps {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Container of a bundle, whose processes to list
    id: Option<String>,
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Show only the ids
    #[arg(short, long)]
    quiet: bool,
}

impl Ps {
    /// Prints a table or JSON.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let json = self.json || self.format == "json";
        if let Some(id) = &self.id {
            return super::oci::ps(global, id, json);
        }
        let runtime = Runtime::open(&global.root)?;
        runtime.sweep()?;
        let running = runtime.list()?;
        if json {
            let text = serde_json::to_string_pretty(&running);
            return print(&format!("{}\n", text.map_err(|e| Error::system("ps", e))?));
        }
        if self.quiet {
            let ids = running
                .iter()
                .map(|container| format!("{}\n", container.id));
            return print(&ids.collect::<String>());
        }
        let row = |c: Status| {
            // The start of a digest says enough; a path only as a whole.
            let image = if c.image.starts_with('/') {
                c.image.escape_debug().to_string()
            } else {
                c.image.chars().take(19).collect()
            };
            [
                c.id[..12].to_owned(),
                c.name.unwrap_or_else(|| "-".to_owned()),
                image,
                c.integrity,
                c.pid.to_string(),
                c.started,
                c.args.join(" ").escape_debug().to_string(),
            ]
        };
        let headings = [
            "ID",
            "NAME",
            "IMAGE",
            "INTEGRITY",
            "PID",
            "STARTED",
            "COMMAND",
        ];
        let rows: Vec<_> = running.into_iter().map(row).collect();
        print(&table(headings, &rows))
    }
}

/// Stop running containers
#[derive(Args)]
pub struct Stop {
    /// Names, or the first digits of ids
    #[arg(required = true)]
    names: Vec<String>,
    /// Time until the containers are killed [default: their --stop-timeout]
    #[arg(short, long = "time", value_parser = values::duration, value_name = "TIME")]
    time: Option<Duration>,
}

impl Stop {
    /// Waits until the containers and their supervisors are gone.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let runtime = Runtime::open(&global.root)?;
        runtime.sweep()?;
        let stop = |name: &String| self.stop(&runtime, name);
        // Each is told before the first one is waited for.
        let stopping: Vec<_> = self.names.iter().map(stop).collect();
        let mut outcome = Ok(0);
        for supervisor in stopping {
            match supervisor {
                Ok(supervisor) => await_end(&supervisor),
                Err(error) => {
                    if let Err(before) = std::mem::replace(&mut outcome, Err(error)) {
                        report(&before);
                    }
                }
            }
        }
        outcome
    }

    /// Tells the supervisor of a container to stop it.
    fn stop(&self, runtime: &Runtime, name: &str) -> Result<OwnedFd> {
        let supervisor = runtime.find(name)?.supervisor;
        let pidfd =
            process::pidfd_open(supervisor).context(|| format!("pidfd_open({supervisor})"))?;
        // The process id may have been reused since the look-up: then the name is gone.
        runtime.find(name)?;
        let value = self.time.map_or(-1, |time| {
            i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
        });
        process::queue_signal(supervisor, libc::SIGTERM, value)
            .context(|| format!("sigqueue({supervisor}, SIGTERM)"))?;
        Ok(pidfd)
    }
}

fn await_end(pidfd: &OwnedFd) {
    let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    while poll(&mut set, PollTimeout::NONE).is_err_and(|errno| errno == nix::errno::Errno::EINTR) {}
}
