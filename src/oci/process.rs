//! `process` of config.json.

use super::config::{Changes, refuse, text, wrong};
use crate::capabilities::{self, Capabilities};
use crate::container::Process;
use crate::env::Environment;
use crate::error::Result;
use crate::json::Node;
use std::ffi::CString;

/// What is not done: the key, and why.
const REFUSED: [(&str, &str); 3] = [
    (
        "scheduler",
        "the host decides how its processors are shared",
    ),
    ("ioPriority", "the host decides how its disks are shared"),
    (
        "execCPUAffinity",
        "nothing is executed in a running container",
    ),
];

/// What config.json says of the program, and the capabilities that it may have at most.
pub(super) fn read(node: &Node<'_>, changes: &mut Changes) -> Result<(Process, Capabilities)> {
    if let Some(terminal) = node.get("terminal")?
        && terminal.truth()?
    {
        return Err(refuse("process.terminal", "a container has no terminal")
            .hint("leave out -t; its output goes to the sink"));
    }
    for (key, why) in REFUSED {
        if node.get(key)?.is_some() {
            return Err(refuse(format_args!("process.{key}"), why));
        }
    }
    for key in ["apparmorProfile", "selinuxLabel"] {
        if let Some(profile) = text(node, key)? {
            changes.add(&format!("process.{key}"), profile, "imrun's own walls");
        }
    }
    let user = node.need("user")?;
    let groups = match user.get("additionalGids")? {
        Some(groups) => groups.list()?.iter().map(number).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let process = Process {
        args: arguments(node)?,
        env: environment(node)?,
        uid: optional(&user, "uid")?.unwrap_or(0),
        gid: optional(&user, "gid")?.unwrap_or(0),
        groups,
        cwd: node.need("cwd")?.text()?.to_owned(),
        umask: optional(&user, "umask")?,
        rlimits: rlimits(node)?,
        oom_score_adj: oom_score_adj(node)?,
    };
    Ok((process, bound(node)?))
}

/// A whole number that fits 32 bits.
pub(super) fn number(node: &Node<'_>) -> Result<u32> {
    u32::try_from(node.size()?).map_err(|_| node.error("is beyond 2^32 - 1"))
}

fn optional(node: &Node<'_>, key: &str) -> Result<Option<u32>> {
    node.get(key)?.map(|node| number(&node)).transpose()
}

fn arguments(node: &Node<'_>) -> Result<Vec<CString>> {
    let args = node.need("args")?.texts()?;
    if args.first().is_none_or(|program| program.is_empty()) {
        return Err(wrong("process.args", "names no program"));
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

/// The names of getrlimit(2).
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

fn rlimits(node: &Node<'_>) -> Result<Vec<(u32, u64, u64)>> {
    let mut limits: Vec<(u32, u64, u64)> = Vec::new();
    let list = node.get("rlimits")?;
    for limit in list.map_or(Ok(Vec::new()), |list| list.list())? {
        let name = limit.need("type")?;
        let (_, resource) = *RESOURCES
            .iter()
            .find(|(known, _)| name.text().is_ok_and(|name| name == *known))
            .ok_or_else(|| name.error("is no resource that Linux limits"))?;
        let (soft, hard) = (limit.need("soft")?.word()?, limit.need("hard")?.word()?);
        if soft > hard {
            return Err(limit.error("has a soft limit above its hard one"));
        }
        if limits.iter().any(|(other, ..)| *other == resource) {
            return Err(limit.error("is given twice"));
        }
        // A core dump is a file, or runs a program of the host: there are none.
        if resource != libc::RLIMIT_CORE {
            limits.push((resource, soft, hard));
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
        _ => Err(wrong("process.oomScoreAdj", "is not within -1000 and 1000")),
    }
}

/// The bounding set, as far as any container can have it: an app never has more.
fn bound(node: &Node<'_>) -> Result<Capabilities> {
    let Some(sets) = node.get("capabilities")? else {
        return Ok(Capabilities::default());
    };
    let Some(bounding) = sets.get("bounding")? else {
        return Ok(Capabilities::default());
    };
    let names = bounding.texts()?;
    Ok(names
        .iter()
        .filter_map(|name| capabilities::parse(name).ok())
        .collect())
}
