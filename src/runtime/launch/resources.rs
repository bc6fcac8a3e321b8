//! Limits and priorities of the child, which the parent sets.

use super::{Prepared, Spec};
use crate::base::error::{Context, Result};
use crate::base::sys::process;
use nix::errno::Errno;

/// A resource limit (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_*`
    pub name: &'static str,
    /// Its number.
    pub resource: u32,
    /// The limit that is enforced.
    pub soft: u64,
    /// How far the app may raise that one.
    pub hard: u64,
}

/// How the kernel shares processors with a process (sched_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// `SCHED_*`
    pub policy: i32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// From 0 to 19.
    pub nice: i32,
}

/// What the child is given by the parent, because it may not take it itself, or is slower with it.
pub(super) struct Resources {
    /// Who owns the child's user namespace, if that is not this process's user.
    owner: Option<u32>,
    limits: Vec<Rlimit>,
    scheduler: Option<Scheduler>,
    io_priority: Option<(i32, i32)>,
}

impl Resources {
    pub fn of(spec: &Spec, owner: Option<u32>) -> Resources {
        Resources {
            owner,
            limits: spec.rlimits.clone(),
            scheduler: spec.scheduler,
            io_priority: spec.io_priority,
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

    /// Root without CAP_SYS_RESOURCE has it in the namespace as the owner of that.
    fn limit(&self, pid: i32, limit: &Rlimit) -> nix::Result<()> {
        let set = || process::limit(pid, limit.resource, limit.soft, limit.hard);
        match (set(), self.owner) {
            (Err(Errno::EPERM), Some(owner)) => process::as_user(owner, set)?,
            (set, _) => set,
        }
    }
}
