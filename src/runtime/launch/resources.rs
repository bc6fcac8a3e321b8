//! Limits and priorities of the child, set by the parent.

use super::{Prepared, Spec};
use crate::base::error::{Context, Result};
use crate::base::sys::process;
use nix::errno::Errno;

/// A resource limit (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Name (`RLIMIT_*`).
    pub name: &'static str,
    /// Number of the resource.
    pub resource: u32,
    /// Enforced limit.
    pub soft: u64,
    /// Maximum to which the app may raise the soft limit.
    pub hard: u64,
}

/// CPU scheduling of a process (sched_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// Policy (`SCHED_*`).
    pub policy: i32,
    /// Flags (`SCHED_FLAG_*`).
    pub flags: u64,
    /// Nice value, 0 to 19.
    pub nice: i32,
}

/// Limits and priorities that the parent sets for the child, because the child may not set them itself or
/// is slower with them.
pub(super) struct Resources {
    /// Owner of the child's user namespace, if it is not this process's user.
    owner: Option<u32>,
    limits: Vec<Rlimit>,
    scheduler: Option<Scheduler>,
    io_priority: Option<(i32, i32)>,
}

impl Resources {
    pub fn of(spec: &Spec, owner: Option<u32>) -> Resources {
        Resources {
            owner,
            limits: spec.settings.rlimits.clone(),
            scheduler: spec.settings.scheduler,
            io_priority: spec.settings.io_priority,
        }
    }

    pub fn apply(&self, to: &Prepared) -> Result<()> {
        let (pid, names) = (to.pid.as_raw(), &to.names);
        for limit in &self.limits {
            self.limit(pid, limit).context(|| names.limit(limit.name))?;
        }
        if let Some(Scheduler {
            policy,
            flags,
            nice,
        }) = self.scheduler
        {
            process::set_scheduler(pid, policy, flags, nice)
                .context(|| names.process("scheduler"))?;
        }
        if let Some((class, priority)) = self.io_priority {
            process::set_io_priority(pid, class, priority)
                .context(|| names.process("ioPriority"))?;
        }
        Ok(())
    }

    /// Sets one limit. Root without CAP_SYS_RESOURCE has that capability as the owner of the child's user
    /// namespace.
    fn limit(&self, pid: i32, limit: &Rlimit) -> nix::Result<()> {
        let set = || process::limit(pid, limit.resource, limit.soft, limit.hard);
        match (set(), self.owner) {
            (Err(Errno::EPERM), Some(owner)) => process::as_user(owner, set)?,
            (set, _) => set,
        }
    }
}
