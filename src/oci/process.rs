//! `process` of config.json.

use super::config::{Changes, refuse, text, wrong};
use crate::base::error::{Reason, Result};
use crate::base::json::Node;
use crate::runtime::capabilities::{self, Capabilities};
use crate::runtime::container::Process;
use crate::runtime::env::Environment;
use crate::runtime::launch::{Rlimit, Scheduler};
use crate::runtime::user::NO_ID;
use std::collections::BTreeSet;
use std::ffi::CString;

/// Reads the process, and the upper limit of its capabilities.
pub(super) fn read(node: &Node<'_>, changes: &mut Changes) -> Result<(Process, Capabilities)> {
    if let Some(terminal) = node.get("terminal")?
        && terminal.truth()?
    {
        return Err(refuse("process.terminal", "a container has no terminal")
            .hint("omit -t; the output goes to the sink"));
    }
    for key in ["apparmorProfile", "selinuxLabel"] {
        if let Some(profile) = text(node, key)? {
            changes.add(
                &format!("process.{key}"),
                profile,
                "imrun's own confinement",
            );
        }
    }
    let user = node.need("user")?;
    let groups = match user.get("additionalGids")? {
        Some(groups) => groups.list()?.iter().map(id).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let process = Process {
        args: arguments(node)?,
        env: environment(node)?,
        uid: user.get("uid")?.map_or(Ok(0), |node| id(&node))?,
        gid: user.get("gid")?.map_or(Ok(0), |node| id(&node))?,
        groups,
        cwd: node.need("cwd")?.text()?.to_owned(),
        umask: user.get("umask")?.map(|node| number(&node)).transpose()?,
        rlimits: rlimits(node)?,
        scheduler: node
            .get("scheduler")?
            .map(|node| scheduler(&node))
            .transpose()?,
        io_priority: node
            .get("ioPriority")?
            .map(|node| io_priority(&node))
            .transpose()?,
        oom_score_adj: oom_score_adj(node)?,
    };
    Ok((process, bound(node)?))
}

/// Reads an integer from 0 to 2^32 - 1.
pub(super) fn number(node: &Node<'_>) -> Result<u32> {
    u32::try_from(node.size()?).map_err(|_| node.error("expected at most 2^32 - 1"))
}

/// Reads a user or group id.
fn id(node: &Node<'_>) -> Result<u32> {
    match number(node)? {
        NO_ID => Err(node.error("expected at most 4294967294, the highest id of Linux")),
        id => Ok(id),
    }
}

fn arguments(node: &Node<'_>) -> Result<Vec<CString>> {
    let args = node.need("args")?.texts()?;
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(wrong(
            "process.args",
            "expected a program as the first argument",
        ));
    }
    let strings = args.into_iter().map(CString::new);
    strings
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| wrong("process.args", "has a NUL byte"))
}

fn environment(node: &Node<'_>) -> Result<Environment> {
    let mut environment = Environment::new();
    if let Some(entries) = node.get("env")? {
        environment.add_image(&entries.texts()?)?;
    }
    Ok(environment)
}

/// Names and numbers of resource limits (getrlimit(2)).
const RESOURCES: [(&str, u32); 16] = [
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
];

fn rlimits(node: &Node<'_>) -> Result<Vec<Rlimit>> {
    let mut limits: Vec<Rlimit> = Vec::new();
    let list = node.get("rlimits")?;
    for limit in list.map_or(Ok(Vec::new()), |list| list.list())? {
        let name = limit.need("type")?;
        let text = name.text()?;
        let (name, resource) = *RESOURCES
            .iter()
            .find(|(known, _)| text == *known)
            .ok_or_else(|| name.error(format_args!("{text:?} is not a resource limit of Linux")))?;
        let (soft, hard) = (limit.need("soft")?.word()?, limit.need("hard")?.word()?);
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

fn oom_score_adj(node: &Node<'_>) -> Result<Option<i32>> {
    let Some(score) = node.get("oomScoreAdj")? else {
        return Ok(None);
    };
    let score = score.integer()?;
    match i32::try_from(score) {
        Ok(score) if (-1000..=1000).contains(&score) => Ok(Some(score)),
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
fn io_priority(node: &Node<'_>) -> Result<(i32, i32)> {
    // linux/ioprio.h
    let class = match node.need("class")?.text()? {
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => {
            let why = "needs privileges: the host decides how its disks are shared";
            return Err(refuse(format_args!("process.ioPriority, {other}"), why));
        }
    };
    let priority = node.get("priority")?.map_or(Ok(0), |node| node.integer())?;
    match i32::try_from(priority) {
        Ok(priority @ 0..=7) => Ok((class, priority)),
        _ => Err(wrong(
            "process.ioPriority",
            "expected a priority from 0 to 7",
        )),
    }
}

/// Returns the bounding set, without capabilities that no container may have. Warns about names that Linux does
/// not have.
fn bound(node: &Node<'_>) -> Result<Capabilities> {
    const SETS: [&str; 5] = [
        "bounding",
        "effective",
        "inheritable",
        "permitted",
        "ambient",
    ];
    let Some(sets) = node.get("capabilities")? else {
        return Ok(Capabilities::default());
    };
    let (mut bound, mut unknown) = (Vec::new(), BTreeSet::new());
    for set in SETS {
        let names = sets
            .get(set)?
            .map_or(Ok(Vec::new()), |names| names.texts())?;
        for name in names {
            match capabilities::parse(&name) {
                Ok(capability) if set == "bounding" => bound.push(capability),
                Err(error) if error.reason == Reason::Usage => {
                    unknown.insert(name);
                }
                _ => {}
            }
        }
    }
    for name in unknown {
        log::warn!(
            "config.json `process.capabilities`: {name:?} is unknown to Linux, and left out"
        );
    }
    Ok(bound.into_iter().collect())
}
