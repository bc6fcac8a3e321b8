//! `--status-fd`: events of a launch, one JSON object per line.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time limit for the reader to make room for one event.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that a pipe takes without waiting once it is writable (pipe(7), `PIPE_BUF`).
const PIECE: usize = libc::PIPE_BUF;

/// Receiver of status events; discards them without a descriptor.
#[derive(Default)]
pub struct Status {
    file: Option<File>,
    /// True once the reader has made no room: no further event waits for it.
    is_lost: AtomicBool,
}

impl Status {
    /// Sends events to the inherited descriptor `number`.
    pub fn to_descriptor(number: i32) -> Result<Status> {
        let file = crate::base::sys::process::inherited(number)
            .map_err(|errno| Error::usage(format_args!("--status-fd {number}"), errno.desc()))?;
        Ok(Status {
            file: Some(file.into()),
            is_lost: AtomicBool::new(false),
        })
    }

    /// Writes one event; `fields` is an object.
    ///
    /// # Errors
    /// The reader is gone, or has made no room for 15 seconds: a launch must not wait for it for ever.
    pub fn event(&self, name: &str, mut fields: Value) -> Result<()> {
        let Some(file) = self.file.as_ref() else {
            return Ok(());
        };
        fields["event"] = json!(name);
        let patience = if self.is_lost.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let written = write(file, format!("{fields}\n").as_bytes(), patience);
        self.is_lost.fetch_or(written.is_err(), Ordering::Relaxed);
        written
    }

    /// Reports that nothing of the image ran, with the reason.
    pub fn refused(&self, error: &Error) -> Result<()> {
        let fields = json!({
            "reason": error.reason.as_str(),
            "error": error.to_string(),
            "hint": error.hint,
            "code": error.exit,
        });
        self.event("refused", fields)
    }
}

/// Writes in pieces that do not block. The descriptor itself stays blocking: it is the caller's as well.
fn write(mut file: &File, bytes: &[u8], patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    for piece in bytes.chunks(PIECE) {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut set, timeout).context(|| "poll(--status-fd)")? == 0 {
            let why = format!("its reader made no room for {} s", PATIENCE.as_secs());
            return Err(Error::system("--status-fd", why));
        }
        file.write_all(piece).context(|| "write(--status-fd)")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_event_longer_than_a_pipe_arrives_whole() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let status = Status {
            file: Some(file),
            ..Status::default()
        };
        let long = "x".repeat(300_000);
        status.event("exit", json!({ "long": long })).unwrap();
        drop(status);
        let event: Value = serde_json::from_str(&reading.join().unwrap().unwrap()).unwrap();
        assert_eq!(event["long"], long);
    }

    #[test]
    fn a_reader_that_reads_nothing_is_waited_for_no_longer_than_the_time_limit() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let error = write(&file, &[b'x'; 1 << 20], Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.what, "--status-fd");
    }
}
