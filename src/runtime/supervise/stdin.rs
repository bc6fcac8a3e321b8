//! The app's standard input.

use crate::base::error::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow};
use std::os::fd::OwnedFd;

/// A pipe that imrun's own standard input is copied into: the app never holds a descriptor of the
/// host's, which it could open again with other rights.
pub fn pipe() -> Result<OwnedFd> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")?;
    let copy = move || {
        // The app may close its end, and the caller its own: both just end the copy.
        let _ = std::io::copy(
            &mut std::io::stdin().lock(),
            &mut std::fs::File::from(write),
        );
    };
    // Signals are the supervisor's: one that this thread took would not be seen there.
    let mask = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .context(|| "rt_sigprocmask(SIG_SETMASK)")?;
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(copy)
        .context(|| "clone(thread)")?;
    mask.thread_set_mask()
        .context(|| "rt_sigprocmask(SIG_SETMASK)")?;
    Ok(read)
}
