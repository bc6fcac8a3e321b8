//! Limits of a container's memory, CPU time and number of processes.
//!
//! Source: Linux, Documentation/admin-guide/cgroup-v2.rst (`memory.max`, `cpu.max`, `pids.max`).

use crate::base::error::{Context, Error, Result};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::str::FromStr;

/// Period of `cpu.max`, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;
/// Minimum quota that the kernel accepts, in microseconds (kernel/sched/core.c, min_cfs_quota_period).
const MIN_QUOTA: u64 = 1_000;

/// Resource limits; unlimited by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, page cache included; swap is limited to 0.
    pub memory: Option<u64>,
    /// CPU time.
    pub cpus: Option<Cpus>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
    /// Further settings of the cgroup.
    pub settings: Vec<Setting>,
    /// True if the limits come from a config.json: errors then name its fields.
    pub from_bundle: bool,
}

/// A line for a cgroup file, such as `0-3` for `cpuset.cpus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Option or field that sets it, for errors.
    pub option: String,
    /// File name: `CONTROLLER.NAME`.
    pub file: String,
    /// Line to write.
    pub value: String,
}

impl Setting {
    /// Returns the controller: the part of the file name before the first dot.
    pub fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// CPU time, in microseconds per [`PERIOD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(u64);

impl Cpus {
    /// Converts a quota, in microseconds per `period` microseconds; `None` if the kernel would not accept
    /// it.
    pub fn of_quota(quota: u64, period: u64) -> Option<Cpus> {
        let quota = quota.checked_mul(PERIOD)?.checked_div(period)?;
        (quota >= MIN_QUOTA).then_some(Cpus(quota))
    }
}

impl FromStr for Cpus {
    type Err = Error;

    /// Parses a decimal number of CPUs, such as `2` or `0.5`: at least 0.01, in steps of 0.00001.
    fn from_str(text: &str) -> Result<Self> {
        const DIGITS: usize = 5; // PERIOD = 10^5
        let wrong = || {
            Error::usage(
                format_args!("--cpus {text}"),
                "must be a number of CPUs, at least 0.01, such as 2 or 0.5",
            )
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > DIGITS {
            return Err(wrong());
        }
        let quota: u64 = format!("{whole}{fraction:0<DIGITS$}")
            .parse()
            .map_err(|_| wrong())?;
        match quota {
            MIN_QUOTA.. => Ok(Cpus(quota)),
            _ => Err(wrong()),
        }
    }
}

/// Minimum memory limit, in bytes; also Docker's. Until execve the child shares imrun's address space,
/// and when memory runs out, the kernel kills all processes that share one.
const MIN_MEMORY: u64 = 6 << 20;

impl Limits {
    /// Returns the entry of the launch record: `memory` in bytes, `cpus`, `pids`, cgroup files with their
    /// lines; only limits that were requested.
    pub fn record(&self) -> Value {
        let mut record = json!({});
        if let Some(bytes) = self.memory {
            record["memory"] = json!(bytes);
        }
        if let Some(Cpus(quota)) = self.cpus {
            record["cpus"] = json!(quota as f64 / PERIOD as f64);
        }
        if let Some(number) = self.pids {
            record["pids"] = json!(number);
        }
        for Setting { file, value, .. } in &self.settings {
            record[file] = json!(value);
        }
        record
    }

    fn requested(&self) -> Vec<Setting> {
        let setting = |option: &str, field: &str, file: &str, value| Setting {
            option: if self.from_bundle {
                format!("config.json `linux.resources.{field}`")
            } else {
                option.into()
            },
            file: file.into(),
            value,
        };
        let memory = |bytes: u64| {
            let value = bytes.to_string();
            setting("--memory", "memory.limit", "memory.max", value)
        };
        let cpus = |Cpus(quota)| {
            let value = format!("{quota} {PERIOD}");
            setting("--cpus", "cpu.quota", "cpu.max", value)
        };
        let pids = |number: u64| {
            let value = number.to_string();
            setting("--pids", "pids.limit", "pids.max", value)
        };
        let memory = self.memory.map(memory);
        let cpus = self.cpus.map(cpus);
        let pids = self.pids.map(pids);
        let options = [memory, cpus, pids].into_iter().flatten();
        options.chain(self.settings.iter().cloned()).collect()
    }

    /// Returns the option of the first limit.
    pub(super) fn first(&self) -> Option<String> {
        self.requested()
            .into_iter()
            .next()
            .map(|setting| setting.option)
    }

    /// Refuses a limit with which nothing can start, and one whose controller the hierarchy at `root`
    /// lacks.
    pub(super) fn check(&self, root: &Path) -> Result<()> {
        let requested = self.requested();
        if requested.is_empty() {
            return Ok(());
        }
        if let Some(bytes) = self.memory.filter(|bytes| *bytes < MIN_MEMORY) {
            let what = format_args!("{} {bytes}", requested[0].option);
            let why = "is less than 6M, the minimum for a start";
            return Err(Error::usage(what, why));
        }
        let available = controllers(root)?;
        let is_missing =
            |setting: &&Setting| !available.iter().any(|name| name == setting.controller());
        match requested.iter().find(is_missing) {
            None => Ok(()),
            Some(setting) => Err(Error::unsupported(
                &setting.option,
                format_args!(
                    "the cgroup2 hierarchy {} has no {} controller",
                    root.display(),
                    setting.controller()
                ),
            )
            .hint("version 1 has it if that is mounted too: boot with systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=all")),
        }
    }

    /// Enables the required controllers for the children of `directory`.
    pub(super) fn enable(&self, directory: &Path) -> Result<()> {
        let file = directory.join("cgroup.subtree_control");
        let requested = self.requested();
        if requested.is_empty() {
            return Ok(());
        }
        let enabled = std::fs::read_to_string(&file).context(|| format!("read({file:?})"))?;
        let is_new = |setting: &Setting| {
            !enabled
                .split_whitespace()
                .any(|one| one == setting.controller())
        };
        for setting in requested.into_iter().filter(is_new) {
            write(&file, &format!("+{}", setting.controller())).map_err(|error| {
                error.hint("move the processes out of the cgroups between the root and the container's: they prevent the controllers from being enabled")
            })?;
        }
        Ok(())
    }

    /// Sets the limits of the cgroup `directory`, while it is still empty.
    pub(super) fn apply(&self, directory: &Path) -> Result<()> {
        for setting in self.requested() {
            write(&directory.join(setting.file), &setting.value)?;
        }
        let swap = directory.join("memory.swap.max");
        // A kernel without swap support has no such file, and nothing to limit.
        if self.memory.is_some() && swap.exists() {
            write(&swap, "0")?;
        }
        Ok(())
    }
}

/// Returns the controllers that are available in the cgroup `directory`.
pub fn controllers(directory: &Path) -> Result<Vec<String>> {
    let file = directory.join("cgroup.controllers");
    let text = std::fs::read_to_string(&file).context(|| format!("read({file:?})"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Returns the number of processes of the cgroup `directory` that the kernel killed because memory ran
/// out; 0 if the memory controller is not enabled.
pub(super) fn oom_kills(directory: &Path) -> Result<u64> {
    let file = directory.join("memory.events");
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        text => text.context(|| format!("read({file:?})"))?,
    };
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| Error::system(format_args!("{file:?}"), "has no count oom_kill"))
}

/// Writes a file that must exist: files cannot be created in a cgroup.
fn write(file: &Path, value: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .context(|| format!("write({file:?}, {value:?})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Reason;
    use std::fs;

    /// Makes a directory with the files of a cgroup that has these controllers.
    fn cgroup(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        for file in [
            "cgroup.subtree_control",
            "memory.max",
            "memory.swap.max",
            "cpu.max",
            "pids.max",
        ] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        dir
    }

    fn read(dir: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(dir.path().join(file)).unwrap()
    }

    fn all() -> Limits {
        Limits {
            memory: Some(64 << 20),
            cpus: Some("1.5".parse().unwrap()),
            pids: Some(100),
            settings: Vec::new(),
            from_bundle: false,
        }
    }

    #[test]
    fn cpus_are_parsed_as_decimal_numbers() {
        for (text, quota) in [
            ("1", 100_000),
            ("0.5", 50_000),
            ("0.01", 1_000),
            ("2.00001", 200_001),
            ("16.0", 1_600_000),
        ] {
            assert_eq!(text.parse::<Cpus>().unwrap(), Cpus(quota), "{text}");
        }
        for wrong in [
            "",
            ".",
            "0",
            "0.0",
            "0.009",
            "-1",
            "+1",
            "1.",
            ".5",
            "1e3",
            "1.000001",
            "1,5",
            "99999999999999999999",
        ] {
            assert!(wrong.parse::<Cpus>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn limits_are_written_and_swap_is_disabled() {
        let dir = cgroup("cpuset cpu io memory pids");
        all().check(dir.path()).unwrap();
        all().apply(dir.path()).unwrap();
        assert_eq!(read(&dir, "memory.max"), "67108864");
        assert_eq!(read(&dir, "memory.swap.max"), "0");
        assert_eq!(read(&dir, "cpu.max"), "150000 100000");
        assert_eq!(read(&dir, "pids.max"), "100");
    }

    #[test]
    fn only_requested_limits_are_written() {
        let dir = cgroup("memory pids");
        let limits = Limits {
            pids: Some(7),
            ..Limits::default()
        };
        limits.check(dir.path()).unwrap();
        limits.enable(dir.path()).unwrap();
        limits.apply(dir.path()).unwrap();
        assert_eq!(read(&dir, "cgroup.subtree_control"), "+pids");
        assert_eq!(read(&dir, "pids.max"), "7");
        assert_eq!(
            read(&dir, "memory.max") + &read(&dir, "memory.swap.max"),
            ""
        );
    }

    #[test]
    fn a_kernel_without_swap_needs_no_swap_limit() {
        let dir = cgroup("cpu memory pids");
        fs::remove_file(dir.path().join("memory.swap.max")).unwrap();
        all().apply(dir.path()).unwrap();
        assert!(!dir.path().join("memory.swap.max").exists());
    }

    #[test]
    fn a_missing_controller_is_refused_by_the_name_of_the_option() {
        let dir = cgroup("hugetlb pids\n");
        let error = all().check(dir.path()).unwrap_err();
        assert_eq!((error.reason, error.exit), (Reason::Unsupported, 125));
        assert_eq!(error.what, "--memory");
        assert!(error.why.contains("no memory controller"), "{error}");
        assert!(error.hint.is_some());
        let cpus = Limits {
            memory: None,
            ..all()
        };
        assert_eq!(cpus.check(dir.path()).unwrap_err().what, "--cpus");
        let bundle = Limits {
            from_bundle: true,
            ..cpus.clone()
        };
        let error = bundle.check(dir.path()).unwrap_err();
        assert_eq!(error.what, "config.json `linux.resources.cpu.quota`");
        let pids = Limits { cpus: None, ..cpus };
        pids.check(dir.path()).unwrap();
        Limits::default()
            .check(&dir.path().join("nowhere"))
            .unwrap();
    }

    #[test]
    fn less_memory_than_a_start_needs_is_refused() {
        let dir = cgroup("cpu memory pids");
        let limits = |bytes| Limits {
            memory: Some(bytes),
            ..Limits::default()
        };
        limits(MIN_MEMORY).check(dir.path()).unwrap();
        let error = limits(MIN_MEMORY - 1).check(dir.path()).unwrap_err();
        assert_eq!((error.reason, error.exit), (Reason::Usage, 125));
        assert!(error.what.starts_with("--memory"), "{error}");
    }

    #[test]
    fn a_limit_that_cannot_be_written_names_its_file() {
        let dir = cgroup("cpu memory pids");
        fs::remove_file(dir.path().join("pids.max")).unwrap();
        let error = all().apply(dir.path()).unwrap_err();
        assert!(error.what.contains("pids.max"), "{error}");
        assert!(!dir.path().join("pids.max").exists(), "nothing is created");
    }

    #[test]
    fn oom_kills_are_counted_if_the_memory_controller_is_enabled() {
        let dir = cgroup("");
        assert_eq!(oom_kills(dir.path()).unwrap(), 0);
        let events = dir.path().join("memory.events");
        fs::write(
            &events,
            "low 0\nhigh 0\nmax 31\noom 4\noom_kill 3\noom_group_kill 0\n",
        )
        .unwrap();
        assert_eq!(oom_kills(dir.path()).unwrap(), 3);
        fs::write(&events, "low 0\n").unwrap();
        assert!(oom_kills(dir.path()).is_err());
    }

    #[test]
    fn a_setting_is_written_to_its_file_and_needs_its_controller() {
        let dir = cgroup("cpuset pids");
        fs::write(dir.path().join("cpuset.cpus"), "").unwrap();
        let limits = |file: &str| Limits {
            settings: vec![Setting {
                option: "cpus".into(),
                file: file.into(),
                value: "0-1".into(),
            }],
            ..Limits::default()
        };
        let cpus = limits("cpuset.cpus");
        cpus.check(dir.path()).unwrap();
        cpus.enable(dir.path()).unwrap();
        cpus.apply(dir.path()).unwrap();
        assert_eq!(read(&dir, "cpuset.cpus"), "0-1");
        assert_eq!(read(&dir, "cgroup.subtree_control"), "+cpuset");
        assert_eq!(cpus.record(), json!({ "cpuset.cpus": "0-1" }));
        let error = limits("io.weight").check(dir.path()).unwrap_err();
        assert_eq!(error.what, "cpus");
        assert!(error.why.contains("no io controller"), "{error}");
    }

    #[test]
    fn the_record_has_the_requested_limits() {
        assert_eq!(
            all().record(),
            json!({ "memory": 67_108_864, "cpus": 1.5, "pids": 100 })
        );
        assert_eq!(Limits::default().record(), json!({}));
    }
}
