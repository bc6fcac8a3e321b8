//! `refs.log`: what a name meant, when. A name is history, never identity.
//!
//! One line for each change: time (RFC 3339, UTC), name, digest; separated by a tab. A digest of
//! `-` forgets the name. An image that was given no name is its own: its digest.

use super::Store;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;

pub(super) const FILE: &str = "refs.log";
const FORGOTTEN: &str = "-";
/// Longer than any line: a name has at most 4 KiB.
const MAX_LINE: u64 = 8192;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When, RFC 3339.
    pub time: String,
    /// A name, or the text of a digest.
    pub name: String,
    /// What it means from then on; None: nothing.
    pub digest: Option<Digest>,
}

/// Parses a log. A last line without its end was being written when its writer was killed: it
/// never took effect.
pub fn parse(text: &str) -> Result<Vec<Change>> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .filter(|line| !line.is_empty())
        .map(parse_line)
        .collect()
}

fn parse_line(line: &str) -> Result<Change> {
    let malformed = || {
        Error::digest(
            format_args!("{FILE}: line {line:?}"),
            "is not time, name, digest",
        )
        .hint("move the file away: images stay in the store, and importing one again names it")
    };
    let mut fields = line.split('\t');
    let (Some(time), Some(name), Some(digest), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(malformed());
    };
    let digest = match digest {
        FORGOTTEN => None,
        text => Some(text.parse().map_err(|_| malformed())?),
    };
    Ok(Change {
        time: time.into(),
        name: name.into(),
        digest,
    })
}

/// What each name means now.
pub fn current(changes: Vec<Change>) -> BTreeMap<String, (Digest, String)> {
    let mut names = BTreeMap::new();
    for Change { time, name, digest } in changes {
        match digest {
            Some(digest) => names.insert(name, (digest, time)),
            None => names.remove(&name),
        };
    }
    names
}

impl Store {
    /// All changes, the oldest first.
    pub fn refs(&self) -> Result<Vec<Change>> {
        let path = self.path.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).context(|| format!("read({path:?})")),
        }
    }

    /// Makes `name` mean `digest`, unless it does already. The caller holds the store's lock.
    pub fn name(&self, name: &str, digest: &Digest) -> Result<()> {
        match current(self.refs()?).get(name) {
            Some((current, _)) if current == digest => Ok(()),
            _ => self.set_ref(name, Some(digest)),
        }
    }

    /// Makes `name` mean `digest`, or nothing. The caller holds the store's lock.
    pub fn set_ref(&self, name: &str, digest: Option<&Digest>) -> Result<()> {
        let path = self.path.join(FILE);
        let file = files::open_private(&path)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context(|| format!("flock({path:?})"))?;
        let digest = digest.map_or(FORGOTTEN.into(), Digest::to_string);
        let line = format!("{}\t{name}\t{digest}\n", crate::base::time::now());
        cut_torn_line(&file)
            .and_then(|()| file.write_all(line.as_bytes()))
            .and_then(|()| file.sync_all())
            .context(|| format!("write({path:?})"))
    }
}

/// Removes the beginning of a line that a killed writer left.
fn cut_torn_line(file: &File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(MAX_LINE);
    let mut tail = vec![0; (length - start) as usize];
    file.read_exact_at(&mut tail, start)?;
    match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(end) if end + 1 == tail.len() => Ok(()),
        Some(end) => file.set_len(start + end as u64 + 1),
        None if start == 0 => file.set_len(0),
        None => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_name_counts_and_a_torn_line_does_not() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let text = format!("t1\ta\t{one}\nt2\tb\t{one}\nt3\ta\t{two}\nt4\tb\t-\nt5\ta\t{one}");
        let names = current(parse(&text).unwrap());
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            [("a".into(), (two, "t3".into()))]
        );
    }

    #[test]
    fn a_line_after_a_torn_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let digest = Digest::sha256(b"1");
        std::fs::write(
            dir.path().join(FILE),
            format!("t1\ta\t{digest}\nt2\tb\tsha2"),
        )
        .unwrap();
        store.set_ref("c", Some(&digest)).unwrap();
        let names: Vec<_> = store
            .refs()
            .unwrap()
            .into_iter()
            .map(|change| change.name)
            .collect();
        assert_eq!(names, ["a", "c"]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert!(parse("a b c\n").is_err());
        assert!(parse("t\tn\tsha256:00\n").is_err());
    }
}
