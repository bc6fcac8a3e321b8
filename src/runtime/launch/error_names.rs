//! Names that errors use for the parts of a launch: fields of config.json, or options.

use super::Spec;
use super::child::{Failure, Step};
use super::sysctl::{NOT_KEPT, Setting};
use crate::base::error::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Error};
use nix::errno::Errno;
use std::ffi::CStr;

/// Names of a launch's settings, for its errors.
pub(super) struct ErrorNames {
    /// True if the launch comes from a config.json, not from a command line and an image.
    from_bundle: bool,
    program: String,
    sysctls: Vec<String>,
    masked: Vec<String>,
    /// Places of the files for name resolution.
    targets: Vec<&'static CStr>,
}

impl ErrorNames {
    pub fn of(spec: &Spec, targets: &[&'static CStr]) -> ErrorNames {
        ErrorNames {
            from_bundle: spec.from_bundle,
            program: spec.args.strings()[0].to_string_lossy().into_owned(),
            sysctls: spec
                .settings
                .sysctls
                .iter()
                .map(|one| one.name.clone())
                .collect(),
            masked: spec
                .masked
                .iter()
                .map(|path| path.to_string_lossy().into_owned())
                .collect(),
            targets: targets.to_vec(),
        }
    }

    /// Returns the name of a config.json field, or `otherwise` for a launch without one.
    fn field(&self, field: &str, otherwise: &str) -> String {
        if self.from_bundle {
            format!("config.json `{field}`")
        } else {
            otherwise.to_owned()
        }
    }

    /// Returns the name of a masked path, by its index.
    pub fn masked(&self, index: usize) -> String {
        let path = self.masked.get(index).map_or("", String::as_str);
        self.field(
            &format!("linux.maskedPaths {path:?}"),
            &format!("masked path {path:?}"),
        )
    }

    /// Returns the name of a resource limit.
    pub fn limit(&self, resource: &str) -> String {
        self.field(&format!("process.rlimits {resource}"), resource)
    }

    /// Returns the name of any other field of `process`.
    pub fn process(&self, field: &str) -> String {
        self.field(&format!("process.{field}"), field)
    }

    /// Returns the error of a failed step.
    pub fn explain(&self, failure: Failure) -> Error {
        let (call, why) = (failure.step.call(), failure.errno.desc());
        let index = failure.index as usize;
        let sysctl = || Setting::field(self.sysctls.get(index).map_or("", String::as_str));
        match failure.step {
            Step::Execute => self.explain_execute(failure.errno),
            Step::WorkingDirectory => {
                let what = self.field("process.cwd", "working directory");
                let why = format_args!(
                    "{why}: the image has no such directory, or the user may not enter it"
                );
                let error = Error::usage(what, why);
                if self.from_bundle {
                    error.hint("imrun creates no directory in a root")
                } else {
                    error.hint(
                        "set another one with --workdir; imrun creates no directory in a root",
                    )
                }
            }
            Step::AttachDev if self.from_bundle => not_a_directory("/dev", why),
            Step::AttachProc if self.from_bundle => not_a_directory("/proc", why),
            Step::Masks | Step::AttachSysfs | Step::AttachCgroupfs if self.from_bundle => {
                not_a_directory("/sys", why)
            }
            Step::BindTarget | Step::Bind if self.from_bundle => {
                let target = self.targets.get(index).map_or(c"", |target| *target);
                let target = format!("/{}", target.to_string_lossy());
                let why = format_args!("the root has no file there to mount it on: {why}");
                Error::system(format_args!("config.json `mounts, {target:?}`"), why)
            }
            Step::SysctlKept => Error::system(sysctl(), NOT_KEPT),
            Step::Sysctl | Step::SysctlRead => {
                Error::system(sysctl(), format_args!("{call}: {why}"))
            }
            Step::Masked => Error::system(self.masked(index), format_args!("{call}: {why}")),
            Step::Personality => Error::system(self.field("linux.personality", call), why),
            Step::Domainname => Error::system(self.field("domainname", call), why),
            Step::Ids => Error::system(self.field("process.user", call), why),
            _ => Error::system(call, why),
        }
    }

    /// The words are runc's: engines recognise them and map them to exit codes.
    fn explain_execute(&self, errno: Errno) -> Error {
        let program = &self.program;
        let what = format!("{} {program:?}", self.field("process.args", "entrypoint"));
        match (errno, program.contains('/')) {
            (Errno::ENOENT, true) => Error::usage(what, "no such file or directory")
                .hint(if self.from_bundle {
                    "the root lacks the program or its interpreter"
                } else {
                    HINT
                })
                .exit(EXIT_NOT_FOUND),
            (Errno::ENOENT, false) => Error::usage(what, "executable file not found in $PATH")
                .hint(if self.from_bundle {
                    "PATH is taken from process.env"
                } else {
                    HINT
                })
                .exit(EXIT_NOT_FOUND),
            (errno, _) => {
                let why = errno.desc().to_lowercase();
                Error::usage(what, format_args!("cannot be executed: {why}"))
                    .exit(EXIT_NOT_EXECUTABLE)
            }
        }
    }
}

const HINT: &str = "run imrun inspect DIGEST to see entrypoint, command and PATH, or name another program with --entrypoint";

/// Returns the error for a mount point that is not a directory, possible if the root is a directory of
/// the host. The words are runc's.
fn not_a_directory(point: &str, why: &str) -> Error {
    let why = format_args!("{point} must be mounted on ordinary directory: {why}");
    Error::system("config.json `root.path`", why)
}
