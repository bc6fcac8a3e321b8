//! Copies in sealed memory: the kernel lets nobody write to them, not even root.

use crate::error::{Context, Error, Result};
use crate::parallel::in_parallel;
use crate::store::image::Sources;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Read, Seek};

const MEMINFO: &str = "/proc/meminfo";

/// Copies of the files, not hashed yet: what is hashed afterwards cannot change any more.
pub(super) fn copy(sources: &Sources) -> Result<Sources> {
    refuse_too_large(sources)?;
    Ok(Sources {
        tars: in_parallel(&sources.tars, seal)?,
        tree: seal(&sources.tree)?,
    })
}

fn seal(file: &File) -> Result<File> {
    // Never executed itself; hosts may allow no other memfd (vm.memfd_noexec). It allows seals.
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let memory = memfd_create(c"imrun", flags).context(|| "memfd_create(MFD_NOEXEC_SEAL)")?;
    let mut memory = File::from(memory);
    io::copy(&mut file.take(size(file)?), &mut memory).context(|| "sendfile(memfd)")?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).context(|| "fcntl(memfd, F_ADD_SEALS)")?;
    memory.rewind().context(|| "lseek(memfd)")?;
    Ok(memory)
}

/// Without it the kernel would look for a process to kill.
fn refuse_too_large(sources: &Sources) -> Result<()> {
    let mut needed = size(&sources.tree)?;
    for tar in &sources.tars {
        needed = needed.saturating_add(size(tar)?);
    }
    let text = std::fs::read_to_string(MEMINFO).context(|| format!("read({MEMINFO:?})"))?;
    let available = available(&text).ok_or_else(|| Error::system(MEMINFO, "no MemAvailable"))?;
    if needed < available {
        return Ok(());
    }
    Err(Error::unsupported(
        "--integrity sealed",
        format_args!("the image takes {needed} bytes of memory, and {available} are available"),
    ))
}

fn size(file: &File) -> Result<u64> {
    Ok(file.metadata().context(|| "fstat(layer)")?.len())
}

/// Bytes, of a table in the form of /proc/meminfo (proc_meminfo(5)).
fn available(table: &str) -> Option<u64> {
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sealed_copy_has_the_bytes_and_takes_no_others() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"bytes").unwrap();
        file.rewind().unwrap();
        let mut sealed = seal(&file).unwrap();
        let mut copy = Vec::new();
        sealed.read_to_end(&mut copy).unwrap();
        assert_eq!(copy, b"bytes");
        assert!(sealed.write_all_at(b"x", 0).is_err());
        assert!(sealed.write_all_at(b"x", 5).is_err());
        assert!(sealed.set_len(0).is_err());
        let unseal = fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::empty()));
        assert!(unseal.is_err(), "the seals themselves are sealed");
    }

    #[test]
    fn available_memory_is_read_from_the_kernels_table() {
        let table = "MemTotal:  8 kB\nMemAvailable:    1234 kB\n";
        assert_eq!(available(table), Some(1234 * 1024));
        assert_eq!(available("MemTotal: 8 kB\n"), None);
    }
}
