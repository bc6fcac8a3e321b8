//! `process` of config.json.

use super::config::{Changes, malformed, refuse, text, wrong};
use super::document::{self, CapabilitySets};
use crate::base::error::{Reason, Result};
use crate::base::json::Node;
use crate::runtime::capabilities::{self, Capabilities};
use crate::runtime::container::Process;
use crate::runtime::env::Environment;
use crate::runtime::launch::{Rlimit, Scheduler};
use crate::runtime::user::NO_ID;
use oci_spec::runtime::{IOPriorityClass, LinuxIOPriority, PosixRlimit, PosixRlimitType};
use std::collections::BTreeSet;
use std::ffi::CString;

/// Reads the process, and the upper limit of its capabilities. `node` is the process, too.
pub(super) fn read(
    process: &document::Process,
    node: &Node<'_>,
    changes: &mut Changes,
) -> Result<(Process, Capabilities)> {
    if process.terminal {
        return Err(refuse("process.terminal", "a container has no terminal")
            .hint("omit -t; the output goes to the sink"));
    }
    for (key, profile) in [
        ("apparmorProfile", &process.apparmor_profile),
        ("selinuxLabel", &process.selinux_label),
    ] {
        if let Some(profile) = text(profile) {
            changes.add(
                &format!("process.{key}"),
                profile,
                "imrun's own confinement",
            );
        }
    }
    let user = &process.user;
    let groups = user.additional_gids().iter().flatten().enumerate();
    let mut env = Environment::new();
    env.add_image(&process.env)?;
    let bound = bound(&process.capabilities);
    let process = Process {
        args: arguments(&process.args)?,
        env,
        uid: id("uid", user.uid())?,
        gid: id("gid", user.gid())?,
        groups: groups
            .map(|(index, group)| id(&format!("additionalGids[{index}]"), *group))
            .collect::<Result<_>>()?,
        cwd: process.cwd.clone(),
        umask: user.umask(),
        rlimits: rlimits(&process.rlimits)?,
        scheduler: node
            .get("scheduler")?
            .map(|node| scheduler(&node))
            .transpose()?,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        oom_score_adj: process.oom_score_adj.map(oom_score_adj).transpose()?,
    };
    Ok((process, bound))
}

/// Checks a user or group id; `key` is its path within `process.user`.
fn id(key: &str, id: u32) -> Result<u32> {
    match id {
        NO_ID => Err(malformed(
            &format!("process.user.{key}"),
            "expected at most 4294967294, the highest id of Linux",
        )),
        id => Ok(id),
    }
}

fn arguments(args: &[String]) -> Result<Vec<CString>> {
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(wrong(
            "process.args",
            "expected a program as the first argument",
        ));
    }
    let strings = args.iter().map(|arg| CString::new(arg.as_str()));
    strings
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| wrong("process.args", "has a NUL byte"))
}

/// Returns the name and the number of a resource limit (getrlimit(2)).
fn resource(kind: PosixRlimitType) -> (&'static str, u32) {
    use PosixRlimitType as Kind;
    match kind {
        Kind::RlimitAs => ("RLIMIT_AS", libc::RLIMIT_AS),
        Kind::RlimitCore => ("RLIMIT_CORE", libc::RLIMIT_CORE),
        Kind::RlimitCpu => ("RLIMIT_CPU", libc::RLIMIT_CPU),
        Kind::RlimitData => ("RLIMIT_DATA", libc::RLIMIT_DATA),
        Kind::RlimitFsize => ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
        Kind::RlimitLocks => ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
        Kind::RlimitMemlock => ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
        Kind::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        Kind::RlimitNice => ("RLIMIT_NICE", libc::RLIMIT_NICE),
        Kind::RlimitNofile => ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
        Kind::RlimitNproc => ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
        Kind::RlimitRss => ("RLIMIT_RSS", libc::RLIMIT_RSS),
        Kind::RlimitRtprio => ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
        Kind::RlimitRttime => ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
        Kind::RlimitSigpending => ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
        Kind::RlimitStack => ("RLIMIT_STACK", libc::RLIMIT_STACK),
    }
}

fn rlimits(list: &[PosixRlimit]) -> Result<Vec<Rlimit>> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in list {
        let (name, resource) = resource(limit.typ());
        let (soft, hard) = (limit.soft(), limit.hard());
        let wrong = |why| Err(wrong(format_args!("process.rlimits {name}"), why));
        if soft > hard {
            return wrong("has a soft limit above the hard limit");
        }
        if limits.iter().any(|other| other.resource == resource) {
            return wrong("is given twice");
        }
        // A core dump would be a file, or run a program of the host: it is always off.
        if resource != libc::RLIMIT_CORE {
            limits.push(Rlimit {
                name,
                resource,
                soft,
                hard,
            });
        }
    }
    Ok(limits)
}

fn oom_score_adj(score: i64) -> Result<i32> {
    match i32::try_from(score) {
        Ok(score @ -1000..=1000) => Ok(score),
        _ => Err(wrong(
            "process.oomScoreAdj",
            "expected a number from -1000 to 1000",
        )),
    }
}

/// Reads the scheduling policy. Only what the kernel allows an unprivileged process passes: the policies of
/// ordinary programs and nice values from 0 to 19.
fn scheduler(node: &Node<'_>) -> Result<Scheduler> {
    let refuse = |what: &str| {
        let why = "needs privileges: the host decides how its processors are shared";
        Err(refuse(format_args!("process.scheduler, {what}"), why))
    };
    let policy = match node.need("policy")?.text()? {
        "SCHED_OTHER" => libc::SCHED_OTHER,
        "SCHED_BATCH" => libc::SCHED_BATCH,
        "SCHED_IDLE" => libc::SCHED_IDLE,
        other => return refuse(other),
    };
    for key in ["priority", "runtime", "deadline", "period"] {
        if node.get(key)?.is_some_and(|node| !node.is_nothing()) {
            return refuse(key);
        }
    }
    let mut flags = 0;
    let list = node
        .get("flags")?
        .map_or(Ok(Vec::new()), |list| list.texts())?;
    for flag in list {
        match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64,
            other => return refuse(other),
        }
    }
    let nice = node.get("nice")?.map_or(Ok(0), |node| node.integer())?;
    match i32::try_from(nice) {
        Ok(nice @ 0..=19) => Ok(Scheduler {
            policy,
            flags,
            nice,
        }),
        _ => refuse(&format!("nice {nice}")),
    }
}

/// Reads the I/O class and priority. The real-time class, which needs privileges, is refused.
fn io_priority(io: &LinuxIOPriority) -> Result<(i32, i32)> {
    // linux/ioprio.h
    let class = match io.class() {
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
        class @ IOPriorityClass::IoprioClassRt => {
            let why = "needs privileges: the host decides how its disks are shared";
            return Err(refuse(format_args!("process.ioPriority, {class}"), why));
        }
    };
    match i32::try_from(io.priority()) {
        Ok(priority @ 0..=7) => Ok((class, priority)),
        _ => Err(wrong(
            "process.ioPriority",
            "expected a priority from 0 to 7",
        )),
    }
}

/// Returns the bounding set, without capabilities that no container may have. Warns about names that Linux does
/// not have.
fn bound(sets: &CapabilitySets) -> Capabilities {
    let other = [
        &sets.effective,
        &sets.inheritable,
        &sets.permitted,
        &sets.ambient,
    ];
    let names: BTreeSet<_> = sets
        .bounding
        .iter()
        .chain(other.into_iter().flatten())
        .collect();
    for name in names {
        let parsed = capabilities::parse(name);
        if parsed.is_err_and(|error| error.reason == Reason::Usage) {
            log::warn!(
                "config.json `process.capabilities`: {name:?} is unknown to Linux, and left out"
            );
        }
    }
    let bound = sets.bounding.iter();
    bound
        .filter_map(|name| capabilities::parse(name).ok())
        .collect()
}
