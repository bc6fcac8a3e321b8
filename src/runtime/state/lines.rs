//! Line counters of a running container: a small file that is overwritten once a second at most.
//!
//! The format has a fixed width, so that imrun writes it in one call and without formatting code: a
//! waiting supervisor does not load code that it does not use.

use super::Sink;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::time::digits;
use crate::logs::Counters;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Width of a number: its digits and a separator.
const WIDTH: usize = 21;
const NUMBERS: usize = 6;

/// The file, open in the supervisor.
pub struct Lines {
    path: PathBuf,
    file: File,
    text: Vec<u8>,
}

impl Lines {
    /// Creates an empty file.
    pub(super) fn create(path: PathBuf) -> Result<Lines> {
        let file = files::create_new(&path, files::PRIVATE)?;
        Ok(Lines {
            path,
            file,
            text: Vec::new(),
        })
    }

    /// Overwrites the counters of each sink.
    pub fn write(&mut self, sinks: impl Iterator<Item = Counters>) -> Result<()> {
        self.text.clear();
        for lines in sinks {
            for number in numbers(&lines) {
                let start = self.text.len();
                self.text.extend_from_slice(b"00000000000000000000 ");
                digits(&mut self.text[start..start + WIDTH - 1], number);
            }
            self.text.pop();
            self.text.push(b'\n');
        }
        let written = self.file.write_all_at(&self.text, 0);
        written.context(|| format!("pwrite({:?})", self.path))
    }
}

fn numbers(lines: &Counters) -> [u64; NUMBERS] {
    [
        lines.read,
        lines.acknowledged,
        lines.dropped,
        lines.rejected,
        lines.pending,
        lines.retried,
    ]
}

/// Reads the file into the counters of `sinks`; leaves them unchanged if it was not written yet.
pub(super) fn read(path: &Path, sinks: &mut [Sink]) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(|| format!("read({path:?})")),
    };
    for (line, sink) in text.lines().zip(sinks) {
        sink.lines = parse(line)
            .ok_or_else(|| Error::system(format_args!("{path:?}"), "malformed counters"))?;
    }
    Ok(())
}

fn parse(line: &str) -> Option<Counters> {
    let mut numbers = line.split(' ').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some(Counters {
        read: next()?,
        acknowledged: next()?,
        dropped: next()?,
        rejected: next()?,
        pending: next()?,
        retried: next()?,
        ..Counters::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwritten_counters_are_read_back() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("lines");
        let sink = || Sink {
            url: "stdio:".into(),
            lines: Counters::default(),
        };
        let mut sinks = [sink(), sink()];
        read(&path, &mut sinks).unwrap();
        let mut file = Lines::create(path.clone()).unwrap();
        read(&path, &mut sinks).unwrap();
        assert_eq!(sinks[0].lines, Counters::default());
        let counters = |number| Counters {
            read: number,
            acknowledged: 2,
            dropped: 3,
            rejected: 4,
            pending: 5,
            retried: u64::MAX,
            ..Counters::default()
        };
        file.write([counters(1 << 40), counters(7)].into_iter())
            .unwrap();
        file.write([counters(8), counters(9)].into_iter()).unwrap();
        read(&path, &mut sinks).unwrap();
        assert_eq!(sinks.map(|sink| sink.lines), [counters(8), counters(9)]);
        std::fs::write(&path, "garbage\n").unwrap();
        assert!(read(&path, &mut [sink()]).is_err());
    }
}
