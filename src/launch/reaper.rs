//! `--init`: a process 1 in front of the app. The program is imrun's own (`sys/reaper/main.rs`), in memory that nobody
//! can change.

use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

/// The program.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reaper"));
/// Its name.
const NAME: &str = "imrun-init";
/// Lower numbers are the app's.
const FIRST_NUMBER: i32 = 16;

/// The record's words for it.
pub fn record() -> Value {
    json!({ "name": NAME, "digest": Digest::sha256(PROGRAM) })
}

/// Its arguments: the paths at which the app's program may be, and the app's own arguments.
pub fn arguments(candidates: &[CString], args: &[CString]) -> Result<Vec<CString>> {
    let own = [NAME.to_string(), candidates.len().to_string()];
    let own = own.map(|text| CString::new(text).map_err(|_| Error::usage(NAME, "has a NUL byte")));
    let rest = candidates.iter().chain(args).cloned().map(Ok);
    own.into_iter().chain(rest).collect()
}

/// The program, open to be executed.
pub(super) fn open() -> Result<OwnedFd> {
    let call = || "memfd_create(\"imrun-init\", MFD_EXEC)";
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let executable = flags | MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let memory = match memfd_create(NAME, executable) {
        // Before Linux 6.3 all memory is executable.
        Err(Errno::EINVAL) => memfd_create(NAME, flags),
        Err(Errno::EACCES) => {
            let why = "this host lets no memory be executed";
            return Err(Error::unsupported("--init", why)
                .hint("the sysctl vm.memfd_noexec is 2: imrun-init is a file in memory"));
        }
        other => other,
    };
    let memory = File::from(memory.context(call)?);
    memory.write_all_at(PROGRAM, 0).context(|| "write(memfd)")?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).context(|| "fcntl(memfd, F_ADD_SEALS)")?;
    crate::sys::process::duplicate_from(&memory, FIRST_NUMBER)
        .context(|| "fcntl(memfd, F_DUPFD_CLOEXEC)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_cannot_be_changed_and_has_the_apps_arguments_behind_its_own() {
        let Ok(program) = open() else {
            return eprintln!("skipped: no memory is executable here");
        };
        let file = File::from(program);
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(PROGRAM.starts_with(b"\x7fELF") && PROGRAM.len() < 64 << 10);
        let strings = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| CString::new(*t).unwrap())
                .collect::<Vec<_>>()
        };
        let all = arguments(&strings(&["/a/x", "/b/x"]), &strings(&["x", "1"])).unwrap();
        assert_eq!(all, strings(&["imrun-init", "2", "/a/x", "/b/x", "x", "1"]));
    }
}
