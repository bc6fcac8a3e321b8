//! The shim as a server: sockets, the reaper, shutdown.

use super::events::Events;
use super::flags::Flags;
use super::oom::Watch;
use super::pod::Pod;
use super::runtime::Runtime;
use super::socket;
use super::task::Service;
use crate::base::error::{Context, Error, Result};
use crate::base::sys::memory;
use containerd_shim_protos::create_task;
use containerd_shim_protos::ttrpc::Server;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Time limit for publishing the last events.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a pod until containerd ends it.
pub fn serve(flags: Flags) -> Result<()> {
    memory::share_heap();
    let listener = socket::listener()?;
    nix::sys::prctl::set_child_subreaper(true).context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    let events = std::env::var("TTRPC_ADDRESS")
        .map_err(|_| Error::usage("TTRPC_ADDRESS", "is not set: containerd sets it"))?;
    let pod = Arc::new(Pod::new(Events::new(&flags.namespace, events)?, &flags.id));
    let reaper = pod.clone();
    std::thread::Builder::new()
        .name("reaper".into())
        .spawn(move || reaper.reap())
        .context(|| "clone(thread)")?;
    let service = Service::new(pod.clone(), Runtime::new(&flags), Watch::new(pod.clone()));
    let failed = |error| Error::system("ttrpc", error);
    let mut server = Server::new()
        .add_listener(listener.into_raw_fd())
        .map_err(failed)?
        .set_thread_count_min(1)
        .set_thread_count_default(2)
        .set_thread_count_max(3)
        .register_service(create_task(Arc::new(service)));
    server.start().map_err(failed)?;
    pod.await_shutdown();
    pod.events.flush(FLUSH_TIMEOUT);
    socket::remove(&flags.socket)
}
