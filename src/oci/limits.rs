//! `linux.resources` of config.json, translated to files of cgroup version 2.

use super::config::{Changes, WHAT, malformed, refuse, text, wrong};
use crate::base::error::Result;
use crate::base::json::Node;
use crate::runtime::cgroup::{Cpus, Limits, Setting};
use oci_spec::runtime::{Linux, LinuxCpu, LinuxMemory};
use std::collections::BTreeMap;

/// The kernel's default period of `cpu.max`, in microseconds.
const PERIOD: u64 = 100_000;
/// Keys that imrun does not apply. The request is reported.
const UNSUPPORTED: [&str; 3] = ["blockIO", "network", "rdma"];

/// Reads and checks the limits. `node` is `linux`, for the members that are not in its type.
pub(super) fn read(
    linux: &Linux,
    node: &Node<'_>,
    controllers: &[String],
    changes: &mut Changes,
) -> Result<Limits> {
    let (Some(resources), Some(node)) = (linux.resources(), node.get("resources")?) else {
        return Ok(Limits::default());
    };
    let mut reader = Reader {
        controllers,
        changes,
        limits: Limits {
            from_bundle: true,
            ..Limits::default()
        },
    };
    if let Some(memory) = resources.memory() {
        reader.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        reader.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        reader.limits.pids = positive("pids.limit", Some(pids.limit()))?;
    }
    if let Some(pages) = node.get("hugepageLimits")? {
        pages
            .list()?
            .iter()
            .try_for_each(|page| reader.huge_pages(page))?;
    }
    for key in UNSUPPORTED {
        if let Some(node) = node.get(key)?
            && !node.is_nothing()
        {
            reader.leave_out(key, "a limit", "none");
        }
    }
    // Sorted: the crate's maps have no order.
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, line) in unified {
        reader.unified(file, line)?;
    }
    Ok(reader.limits)
}

struct Reader<'a> {
    controllers: &'a [String],
    changes: &'a mut Changes,
    limits: Limits,
}

/// Returns the full path of a key of `linux.resources`.
fn field(key: &str) -> String {
    format!("linux.resources.{key}")
}

impl Reader<'_> {
    fn leave_out(&mut self, key: &str, asked: impl std::fmt::Display, became: &str) {
        self.changes.add(&field(key), asked, became);
    }

    /// Sets a limit that the container must have: a host without the controller refuses the launch.
    fn set_required(&mut self, key: &str, file: &str, value: String) -> Result<()> {
        if value.contains(char::is_control) {
            return Err(wrong(field(key), "is not one line"));
        }
        self.limits.settings.push(Setting {
            option: format!("{WHAT} `{}`", field(key)),
            file: file.into(),
            value,
        });
        Ok(())
    }

    /// Sets a limit if the host has its controller; otherwise reports it and leaves it out.
    fn set_if_supported(
        &mut self,
        key: &str,
        file: &str,
        value: String,
        became: &str,
    ) -> Result<()> {
        let controller = file.split('.').next().unwrap_or_default();
        if self.controllers.iter().any(|name| name == controller) {
            self.set_required(key, file, value)
        } else {
            self.leave_out(key, value, became);
            Ok(())
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<()> {
        self.limits.memory = positive("memory.limit", memory.limit())?;
        let swap = positive("memory.swap", memory.swap())?;
        if swap.is_some() && swap != self.limits.memory {
            self.leave_out("memory.swap", "swap", "none");
        }
        if memory.disable_oom_killer() == Some(true) {
            let why = "cgroup version 2 cannot do this";
            return Err(refuse(field("memory.disableOOMKiller"), why));
        }
        if let Some(bytes) = positive("memory.reservation", memory.reservation())? {
            self.set_required("memory.reservation", "memory.low", bytes.to_string())?;
        }
        // Limits of cgroup version 1 only.
        #[allow(deprecated)]
        let kernel = memory.kernel();
        for (key, limit) in [
            ("memory.kernel", positive("memory.kernel", kernel)?),
            (
                "memory.kernelTCP",
                positive("memory.kernelTCP", memory.kernel_tcp())?,
            ),
            ("memory.swappiness", set(memory.swappiness())),
        ] {
            if limit.is_some() {
                self.leave_out(key, "a limit", "none");
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<()> {
        let period = set(cpu.period()).unwrap_or(PERIOD);
        self.limits.cpus = quota(cpu, period)?;
        if let Some(shares) = set(cpu.shares()).filter(|shares| *shares != 1024) {
            // The conversion of runc and crun: 2 to 262,144 become 1 to 10,000.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
            let (weight, became) = (weight.to_string(), "the host's default");
            self.set_if_supported("cpu.shares", "cpu.weight", weight, became)?;
        }
        if let Some(burst) = set(cpu.burst()) {
            let wrong = || wrong(field("cpu.burst"), "out of the kernel's range");
            let burst = burst
                .checked_mul(PERIOD)
                .and_then(|burst| burst.checked_div(period));
            let burst = burst.ok_or_else(wrong)?.to_string();
            self.set_required("cpu.burst", "cpu.max.burst", burst)?;
        }
        if let Some(idle) = positive("cpu.idle", cpu.idle())? {
            self.set_required("cpu.idle", "cpu.idle", idle.to_string())?;
        }
        for (key, file, list) in [
            ("cpu.cpus", "cpuset.cpus", cpu.cpus()),
            ("cpu.mems", "cpuset.mems", cpu.mems()),
        ] {
            if let Some(list) = text(list) {
                self.set_required(key, file, list.clone())?;
            }
        }
        let runtime = positive("cpu.realtimeRuntime", cpu.realtime_runtime())?;
        for (key, limit) in [
            ("cpu.realtimeRuntime", runtime),
            ("cpu.realtimePeriod", set(cpu.realtime_period())),
        ] {
            if limit.is_some() {
                return Err(refuse(
                    field(key),
                    "cgroup version 2 has no real-time limits",
                ));
            }
        }
        Ok(())
    }

    fn huge_pages(&mut self, page: &Node<'_>) -> Result<()> {
        let size = page.need("pageSize")?;
        let text = size.text()?;
        let digits = text.trim_end_matches(|unit: char| unit.is_ascii_uppercase());
        let known = ["KB", "MB", "GB"].contains(&&text[digits.len()..]);
        if !known || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(size.error(
                "is not a page size: expected a number with KB, MB or GB, such as \"2MB\"",
            ));
        }
        let limit = page.need("limit")?.word()?.to_string();
        let file = format!("hugetlb.{text}.max");
        self.set_if_supported("hugepageLimits", &file, limit, "none")
    }

    /// Reads an entry of `unified`: the name of a cgroup file, and the value to write.
    fn unified(&mut self, file: &str, line: &str) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
        let (controller, rest) = file.split_once('.').unwrap_or_default();
        let key = format!("unified.{file}");
        // imrun controls the container by the files of `cgroup`.
        if matches!(controller, "" | "cgroup") || rest.is_empty() || !file.bytes().all(plain) {
            return Err(refuse(field(&key), "is not a file of a cgroup controller"));
        }
        self.set_required(&key, file, line.to_owned())
    }
}

/// Returns a limit; `None` for 0 and -1, which engines write for no limit.
fn positive(key: &str, limit: Option<i64>) -> Result<Option<u64>> {
    match limit {
        Some(limit @ 1..) => Ok(Some(limit as u64)),
        None | Some(-1 | 0) => Ok(None),
        Some(_) => Err(malformed(&field(key), "is negative")),
    }
}

/// Returns a limit; `None` for 0.
fn set(limit: Option<u64>) -> Option<u64> {
    limit.filter(|limit| *limit != 0)
}

fn quota(cpu: &LinuxCpu, period: u64) -> Result<Option<Cpus>> {
    let Some(quota) = positive("cpu.quota", cpu.quota())? else {
        return Ok(None);
    };
    let cpus = Cpus::of_quota(quota, period);
    let why = "out of the kernel's range";
    Ok(Some(cpus.ok_or_else(|| wrong(field("cpu.quota"), why))?))
}
