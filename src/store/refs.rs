//! `refs.log`: the history of names. A name is never an identity.
//!
//! Each line is one change: time (RFC 3339, UTC), name and digest, separated by tabs. The digest `-`
//! removes the name. An image without a name has its own digest as one.

use super::Store;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, HINT, Result};
use crate::base::files;
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::sync::Once;

pub(super) const FILE: &str = "refs.log";
const FORGOTTEN: &str = "-";
/// Maximum bytes of a line; a name has at most 4 KiB.
const MAX_LINE: u64 = 8192;

/// Command that repairs the log.
const REPAIR: &str = "imrun verify --repair";

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Time in RFC 3339.
    pub time: String,
    /// Name, or the text of a digest.
    pub name: String,
    /// Digest of the name from then on; `None` removes the name.
    pub digest: Option<Digest>,
}

impl Change {
    fn line(&self) -> String {
        let Change { time, name, digest } = self;
        let digest = digest.map_or(FORGOTTEN.into(), |digest| digest.to_string());
        format!("{time}\t{name}\t{digest}\n")
    }
}

/// Contents of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// All changes, oldest first.
    pub changes: Vec<Change>,
    /// Lines that cannot be parsed.
    pub damaged: Vec<Damaged>,
}

/// A line that is not time, name and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Line number, from 1.
    pub number: usize,
    /// Beginning of the line, as far as it is text.
    pub text: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FILE}: line {} ({:?})", self.number, self.text)
    }
}

/// Parses a log. An incomplete last line is ignored: its writer was killed before the change took
/// effect. One that only lacks its line end is complete.
pub fn parse(bytes: &[u8]) -> Log {
    const SHOWN: usize = 80;
    let mut log = Log::default();
    let whole = if is_torn(last_line(bytes)) {
        &bytes[..bytes.len() - last_line(bytes).len()]
    } else {
        bytes
    };
    let lines = whole.split(|byte| *byte == b'\n').enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        match std::str::from_utf8(line).ok().and_then(parse_line) {
            Some(change) => log.changes.push(change),
            None => log.damaged.push(Damaged {
                number: number + 1,
                text: String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into(),
            }),
        }
    }
    log
}

/// Returns the bytes after the last line end.
fn last_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    &bytes[end.map_or(0, |end| end + 1)..]
}

/// Returns true for the start of a line, as a killed writer leaves it; other damage has control characters.
fn is_torn(line: &[u8]) -> bool {
    let is_text = line
        .iter()
        .all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    let is_whole = std::str::from_utf8(line)
        .ok()
        .and_then(parse_line)
        .is_some();
    !line.is_empty() && is_text && !is_whole
}

fn parse_line(line: &str) -> Option<Change> {
    let mut fields = line.split('\t');
    let (time, name, digest) = (fields.next()?, fields.next()?, fields.next()?);
    let digest = match digest {
        FORGOTTEN => None,
        text => Some(text.parse().ok()?),
    };
    fields.next().is_none().then(|| Change {
        time: time.into(),
        name: name.into(),
        digest,
    })
}

/// Current and earlier digests of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meanings {
    /// Current digest; `None` if the name was removed.
    pub now: Option<Digest>,
    /// Earlier digests, latest first, each once; without those that `rm` removed.
    pub earlier: Vec<Digest>,
}

impl Meanings {
    fn apply(&mut self, digest: Option<Digest>) {
        let before = std::mem::replace(&mut self.now, digest);
        if let (Some(before), Some(_)) = (before, digest) {
            self.earlier.insert(0, before);
        }
        self.earlier.retain(|earlier| Some(*earlier) != digest);
    }
}

/// Returns the current and earlier digests of each name.
pub fn meanings(changes: &[Change]) -> BTreeMap<&str, Meanings> {
    let mut names = BTreeMap::<&str, Meanings>::new();
    for change in changes {
        names.entry(&change.name).or_default().apply(change.digest);
    }
    names
}

/// Returns the current digest of each name and the time it was set.
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
    /// Returns all changes, oldest first. Damaged lines are reported and skipped.
    pub fn refs(&self) -> Result<Vec<Change>> {
        static TOLD: Once = Once::new();
        let log = self.log()?;
        if !log.damaged.is_empty() {
            TOLD.call_once(|| warn(&log.damaged));
        }
        Ok(log.changes)
    }

    /// Returns all changes, or an error if a line is damaged. Commands that remove images use this, since
    /// a damaged line may have named an image.
    pub fn whole_refs(&self) -> Result<Vec<Change>> {
        let log = self.log()?;
        match log.damaged.first() {
            None => Ok(log.changes),
            Some(damaged) => Err(Error::digest(
                damaged,
                "is damaged and may have named an image: nothing was changed",
            )
            .hint(format_args!(
                "{REPAIR} removes the line and names images without a name by their digests"
            ))),
        }
    }

    pub(super) fn log(&self) -> Result<Log> {
        let path = self.path.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(parse(&bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Log::default()),
            Err(error) => Err(error).context(|| format!("read({path:?})")),
        }
    }

    /// Rewrites the log without its damaged lines. The caller holds the store's exclusive lock.
    pub(super) fn rewrite_refs(&self, changes: &[Change]) -> Result<()> {
        let new = self.new_file()?;
        let lines = changes.iter().map(Change::line).collect::<String>();
        let written = new.file.write_all_at(lines.as_bytes(), 0);
        written.context(|| format!("write({FILE})"))?;
        new.link(&self.path.join(FILE))
    }

    /// Sets the digest of `name`, unless it is the current one. The caller holds the store's lock.
    pub fn name(&self, name: &str, digest: &Digest) -> Result<()> {
        match current(self.refs()?).get(name) {
            Some((current, _)) if current == digest => Ok(()),
            _ => self.set_ref(name, Some(digest)),
        }
    }

    /// Sets or removes the digest of `name`. The caller holds the store's lock.
    pub fn set_ref(&self, name: &str, digest: Option<&Digest>) -> Result<()> {
        let path = self.path.join(FILE);
        let file = files::open_private(&path)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context(|| format!("flock({path:?})"))?;
        let change = Change {
            time: crate::base::time::now(),
            name: name.into(),
            digest: digest.copied(),
        };
        cut_torn_line(&file)
            .and_then(|()| file.write_all(change.line().as_bytes()))
            .and_then(|()| file.sync_all())
            .context(|| format!("write({path:?})"))
    }
}

/// Removes an incomplete line that a killed writer left. A whole or damaged one gets its line end instead;
/// `verify --repair` removes damage.
fn cut_torn_line(mut file: &File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(MAX_LINE);
    let mut tail = vec![0; (length - start) as usize];
    file.read_exact_at(&mut tail, start)?;
    let last = last_line(&tail);
    let is_whole_line = last.len() < tail.len() || start == 0;
    if last.is_empty() {
        Ok(())
    } else if is_whole_line && is_torn(last) {
        file.set_len(length - last.len() as u64)
    } else {
        file.write_all(b"\n")
    }
}

fn warn(damaged: &[Damaged]) {
    const SHOWN: usize = 5;
    for line in damaged.iter().take(SHOWN) {
        log::warn!("{line}: expected time, name and digest: skipped");
    }
    if let Some(more) = damaged.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        log::warn!("{FILE}: {more} more lines are damaged");
    }
    log::warn!(target: HINT, "{REPAIR} removes such lines and names images without a name by their digests");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_name_counts_and_an_incomplete_line_does_not() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let text = format!("t1\ta\t{one}\nt2\tb\t{one}\nt3\ta\t{two}\nt4\tb\t-\nt5\ta\t{one}");
        for torn in 1..=one.to_string().len() {
            let log = parse(&text.as_bytes()[..text.len() - torn]);
            let names = current(log.changes);
            assert_eq!(
                names.into_iter().collect::<Vec<_>>(),
                [("a".into(), (two, "t3".into()))]
            );
            assert!(log.damaged.is_empty());
        }
    }

    #[test]
    fn a_last_line_that_only_lacks_its_line_end_counts_and_bytes_of_no_text_are_damage() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let text = format!("t1\ta\t{one}\nt2\ta\t{two}");
        let log = parse(text.as_bytes());
        assert_eq!(log.changes.len(), 2);
        let log = parse(format!("t1\ta\t{one}\n\0\0\0\0").as_bytes());
        assert_eq!((log.changes.len(), log.damaged.len()), (1, 1));
    }

    #[test]
    fn a_line_added_after_an_incomplete_one_is_valid() {
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
    fn a_damaged_line_is_reported_and_the_others_count() {
        let digest = Digest::sha256(b"1");
        let good = |name: &str| format!("t\t{name}\t{digest}\n").into_bytes();
        for bad in [
            &b"a b c"[..],
            b"t\tn\tsha256:00",
            b"t\tn",
            b"t\tn\t-\tmore",
            b"\xff\xfe\t\t",
            &[0; 9000],
        ] {
            let log = parse(&[&good("a")[..], bad, b"\n", &good("b")].concat());
            let names: Vec<_> = log.changes.iter().map(|change| &change.name).collect();
            assert_eq!(names, ["a", "b"]);
            assert_eq!((log.damaged.len(), log.damaged[0].number), (1, 2));
        }
    }

    #[test]
    fn a_line_added_after_damage_without_line_end_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let digest = Digest::sha256(b"1");
        std::fs::write(dir.path().join(FILE), [0; 20_000]).unwrap();
        store.set_ref("c", Some(&digest)).unwrap();
        let log = store.log().unwrap();
        assert_eq!((log.changes.len(), log.damaged.len()), (1, 1));
        assert!(store.whole_refs().is_err());
    }

    #[test]
    fn earlier_digests_do_not_include_removed_ones() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Digest::sha256(text));
        for (changes, now, earlier) in [
            (&[Some(a)][..], Some(a), &[][..]),
            (&[Some(a), Some(a)], Some(a), &[]),
            (&[Some(a), Some(b), Some(c)], Some(c), &[b, a]),
            (&[Some(a), Some(b), Some(a)], Some(a), &[b]),
            (&[Some(a), Some(b), None], None, &[a]),
            (&[Some(a), Some(b), None, Some(c)], Some(c), &[a]),
            (&[Some(a), None, None], None, &[]),
        ] {
            let mut meanings = Meanings::default();
            changes.iter().for_each(|change| meanings.apply(*change));
            assert_eq!(meanings.now, now, "{changes:?}");
            assert_eq!(meanings.earlier, earlier, "{changes:?}");
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for digest in [None, Some(Digest::sha256(b"1"))] {
            let (time, name) = ("t".into(), "n".into());
            let change = Change { time, name, digest };
            assert_eq!(parse(change.line().as_bytes()).changes, [change]);
        }
    }
}
