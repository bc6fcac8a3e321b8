//! `stdio:`: the container's lines on imrun's own stdout and stderr, for development.
//!
//! Nothing is shipped, and the launch record reports this. A regular file is refused because it would be
//! a log on the host, and a socket because `/dev/stdout` cannot be opened there.

use super::event::{Batch, Body, STREAM_END, Stream};
use super::sink::{Delivery, Failure, FailureKind, Sink};
use crate::base::error::{Context, Error, Result, reason_of};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Two writable descriptors.
pub struct Stdio {
    /// Standard output until the container's stream has ended.
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Stdio {
    /// Takes descriptors 1 and 2 of this process.
    pub fn inherited() -> Result<Stdio> {
        let stdout = std::io::stdout().as_fd().try_clone_to_owned();
        let stderr = std::io::stderr().as_fd().try_clone_to_owned();
        Stdio::new(
            stdout.context(|| "fcntl(1, F_DUPFD_CLOEXEC)")?,
            stderr.context(|| "fcntl(2, F_DUPFD_CLOEXEC)")?,
        )
    }

    /// Creates a sink; refuses descriptors other than terminals, pipes and devices like `/dev/null`.
    pub fn new(stdout: OwnedFd, stderr: OwnedFd) -> Result<Stdio> {
        check("stdout", &stdout)?;
        check("stderr", &stderr)?;
        Ok(Stdio {
            stdout: Some(stdout.into()),
            stderr: Some(stderr.into()),
        })
    }

    fn file(&mut self, stream: Stream) -> &mut Option<File> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Closes the descriptor of the stream that has ended according to a record.
    fn end(&mut self, fields: &Value) {
        let ended = [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .find(|stream| fields["stream"] == stream.as_str());
        if let Some(stream) = ended {
            *self.file(stream) = None;
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) -> std::result::Result<(), Failure> {
        let Some(file) = self.file(stream) else {
            return Ok(());
        };
        write(file, bytes).map_err(|error| {
            let why = format!("write to {}: {}", stream.as_str(), reason_of(&error));
            Failure::new(FailureKind::Broken, why)
        })
    }
}

impl Sink for Stdio {
    fn send(&mut self, batch: &Batch) -> std::result::Result<(), Failure> {
        let mut text = Vec::new();
        let mut of = Stream::Stdout;
        for event in batch.iter() {
            match event.body {
                Body::Line {
                    stream,
                    bytes,
                    partial,
                } => {
                    if stream != of {
                        self.write(of, &std::mem::take(&mut text))?;
                        of = stream;
                    }
                    text.extend_from_slice(bytes);
                    if !partial {
                        text.push(b'\n');
                    }
                }
                Body::Record { kind, fields } if kind == STREAM_END => {
                    self.write(of, &std::mem::take(&mut text))?;
                    self.end(fields);
                }
                Body::Record { .. } => {}
            }
        }
        self.write(of, &text)
    }

    fn settle(
        &mut self,
        _: &Batch,
        _: Option<Duration>,
    ) -> std::result::Result<Option<Delivery>, Failure> {
        Ok(Some(Delivery::default()))
    }
}

fn check(name: &str, fd: &OwnedFd) -> Result<()> {
    let mode = fstat(fd).context(|| format!("fstat({name})"))?.st_mode;
    let found = match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFCHR | SFlag::S_IFIFO => return Ok(()),
        SFlag::S_IFREG => "a regular file",
        SFlag::S_IFSOCK => "a socket",
        _ => "not a stream",
    };
    let why = format!("{name} is {found}; expected a terminal, a pipe or /dev/null");
    Err(Error::policy("sink stdio", why).hint("append | cat to make it a pipe"))
}

/// Writes all bytes. A pipe may be non-blocking, since any process that shares it can set that.
fn write(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(
                    &mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)],
                    PollTimeout::NONE,
                )?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
