//! What a runtime bundle says of its container, where an image's own config would: checked, and
//! without what a read-only container cannot have.

use crate::env::Environment;
use crate::id_map::IdRange;
use crate::launch::{Filter, Rlimit, Scheduler, Setting};
use serde_json::Value;
use std::ffi::CString;
use std::path::PathBuf;

/// The program of a bundle, and as whom it runs.
pub struct Process {
    /// The program and its arguments.
    pub args: Vec<CString>,
    /// All of its environment.
    pub env: Environment,
    /// In the container.
    pub uid: u32,
    /// In the container.
    pub gid: u32,
    /// The supplementary groups, in the container.
    pub groups: Vec<u32>,
    /// An absolute path.
    pub cwd: String,
    /// The bits that new files would not have.
    pub umask: Option<u32>,
    /// Its resource limits.
    pub rlimits: Vec<Rlimit>,
    /// See [`crate::launch::Spec::scheduler`].
    pub scheduler: Option<Scheduler>,
    /// See [`crate::launch::Spec::io_priority`].
    pub io_priority: Option<(i32, i32)>,
    /// See [`crate::launch::Spec::oom_score_adj`].
    pub oom_score_adj: Option<i32>,
}

/// A mount that is asked for and left out: a file system in memory.
pub const IN_MEMORY: &str = "a file system in memory";
/// A mount that is asked for and left out: a directory of the host that the app could write to.
pub const WRITABLE: &str = "a writable directory of the host";

/// The process of a bundle, and what surrounds it.
pub struct Bundle {
    /// What runs.
    pub process: Process,
    /// What the descriptors of the caller's are that it gets, from 3 on.
    pub descriptors: Vec<&'static str>,
    /// The host's name in the container.
    pub hostname: Option<String>,
    /// The NIS domain's name in the container.
    pub domainname: Option<CString>,
    /// See [`crate::launch::Spec::sysctls`].
    pub sysctls: Vec<Setting>,
    /// See [`crate::launch::Spec::personality`].
    pub personality: u64,
    /// See [`crate::launch::Spec::masked`].
    pub masked: Vec<CString>,
    /// See [`crate::launch::Spec::filter`].
    pub filter: Option<Filter>,
    /// The users and groups that it is mapped to; imrun's own choice without.
    pub ids: Option<(Vec<IdRange>, Vec<IdRange>)>,
    /// The cgroup, beneath the root of the hierarchy; imrun's own choice without.
    pub cgroup: Option<PathBuf>,
    /// What it asks for and does not get: objects, each with `asked` and `became`.
    pub changes: Vec<Value>,
}
