//! `imrun ps`, `imrun stop`.

use super::{Global, print, values};
use crate::base::error::{Context, Error, Result};
use crate::base::sys::process;
use crate::runtime::state::Runtime;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::Duration;

/// List running containers
#[derive(Args)]
pub struct Ps {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Container of a bundle, whose processes to list
    id: Option<String>,
    #[arg(short, long, hide = true, default_value = "table", value_parser = ["table", "json"])]
    format: String,
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
        let mut text = format!(
            "{:12}  {:16}  {:19}  {:9}  {:7}  {:24}  COMMAND\n",
            "ID", "NAME", "IMAGE", "INTEGRITY", "PID", "STARTED"
        );
        for c in running {
            let name = c.name.as_deref().unwrap_or("-");
            let id = &c.id[..12];
            // The first digits of a digest; a path may be shorter.
            let image: String = c.image.chars().take(19).collect();
            let command = c.args.join(" ").escape_debug().to_string();
            text += &format!(
                "{id}  {name:16}  {image:19}  {:9}  {:7}  {:24}  {command}\n",
                c.integrity, c.pid, c.started
            );
        }
        print(&text)
    }
}

/// Stop a running container
#[derive(Args)]
pub struct Stop {
    /// Name, or the first digits of the id
    name: String,
    /// Time until the container is killed [default: its --stop-timeout]
    #[arg(short, long = "time", value_parser = values::duration, value_name = "TIME")]
    time: Option<Duration>,
}

impl Stop {
    /// Waits until the container and its supervisor are gone.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let runtime = Runtime::open(&global.root)?;
        runtime.sweep()?;
        let container = runtime.find(&self.name)?;
        let supervisor = container.supervisor;
        let pidfd =
            process::pidfd_open(supervisor).context(|| format!("pidfd_open({supervisor})"))?;
        // The process id may have been reused since the look-up: then the name is gone.
        runtime.find(&self.name)?;
        let value = self.time.map_or(-1, |time| {
            i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
        });
        process::queue_signal(supervisor, libc::SIGTERM, value)
            .context(|| format!("sigqueue({supervisor}, SIGTERM)"))?;
        let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        while poll(&mut set, PollTimeout::NONE)
            .is_err_and(|errno| errno == nix::errno::Errno::EINTR)
        {}
        Ok(0)
    }
}
