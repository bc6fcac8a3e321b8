//! Who says when a container that stands in front of its execve(2) may go on.

use crate::base::error::Result;
use crate::runtime::cgroup::Made;
use crate::runtime::launch::Prepared;
use nix::sys::signalfd::SignalFd;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Stands between a prepared container and its program.
pub trait Gate: Sync {
    /// Whether the app is to be a child of imrun's own parent.
    fn adopts(&self) -> bool {
        false
    }

    /// The container's cgroup is made.
    fn grouped(&self, made: &Made) -> Result<()> {
        let _ = made;
        Ok(())
    }

    /// Whether something is to be done when the container's mounts stand.
    fn has_hooks(&self) -> bool {
        false
    }

    /// The container's mounts stand at `root` in its own mount namespace, where all else is the host's:
    /// the child has not changed to them yet.
    ///
    /// # Errors
    /// It is not to become a container.
    fn mounted(&self, app: &Prepared, root: &Path, signals: &SignalFd) -> Result<()> {
        let _ = (app, root, signals);
        Ok(())
    }

    /// Returns when the app may start.
    ///
    /// # Errors
    /// It may not: nothing of it ran.
    fn pass(&self, app: &Prepared, signals: &SignalFd) -> Result<()>;

    /// Gives away the listener of the bundle's filter: whoever has it answers the app's calls.
    fn give(&self, listener: OwnedFd, signals: &SignalFd) -> Result<()> {
        let _ = (listener, signals);
        Ok(())
    }

    /// The app runs.
    fn passed(&self, signals: &SignalFd) -> Result<()> {
        let _ = signals;
        Ok(())
    }
}

/// Always open.
pub struct Open;

impl Gate for Open {
    fn pass(&self, _: &Prepared, _: &SignalFd) -> Result<()> {
        Ok(())
    }
}
