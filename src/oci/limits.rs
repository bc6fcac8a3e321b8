//! `linux.resources` of config.json.

use super::config::{Changes, refuse, wrong};
use crate::cgroup::{Cpus, Limits};
use crate::error::Result;
use crate::json::Node;

/// What is not limited: where it stands, and what stays without.
const NOT_LIMITED: [&str; 3] = ["blockIO", "network", "rdma"];

pub(super) fn read(
    root: &Node<'_>,
    controllers: &[String],
    changes: &mut Changes,
) -> Result<Limits> {
    let mut limits = Limits::default();
    let linux = root.get("linux")?;
    let Some(resources) = linux.map_or(Ok(None), |linux| linux.get("resources"))? else {
        return Ok(limits);
    };
    if let Some(memory) = resources.get("memory")? {
        limits.memory = positive(&memory, "limit")?;
        let swap = positive(&memory, "swap")?;
        if swap.is_some() && swap != limits.memory {
            changes.add("linux.resources.memory.swap", "swap", "none");
        }
        if let Some(disable) = memory.get("disableOOMKiller")?
            && disable.truth()?
        {
            return Err(refuse(
                "linux.resources.memory.disableOOMKiller",
                "version 2 of cgroups cannot",
            ));
        }
        for key in ["reservation", "kernel", "kernelTCP"] {
            if positive(&memory, key)?.is_some() {
                changes.add(&format!("linux.resources.memory.{key}"), "a limit", "none");
            }
        }
    }
    if let Some(cpu) = resources.get("cpu")? {
        limits.cpus = quota(&cpu)?;
        read_shares(&cpu, controllers, &mut limits, changes)?;
        for key in ["cpus", "mems", "realtimeRuntime", "realtimePeriod", "burst"] {
            if let Some(set) = cpu.get(key)?
                && !set.is_nothing()
            {
                return Err(refuse(
                    format_args!("linux.resources.cpu.{key}"),
                    "imrun does not set it",
                ));
            }
        }
    }
    if let Some(pids) = resources.get("pids")? {
        limits.pids = positive(&pids, "limit")?;
    }
    for key in NOT_LIMITED {
        if let Some(node) = resources.get(key)?
            && !node.is_nothing()
        {
            changes.add(&format!("linux.resources.{key}"), "a limit", "none");
        }
    }
    if let Some(pages) = resources.get("hugepageLimits")?
        && !pages.is_nothing()
    {
        changes.add("linux.resources.hugepageLimits", "a limit", "none");
    }
    if let Some(unified) = resources.get("unified")?
        && !unified.is_nothing()
    {
        return Err(refuse("linux.resources.unified", "imrun does not set it"));
    }
    Ok(limits)
}

/// A limit that is one: neither 0 nor -1, by which engines say that there is none.
fn positive(node: &Node<'_>, key: &str) -> Result<Option<u64>> {
    let Some(node) = node.get(key)? else {
        return Ok(None);
    };
    match node.integer()? {
        limit @ 1.. => Ok(Some(limit as u64)),
        -1 | 0 => Ok(None),
        _ => Err(node.error("is negative")),
    }
}

fn quota(cpu: &Node<'_>) -> Result<Option<Cpus>> {
    const PERIOD: u64 = 100_000; // the kernel's, in microseconds
    let Some(quota) = positive(cpu, "quota")? else {
        return Ok(None);
    };
    let period = positive(cpu, "period")?.unwrap_or(PERIOD);
    let cpus = Cpus::of_quota(quota, period);
    let why = "is no quota that the kernel takes";
    Ok(Some(
        cpus.ok_or_else(|| wrong("linux.resources.cpu.quota", why))?,
    ))
}

/// A share is no limit: where the host has no controller for it, it is reported and left out.
fn read_shares(
    cpu: &Node<'_>,
    controllers: &[String],
    limits: &mut Limits,
    changes: &mut Changes,
) -> Result<()> {
    const DEFAULT: u64 = 1024;
    match positive(cpu, "shares")? {
        None | Some(DEFAULT) => {}
        Some(shares) if controllers.iter().any(|name| name == "cpu") => {
            // As runc and crun have it: 2 to 262,144 become 1 to 10,000.
            let shares = shares.clamp(2, 262_144);
            limits.cpu_weight = Some(1 + (shares - 2) * 9999 / 262_142);
        }
        Some(shares) => changes.add("linux.resources.cpu.shares", shares, "the host's default"),
    }
    Ok(())
}
