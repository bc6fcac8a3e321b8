//! Resource usage of a container, in containerd's format for cgroup version 2.
//!
//! Values whose files do not exist, because the host lacks the controller, are left out.
//!
//! Source: containerd/cgroups, cgroup2/manager.go; Linux, Documentation/admin-guide/cgroup-v2.rst.

use super::events::any;
use crate::base::error::{Context, Result};
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use std::io::ErrorKind;
use std::path::Path;

/// Name of the metrics in containerd's registry of types.
const NAME: &str = "io.containerd.cgroups.v2.Metrics";

/// Reads the metrics of the cgroup at `directory`.
pub fn read(directory: &Path) -> Result<Any> {
    // Every cgroup has this file.
    let procs = directory.join("cgroup.procs");
    let processes = std::fs::read_to_string(&procs).context(|| format!("read({procs:?})"))?;
    let file = |name: &str| match std::fs::read_to_string(directory.join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(Some).context(|| format!("read({name:?})")),
    };
    let number = |name: &str| Ok(file(name)?.and_then(|text| limit(&text)));
    let metrics = Metrics {
        pids: MessageField::some(PidsStat {
            current: number("pids.current")?.unwrap_or(processes.lines().count() as u64),
            limit: number("pids.max")?.unwrap_or(0),
            ..PidsStat::default()
        }),
        cpu: file("cpu.stat")?.map(|text| cpu(&text)).into(),
        memory: file("memory.stat")?
            .map(|text| -> Result<MemoryStat> {
                Ok(MemoryStat {
                    usage: number("memory.current")?.unwrap_or(0),
                    usage_limit: number("memory.max")?.unwrap_or(0),
                    swap_usage: number("memory.swap.current")?.unwrap_or(0),
                    swap_limit: number("memory.swap.max")?.unwrap_or(0),
                    ..memory(&text)
                })
            })
            .transpose()?
            .into(),
        memory_events: file("memory.events")?
            .map(|text| memory_events(&text))
            .into(),
        io: file("io.stat")?.map(|text| io(&text)).into(),
        ..Metrics::default()
    };
    Ok(any(NAME, &metrics))
}

/// Parses a limit: a number or `max`.
fn limit(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Returns the value of a key in lines of `key value`; 0 if it is absent.
fn value(text: &str, key: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

fn cpu(text: &str) -> CPUStat {
    let value = |key| value(text, key);
    CPUStat {
        usage_usec: value("usage_usec"),
        user_usec: value("user_usec"),
        system_usec: value("system_usec"),
        nr_periods: value("nr_periods"),
        nr_throttled: value("nr_throttled"),
        throttled_usec: value("throttled_usec"),
        ..CPUStat::default()
    }
}

fn memory(text: &str) -> MemoryStat {
    let value = |key| value(text, key);
    MemoryStat {
        anon: value("anon"),
        file: value("file"),
        kernel_stack: value("kernel_stack"),
        slab: value("slab"),
        sock: value("sock"),
        shmem: value("shmem"),
        file_mapped: value("file_mapped"),
        file_dirty: value("file_dirty"),
        file_writeback: value("file_writeback"),
        anon_thp: value("anon_thp"),
        inactive_anon: value("inactive_anon"),
        active_anon: value("active_anon"),
        inactive_file: value("inactive_file"),
        active_file: value("active_file"),
        unevictable: value("unevictable"),
        slab_reclaimable: value("slab_reclaimable"),
        slab_unreclaimable: value("slab_unreclaimable"),
        pgfault: value("pgfault"),
        pgmajfault: value("pgmajfault"),
        ..MemoryStat::default()
    }
}

fn memory_events(text: &str) -> MemoryEvents {
    let value = |key| value(text, key);
    MemoryEvents {
        low: value("low"),
        high: value("high"),
        max: value("max"),
        oom: value("oom"),
        oom_kill: value("oom_kill"),
        ..MemoryEvents::default()
    }
}

/// Parses io.stat: lines of `MAJOR:MINOR key=value…`.
fn io(text: &str) -> IOStat {
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let value = |key: &str| {
            let mut pairs = rest.split(' ').filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(name, _)| *name == key)?;
            found.1.parse().ok()
        };
        Some(IOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: value("rbytes").unwrap_or(0),
            wbytes: value("wbytes").unwrap_or(0),
            rios: value("rios").unwrap_or(0),
            wios: value("wios").unwrap_or(0),
            ..IOEntry::default()
        })
    };
    IOStat {
        usage: text.lines().filter_map(entry).collect(),
        ..IOStat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::Message;

    fn metrics(files: &[(&str, &str)]) -> Metrics {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let any = read(dir.path()).unwrap();
        assert_eq!(any.type_url, NAME);
        Metrics::parse_from_bytes(&any.value).unwrap()
    }

    #[test]
    fn the_files_of_a_cgroup_become_metrics() {
        let read = metrics(&[
            ("cgroup.procs", "7\n8\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 12\nuser_usec 5\nsystem_usec 7\n"),
            ("memory.stat", "anon 4096\nfile 8192\n"),
            ("memory.current", "20480\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\noom 2\noom_kill 1\n"),
            (
                "io.stat",
                "254:0 rbytes=10 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n8:0 \n",
            ),
        ]);
        assert_eq!((read.pids.current, read.pids.limit), (3, u64::MAX));
        assert_eq!((read.cpu.usage_usec, read.cpu.system_usec), (12, 7));
        assert_eq!((read.memory.usage, read.memory.anon), (20480, 4096));
        assert_eq!(read.memory.usage_limit, u64::MAX);
        assert_eq!(read.memory_events.oom_kill, 1);
        assert_eq!((read.io.usage[0].major, read.io.usage[0].rbytes), (254, 10));
        assert_eq!(read.io.usage[1].rbytes, 0);
    }

    #[test]
    fn without_controllers_metrics_have_the_processes_only() {
        let read = metrics(&[("cgroup.procs", "7\n8\n")]);
        assert_eq!(read.pids.current, 2);
        assert!(read.memory.is_none() && read.cpu.is_none() && read.io.is_none());
        assert!(super::read(Path::new("/nowhere")).is_err());
    }
}
