//! imrun's argument vector, which other users see in /proc/PID/cmdline.

use std::io::{Error, ErrorKind, Result};

/// Overwrites arguments: `secret_from` returns for a position the offset of the first secret byte.
///
/// Position 0 is the program's name. Must run before other threads start.
pub fn erase(secret_from: impl Fn(usize) -> Option<usize>) -> Result<()> {
    let (start, end) = range()?;
    // SAFETY: the kernel put the arguments there, readable and writable, at execve(2); they are
    // never unmapped, and by the time of this call the standard library has copied what it wants.
    let arguments = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
    for (position, argument) in arguments.split_mut(|byte| *byte == 0).enumerate() {
        if let Some(secret) = secret_from(position).and_then(|from| argument.get_mut(from..)) {
            secret.fill(b'*');
        }
    }
    Ok(())
}

/// Returns `arg_start` and `arg_end`: fields 48 and 49 of /proc/self/stat (proc_pid_stat(5)).
fn range() -> Result<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let malformed = || Error::new(ErrorKind::InvalidData, "/proc/self/stat: no argument range");
    // The name in parentheses may hold spaces: count from behind it, where field 3 comes first.
    let (_, fields) = stat.rsplit_once(") ").ok_or_else(malformed)?;
    let mut fields = fields.split(' ').skip(48 - 3).map(str::parse::<usize>);
    match (fields.next(), fields.next()) {
        (Some(Ok(start)), Some(Ok(end))) if start != 0 && start < end => Ok((start, end)),
        _ => Err(malformed()),
    }
}
