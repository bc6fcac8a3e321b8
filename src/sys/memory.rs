//! The memory of a supervisor that waits: what starting a container took, it gives back.

use std::io::{Error, Result};

/// The read-only parts of this program in memory.
pub struct Program(Vec<(usize, usize)>);

impl Program {
    /// Finds them.
    pub fn find() -> Result<Program> {
        Ok(Program(program(&std::fs::read_to_string(
            "/proc/self/maps",
        )?)))
    }

    /// Drops their pages: those that are needed again come back from the page cache.
    pub fn release(&self) -> Result<()> {
        for (start, end) in &self.0 {
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
