//! Standard input of a container, from a fifo of containerd.
//!
//! A client calls CloseIO at the end of its input, but it can do so only after Create has returned. So the shim does
//! not read the fifo before the container is started: until then a client's first write blocks, and its CloseIO comes
//! later. From then on a thread copies the fifo into the pipe that the app reads.

use super::runtime::fifo;
use crate::base::error::{Context, Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter};
use std::os::unix::fs::FileTypeExt;
use std::thread;

/// Stack size of the copying thread, in bytes.
const STACK: usize = 64 << 10;

/// Standard input of a container. The app sees its end when this is closed or dropped and no client has the fifo
/// open.
#[derive(Debug)]
pub struct Stdin {
    path: String,
    /// Write end of the app's pipe, until the container is started.
    pipe: Option<PipeWriter>,
    /// Write end of the fifo, which keeps it open between clients.
    writer: Option<File>,
    closed: bool,
}

impl Stdin {
    /// Returns the standard input from a fifo, and the pipe that the app reads. `None` without a fifo.
    pub fn new(path: &str) -> Result<Option<(Stdin, PipeReader)>> {
        if path.is_empty() {
            return Ok(None);
        }
        let found = std::fs::metadata(path).context(|| format!("stat({path:?})"))?;
        if !found.file_type().is_fifo() {
            return Err(Error::policy(
                format_args!("{path:?}"),
                "is not a fifo of containerd",
            ));
        }
        let (reader, pipe) = std::io::pipe().context(|| "pipe2(O_CLOEXEC)")?;
        let stdin = Stdin {
            path: path.to_owned(),
            pipe: Some(pipe),
            writer: None,
            closed: false,
        };
        Ok(Some((stdin, reader)))
    }

    /// Starts to copy input from clients.
    pub fn start(&mut self) -> Result<()> {
        let Some(mut pipe) = self.pipe.take() else {
            return Ok(());
        };
        let path = &self.path;
        // With both ends open here, neither end blocks.
        let both = fifo(path)?;
        let end =
            |options: &mut OpenOptions| options.open(path).context(|| format!("open({path:?})"));
        let mut reader = end(OpenOptions::new().read(true))?;
        if !self.closed {
            self.writer = Some(end(OpenOptions::new().write(true))?);
        }
        drop(both);
        let copy = move || match std::io::copy(&mut reader, &mut pipe) {
            // The app has closed its standard input.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => log::warn!(
                "copy(standard input): {}",
                crate::base::error::reason_of(&error)
            ),
            Ok(_) => {}
        };
        let thread = thread::Builder::new()
            .name("stdin".into())
            .stack_size(STACK);
        thread.spawn(copy).map(drop).context(|| "clone(thread)")
    }

    /// Closes the input once no client has the fifo open.
    pub fn close(&mut self) {
        self.closed = true;
        self.writer = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::io::{Read, Write};
    use std::path::PathBuf;

    fn fifo() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdin");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        (dir, path)
    }

    /// Starts a client that writes one text and ends.
    fn client(path: &std::path::Path, text: &'static str) -> thread::JoinHandle<()> {
        let path = path.to_owned();
        thread::spawn(move || {
            let mut fifo = OpenOptions::new().write(true).open(path).unwrap();
            fifo.write_all(text.as_bytes()).unwrap();
        })
    }

    #[test]
    fn input_of_clients_reaches_the_app_and_ends_when_it_is_closed() {
        let (_dir, path) = fifo();
        let (mut stdin, mut app) = Stdin::new(path.to_str().unwrap()).unwrap().unwrap();
        let first = client(&path, "one ");
        assert!(!first.is_finished(), "nobody reads yet");
        stdin.start().unwrap();
        first.join().unwrap();
        // The input stays open between two clients.
        client(&path, "two").join().unwrap();
        stdin.close();
        let mut text = String::new();
        app.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }

    #[test]
    fn input_closed_before_the_start_ends_at_once() {
        let (_dir, path) = fifo();
        let (mut stdin, mut app) = Stdin::new(path.to_str().unwrap()).unwrap().unwrap();
        stdin.close();
        stdin.start().unwrap();
        assert_eq!(app.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn only_a_fifo_is_accepted_as_standard_input() {
        assert!(Stdin::new("").unwrap().is_none());
        for path in ["/dev/zero", "/etc/passwd"] {
            assert!(Stdin::new(path).unwrap_err().why.contains("not a fifo"));
        }
    }
}
