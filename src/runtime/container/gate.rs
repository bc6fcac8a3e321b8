//! The gate between a prepared container and its program: it decides when the app may start.

use crate::base::error::Result;
use crate::runtime::cgroup::CgroupIdentity;
use crate::runtime::launch::Prepared;
use nix::sys::signalfd::SignalFd;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Decides when a prepared container may run its program, and runs hooks at each stage.
pub trait Gate: Sync {
    /// Returns true if the app shall become a child of imrun's own parent.
    fn adopts(&self) -> bool {
        false
    }

    /// Called when the container's cgroup exists.
    fn cgroup_created(&self, identity: &CgroupIdentity) -> Result<()> {
        let _ = identity;
        Ok(())
    }

    /// Returns true if `mounts_ready` has work to do.
    fn has_hooks(&self) -> bool {
        false
    }

    /// Called when the container's mounts are ready at `root` in its own mount namespace. The child has
    /// not changed its root to them yet, so everything else is the host's.
    ///
    /// # Errors
    /// The launch is abandoned.
    fn mounts_ready(&self, app: &Prepared, root: &Path, signals: &SignalFd) -> Result<()> {
        let _ = (app, root, signals);
        Ok(())
    }

    /// Waits until the app may start.
    ///
    /// # Errors
    /// The launch is abandoned; nothing of the image ran.
    fn wait(&self, app: &Prepared, signals: &SignalFd) -> Result<()>;

    /// Receives the listener of the bundle's filter and passes it to the agent that answers the app's
    /// calls.
    fn send_listener(&self, listener: OwnedFd, signals: &SignalFd) -> Result<()> {
        let _ = (listener, signals);
        Ok(())
    }

    /// Called when the app runs.
    fn started(&self, signals: &SignalFd) -> Result<()> {
        let _ = signals;
        Ok(())
    }
}

/// Gate of `imrun run`: the app starts at once.
pub struct OpenGate;

impl Gate for OpenGate {
    fn wait(&self, _: &Prepared, _: &SignalFd) -> Result<()> {
        Ok(())
    }
}
