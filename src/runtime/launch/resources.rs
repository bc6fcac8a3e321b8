//! Limits and priorities of the child, set by the parent.

use super::{Prepared, Spec};
use crate::base::error::{Context, Error, Result};
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

impl Rlimit {
    /// Returns the error of setting it: `own` is the hard limit of imrun itself.
    fn explain(&self, errno: Errno, own: Option<u64>, what: String) -> Error {
        let number = |limit| match limit {
            u64::MAX => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        let (why, hard) = (errno.desc(), number(self.hard));
        match own.filter(|own| errno == Errno::EPERM && *own < self.hard) {
            Some(own) => {
                let own = number(own);
                let name = self.name.trim_start_matches("RLIMIT_").to_lowercase();
                let why = format_args!("hard {hard}: {why}: the caller of imrun has {own}");
                Error::system(what, why).hint(format_args!(
                    "for Podman and nerdctl --ulimit {name}={own}; or a higher limit for the engine"
                ))
            }
            None => Error::system(
                what,
                format_args!("soft {}, hard {hard}: {why}", number(self.soft)),
            ),
        }
    }
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
            self.limit(pid, limit).map_err(|errno| {
                let own = process::hard_limit(limit.resource).ok();
                limit.explain(errno, own, names.limit(limit.name))
            })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_above_the_callers_is_refused_with_both_and_with_what_asks_for_less() {
        let limit = Rlimit {
            name: "RLIMIT_NOFILE",
            resource: 7,
            soft: 5,
            hard: 1_048_576,
        };
        let explain = |errno, own| limit.explain(errno, Some(own), "process.rlimits".into());
        let error = explain(Errno::EPERM, 4096);
        assert!(
            error.why.contains("1048576") && error.why.contains("4096"),
            "{error}"
        );
        assert!(error.why.contains("Operation not permitted"), "{error}");
        assert!(error.hint.unwrap().contains("--ulimit nofile=4096"));
        // Another reason: above /proc/sys/fs/nr_open, for example.
        for (errno, own) in [(Errno::EPERM, u64::MAX), (Errno::EINVAL, 1)] {
            let error = explain(errno, own);
            assert!(
                error.why.contains("soft 5, hard 1048576") && error.hint.is_none(),
                "{error}"
            );
        }
    }
}
