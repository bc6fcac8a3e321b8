//! The memory of a supervisor that waits: what starting a container took, it gives back.

use std::io::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd};

/// The read-only parts of this program in memory.
pub struct Program {
    ranges: Vec<(usize, usize)>,
    /// As long as it is open, the kernel maps no pages around those that are used.
    _exactly: Option<OwnedFd>,
}

impl Program {
    /// Finds them. From here on a page that is used comes alone, where the kernel can do that: the 15
    /// around it would be charged to this process, too.
    pub fn find() -> Result<Program> {
        let ranges = program(&std::fs::read_to_string("/proc/self/maps")?);
        Ok(Program {
            _exactly: map_exactly(&ranges),
            ranges,
        })
    }

    /// Drops their pages: those that are needed again come back from the page cache.
    pub fn release(&self) -> Result<()> {
        for (start, end) in &self.ranges {
            // SAFETY: a read-only private mapping of a file without relocations holds just what
            // the file holds: a page that is dropped comes back the same.
            let result = unsafe {
                libc::madvise(
                    *start as *mut libc::c_void,
                    end - start,
                    libc::MADV_DONTNEED,
                )
            };
            if result != 0 {
                return Err(Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Keeps the kernel from mapping pages around one that is used, which it does to save faults.
///
/// It does not where a userfaultfd(2) watches for writes without telling anybody of them (Linux 6.7,
/// `UFFD_FEATURE_WP_ASYNC`): nobody writes to a program. None where it cannot be had; then the
/// program takes some more memory.
///
/// Source: `should_fault_around` in mm/memory.c; linux/userfaultfd.h.
fn map_exactly(ranges: &[(usize, usize)]) -> Option<OwnedFd> {
    const USER_MODE_ONLY: libc::c_int = 1;
    const API: u64 = 0xAA;
    const WP_ASYNC: u64 = 1 << 15;
    const REGISTER_WP: u64 = 1 << 1;
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f; // _IOWR(0xAA, 0x3F, 24 bytes)
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00; // _IOWR(0xAA, 0x00, 32 bytes)
    // SAFETY: the call takes flags alone.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: it was just opened, and belongs to nobody else.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    // struct uffdio_api: api, features, ioctls.
    let mut api = [API, WP_ASYNC, 0];
    // SAFETY: the structure is as large as the number of the ioctl says.
    let mut result = unsafe { libc::ioctl(fd, UFFDIO_API, api.as_mut_ptr()) };
    for (start, end) in ranges {
        // struct uffdio_register: start, len, mode, ioctls.
        let mut range = [*start as u64, (end - start) as u64, REGISTER_WP, 0];
        // SAFETY: the structure is as large as the number of the ioctl says. The ranges stay
        // readable and executable: only writes are watched, of which there are none.
        result |= unsafe { libc::ioctl(fd, UFFDIO_REGISTER, range.as_mut_ptr()) };
    }
    (result == 0).then_some(owned)
}

/// Keeps all threads to one heap: each of their own would hold free memory of its own. Must run
/// before the first of them.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the free pages of the heap back.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The address ranges of the program's code, and of the constants in front of it; not of what the
/// loader relocated and then made read-only, which lies behind (proc_pid_maps(5)).
fn program(maps: &str) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else {
            continue;
        };
        let parsed = range.split_once('-').map(|(start, end)| {
            (
                usize::from_str_radix(start, 16),
                usize::from_str_radix(end, 16),
            )
        });
        let Some((Ok(start), Ok(end))) = parsed else {
            continue;
        };
        let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
        match (mode, is_file) {
            ("r--p", true) => ranges.push((start, end)),
            ("r-xp", true) => {
                ranges.push((start, end));
                return ranges;
            }
            _ => {}
        }
    }
    // Without code behind them they may be anything.
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_constants_and_code_are_given_back_and_never_relocated_data() {
        let maps = "\
1000-2000 rw-p 00000000 00:00 0                          [heap]
7000-8000 r--p 00000000 fe:00 1                          /bin/imrun
8000-b000 r-xp 00001000 fe:00 1                          /bin/imrun
b000-c000 r--p 00004000 fe:00 1                          /bin/imrun
c000-d000 rw-p 00005000 fe:00 1                          /bin/imrun
";
        assert_eq!(program(maps), [(0x7000, 0x8000), (0x8000, 0xb000)]);
        assert_eq!(program("garbage\n"), []);
        Program::find().unwrap().release().unwrap();
    }
}
