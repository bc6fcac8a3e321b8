//! The counters of a running container: a small file that is written over, once a second at most.
//!
//! Its form is fixed, so that it can be written in one call and without formatting: what a waiting
//! supervisor does not use is not in memory.

use super::Sink;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::ship::Counters;
use crate::time::digits;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Digits of a number, and what follows it.
const WIDTH: usize = 21;
const NUMBERS: usize = 6;
/// Bytes of a sink's last answer, filled up with spaces.
const FAILURE: usize = 200;

/// The file, open for its owner.
pub struct Lines {
    path: PathBuf,
    file: File,
    text: Vec<u8>,
}

impl Lines {
    /// Makes the file, empty.
    pub(super) fn create(path: PathBuf) -> Result<Lines> {
        let file = files::create_new(&path, files::PRIVATE)?;
        Ok(Lines {
            path,
            file,
            text: Vec::new(),
        })
    }

    /// Writes the counters of each sink, and its last answer if it refuses or stalls, over those that
    /// are there.
    pub fn write(&mut self, sinks: impl Iterator<Item = (Counters, Option<String>)>) -> Result<()> {
        self.text.clear();
        for (lines, failure) in sinks {
            for number in numbers(&lines) {
                let start = self.text.len();
                self.text.extend_from_slice(b"00000000000000000000 ");
                digits(&mut self.text[start..start + WIDTH - 1], number);
            }
            let end = self.text.len() + FAILURE;
            self.text
                .extend_from_slice(first_bytes(failure.as_deref().unwrap_or_default()));
            self.text.resize(end, b' ');
            self.text.push(b'\n');
        }
        let written = self.file.write_all_at(&self.text, 0);
        written.context(|| format!("pwrite({:?})", self.path))
    }
}

/// As much of a text as there is room for, up to a control character.
fn first_bytes(text: &str) -> &[u8] {
    let control = text.find(char::is_control).unwrap_or(text.len());
    &text.as_bytes()[..text.floor_char_boundary(control.min(FAILURE))]
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

/// Enters what the file says; nothing where it was not written yet.
pub(super) fn read(path: &Path, sinks: &mut [Sink]) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(|| format!("read({path:?})")),
    };
    for (line, sink) in text.lines().zip(sinks) {
        (sink.lines, sink.failure) = parse(line)
            .ok_or_else(|| Error::system(format_args!("{path:?}"), "malformed counters"))?;
    }
    Ok(())
}

fn parse(line: &str) -> Option<(Counters, Option<String>)> {
    let (numbers, failure) = line.split_at_checked(NUMBERS * WIDTH)?;
    let failure = failure.trim_end();
    let failure = (!failure.is_empty()).then(|| failure.to_owned());
    let mut numbers = numbers.split(' ').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    let counters = Counters {
        read: next()?,
        acknowledged: next()?,
        dropped: next()?,
        rejected: next()?,
        pending: next()?,
        retried: next()?,
        ..Counters::default()
    };
    Some((counters, failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_is_read() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("lines");
        let sink = || Sink {
            url: "stdio:".into(),
            lines: Counters::default(),
            failure: None,
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
        let long = format!("answered {}\nforged", "é".repeat(200));
        let told = |text: &str| Some(text.to_owned());
        file.write([(counters(1 << 40), told(&long)), (counters(7), None)].into_iter())
            .unwrap();
        read(&path, &mut sinks).unwrap();
        let kept = sinks[0].failure.take().unwrap();
        assert!(long.starts_with(&kept) && (FAILURE - 1..=FAILURE).contains(&kept.len()));
        let second = [(counters(8), None), (counters(9), told("answered 401"))];
        file.write(second.into_iter()).unwrap();
        read(&path, &mut sinks).unwrap();
        let failures = sinks.each_ref().map(|sink| sink.failure.as_deref());
        assert_eq!(failures, [None, Some("answered 401")]);
        assert_eq!(sinks.map(|sink| sink.lines), [counters(8), counters(9)]);
        std::fs::write(&path, "garbage\n").unwrap();
        assert!(read(&path, &mut [sink()]).is_err());
    }
}
