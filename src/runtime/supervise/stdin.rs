//! Standard input of the app.

use crate::base::error::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow};
use std::os::fd::OwnedFd;

/// Makes a pipe and copies imrun's standard input into it. The app never holds a descriptor of the
/// host's, which it could reopen with other rights.
pub fn pipe() -> Result<OwnedFd> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe2(O_CLOEXEC)")?;
    let copy = move || {
        // Either end may be closed; that just ends the copy.
        let _ = std::io::copy(
            &mut std::io::stdin().lock(),
            &mut std::fs::File::from(write),
        );
    };
    // The supervisor handles signals: it would miss one that this thread received.
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
