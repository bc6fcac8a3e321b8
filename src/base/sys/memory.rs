//! Release of a waiting supervisor's memory after the start of a container.

use std::io::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd};

/// Read-only parts of this program in memory.
pub struct Program {
    ranges: Vec<(usize, usize)>,
    /// Userfaultfd that keeps the kernel from mapping pages around used ones, while it is open.
    _exactly: Option<OwnedFd>,
}

impl Program {
    /// Finds the read-only parts. From then on the kernel, if it can, maps single pages of them: it would otherwise
    /// also map, and charge to this process, the 15 pages around a used one.
    pub fn find() -> Result<Program> {
        let ranges = program(&std::fs::read_to_string("/proc/self/maps")?);
        Ok(Program {
            _exactly: map_exactly(&ranges),
            ranges,
        })
    }

    /// Drops all pages of the program. Pages in use come back from the page cache.
    pub fn release(&self) -> Result<()> {
        for (start, end) in &self.ranges {
            // SAFETY: a read-only private mapping without relocations has the content of the file, so a
            // dropped page comes back unchanged.
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

/// Keeps the kernel from mapping pages around a used one, which it does to save page faults.
///
/// The kernel maps single pages where a userfaultfd(2) tracks writes asynchronously (Linux 6.7,
/// `UFFD_FEATURE_WP_ASYNC`). `None` if this is not available; then the program uses more memory.
///
/// Source: `should_fault_around` in mm/memory.c; linux/userfaultfd.h.
fn map_exactly(ranges: &[(usize, usize)]) -> Option<OwnedFd> {
    const USER_MODE_ONLY: libc::c_int = 1;
    const API: u64 = 0xAA;
    const WP_ASYNC: u64 = 1 << 15;
    const REGISTER_WP: u64 = 1 << 1;
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f; // _IOWR(0xAA, 0x3F, 24 bytes)
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00; // _IOWR(0xAA, 0x00, 32 bytes)
    // SAFETY: the call takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    // struct uffdio_api: api, features, ioctls.
    let mut api = [API, WP_ASYNC, 0];
    // SAFETY: the structure has the size in the number of the ioctl.
    let mut result = unsafe { libc::ioctl(fd, UFFDIO_API, api.as_mut_ptr()) };
    for (start, end) in ranges {
        // struct uffdio_register: start, len, mode, ioctls.
        let mut range = [*start as u64, (end - start) as u64, REGISTER_WP, 0];
        // SAFETY: the structure has the size in the number of the ioctl. The ranges stay
        // readable and executable: only writes are tracked, and there are none.
        result |= unsafe { libc::ioctl(fd, UFFDIO_REGISTER, range.as_mut_ptr()) };
    }
    (result == 0).then_some(owned)
}

/// Makes all threads use one heap: separate heaps would each keep free memory. Must run before the first thread
/// starts.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns free pages of the heap to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) releases only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the address ranges of the program's code and of the constants before it. Relocated data, which is
/// read-only too, lies behind the code and is excluded (proc_pid_maps(5)).
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
    // Without code behind them these ranges may be anything.
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_constants_and_code_are_released_and_never_relocated_data() {
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
