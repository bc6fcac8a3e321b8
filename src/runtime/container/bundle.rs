//! Settings of a runtime bundle, which replace the image's config: checked, and without those that a
//! read-only container cannot have.

use crate::runtime::env::Environment;
use crate::runtime::id_map::IdRange;
use crate::runtime::launch::{Filter, Rlimit, Scheduler, Setting};
use serde_json::Value;
use std::ffi::CString;
use std::path::PathBuf;

/// Process of a bundle: program, user, limits.
pub struct Process {
    /// Program and its arguments.
    pub args: Vec<CString>,
    /// Complete environment.
    pub env: Environment,
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Supplementary groups in the container.
    pub groups: Vec<u32>,
    /// Working directory: an absolute path.
    pub cwd: String,
    /// File mode creation mask (umask(2)).
    pub umask: Option<u32>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// See [`crate::runtime::launch::Settings::scheduler`].
    pub scheduler: Option<Scheduler>,
    /// See [`crate::runtime::launch::Settings::io_priority`].
    pub io_priority: Option<(i32, i32)>,
    /// See [`crate::runtime::launch::Settings::oom_score_adj`].
    pub oom_score_adj: Option<i32>,
}

/// Name of a requested mount that is left out: a file system in memory.
pub const IN_MEMORY: &str = "a file system in memory";
/// Name of a requested mount that is left out: a writable directory of the host.
pub const WRITABLE: &str = "a writable directory of the host";

/// Process of a bundle and its surroundings.
pub struct Bundle {
    /// Process to run.
    pub process: Process,
    /// Names of the caller's descriptors that the process gets, from 3 on.
    pub descriptors: Vec<&'static str>,
    /// Host name in the container.
    pub hostname: Option<String>,
    /// NIS domain name in the container.
    pub domainname: Option<CString>,
    /// See [`crate::runtime::launch::Settings::sysctls`].
    pub sysctls: Vec<Setting>,
    /// See [`crate::runtime::launch::Settings::personality`].
    pub personality: u64,
    /// See [`crate::runtime::launch::Spec::masked`].
    pub masked: Vec<CString>,
    /// See [`crate::runtime::launch::Settings::filter`].
    pub filter: Option<Filter>,
    /// User and group id mappings; `None` lets imrun choose.
    pub ids: Option<(Vec<IdRange>, Vec<IdRange>)>,
    /// Cgroup path beneath the hierarchy's root; `None` lets imrun choose.
    pub cgroup: Option<PathBuf>,
    /// Requested settings that the container does not get: objects with `asked` and `became`.
    pub changes: Vec<Value>,
}
