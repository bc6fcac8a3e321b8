//! Report of an app's attempts: each different one once, with a count.

use super::advice;
use super::attempt::Spelling;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Maximum number of different attempts listed; further ones are only counted.
const LISTED: usize = 1000;
/// Maximum number of calls whose words are remembered; others are judged each time.
const SPELLINGS: usize = 4000;
/// Path reported for an attempt whose object imrun could not read.
pub const UNREADABLE: &str = "unreadable";
/// Maximum number of attempts named on standard error.
const NAMED: usize = 5;

/// An attempt, as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// Name of the call, as in its manual page.
    pub syscall: &'static str,
    /// Path as the app gave it, or [`UNREADABLE`].
    pub path: Option<String>,
    /// Path in the root, without links.
    pub resolved: Option<String>,
    /// Errno of the call, by name.
    pub errno: String,
    /// Program that the thread executes.
    pub executable: Option<String>,
    /// Further details: an object.
    pub details: Value,
}

impl Effect {
    /// Returns the fields of the event for an attempt that was made `count` times.
    pub fn fields(&self, count: u64) -> Value {
        let mut fields = self.details.clone();
        fields["count"] = json!(count);
        fields["syscall"] = json!(self.syscall);
        fields["path"] = json!(self.path);
        fields["resolved"] = json!(self.resolved);
        fields["errno"] = json!(self.errno);
        fields["executable"] = json!(self.executable);
        fields
    }

    /// Returns the path to show, if there is one.
    pub fn display_path(&self) -> Option<&str> {
        self.resolved.as_deref().or(self.path.as_deref())
    }
}

/// The properties that two equal attempts share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Number of the call.
    pub number: u32,
    /// Flags of an open.
    pub flags: i32,
    /// Object that it would have changed.
    pub object: Object,
    /// Location of the call's second name.
    pub other: Option<PathBuf>,
    /// Other argument of the call.
    pub argument: Option<String>,
    /// Errno that it fails with.
    pub errno: Option<i32>,
}

/// The object of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Object {
    /// A location in the container.
    Place(PathBuf),
    /// A name without a location; empty if there is none.
    Name(Vec<u8>),
    /// An object that imrun could not read.
    Unread,
}

/// All attempts of a container.
#[derive(Debug, Default)]
pub struct Report {
    effects: Vec<(Effect, u64)>,
    places: HashMap<Key, usize>,
    spellings: HashMap<Spelling, usize>,
    attempts: u64,
    /// Number of attempts whose object imrun could not read.
    unread: u64,
    /// True if the container was killed at the first one.
    pub killed: bool,
}

/// The result of counting an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// The attempt is new: examine and add it.
    New,
    /// The attempt at this index of the list has been made this many times: report it again.
    Milestone(usize, u64),
    /// Counted; no report is due.
    Repeated,
}

impl Report {
    /// Counts an attempt.
    pub fn count(&mut self, key: &Key) -> Seen {
        self.attempts += 1;
        self.unread += u64::from(key.object == Object::Unread);
        match self.places.get(key) {
            Some(place) => self.add_one(*place),
            None if self.effects.len() < LISTED => Seen::New,
            None => Seen::Repeated,
        }
    }

    /// Counts a repetition of a listed attempt.
    pub fn count_again(&mut self, place: usize) -> Seen {
        self.attempts += 1;
        self.add_one(place)
    }

    fn add_one(&mut self, place: usize) -> Seen {
        let count = &mut self.effects[place].1;
        *count += 1;
        if is_power_of_ten(*count) {
            Seen::Milestone(place, *count)
        } else {
            Seen::Repeated
        }
    }

    /// Adds a counted attempt to the list; returns its index.
    pub fn add(&mut self, key: Key, effect: Effect) -> usize {
        let place = self.effects.len();
        self.places.insert(key, place);
        self.effects.push((effect, 1));
        place
    }

    /// Remembers the words of the attempt with that key, if it is listed.
    pub fn remember(&mut self, spelling: Spelling, key: &Key) {
        if let Some(place) = self.places.get(key)
            && self.spellings.len() < SPELLINGS
        {
            self.spellings.insert(spelling, *place);
        }
    }

    /// Returns the index of the attempt with these words.
    pub fn find(&self, spelling: &Spelling) -> Option<usize> {
        self.spellings.get(spelling).copied()
    }

    /// Returns the attempt at an index of the list.
    pub fn effect(&self, place: usize) -> &Effect {
        &self.effects[place].0
    }

    /// Returns true if there were no attempts.
    pub fn is_clean(&self) -> bool {
        self.attempts == 0
    }

    /// Returns the number of attempts, repeated ones included.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Returns the number of attempts whose object imrun could not read.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Returns the different attempts with their counts, in the order of their first occurrence.
    pub fn effects(&self) -> impl Iterator<Item = (&Effect, u64)> {
        self.effects.iter().map(|(effect, count)| (effect, *count))
    }

    /// Returns the entry of the exit record.
    pub fn summary(&self) -> Value {
        json!({ "attempts": self.attempts, "different": self.effects.len(), "unread": self.unread })
    }

    /// Returns a one-line summary; `None` without attempts.
    pub fn summary_line(&self) -> Option<String> {
        if self.is_clean() {
            return None;
        }
        let mut names: Vec<(&str, u64)> = Vec::new();
        for (effect, count) in &self.effects {
            let shown = effect.display_path().unwrap_or(effect.syscall);
            match names.iter_mut().find(|(name, _)| *name == shown) {
                Some((_, sum)) => *sum += count,
                None => names.push((shown, *count)),
            }
        }
        let plural = if self.attempts == 1 { "" } else { "s" };
        let mut line = format!("side effects: {} attempt{plural}", self.attempts);
        for (index, (name, count)) in names.iter().take(NAMED).enumerate() {
            let lead = if index == 0 { ": " } else { ", " };
            let _ = write!(line, "{lead}{name:?} ({count})");
        }
        if names.len() > NAMED {
            let _ = write!(line, " and {} more", names.len() - NAMED);
        }
        if self.unread > 0 {
            let _ = write!(line, "; {} unreadable", self.unread);
        }
        Some(line)
    }

    /// Returns the advice that applies, without duplicates.
    pub fn advice(&self) -> Vec<&'static str> {
        let mut pieces = Vec::new();
        for (effect, _) in &self.effects {
            if let Some(advice) = advice::about(effect)
                && !pieces.contains(&advice.setting)
            {
                pieces.push(advice.setting);
            }
        }
        pieces
    }
}

fn is_power_of_ten(count: u64) -> bool {
    count >= 10 && 10u64.pow(count.ilog10()) == count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(path: &str) -> Effect {
        Effect {
            syscall: "openat",
            path: Some(path.into()),
            resolved: Some(path.into()),
            errno: "EROFS".into(),
            executable: None,
            details: json!({}),
        }
    }

    fn key(path: &str) -> Key {
        Key {
            number: 257,
            flags: 0,
            object: Object::Place(path.into()),
            other: None,
            argument: None,
            errno: None,
        }
    }

    #[test]
    fn attempts_are_the_same_only_where_call_place_and_second_path_are() {
        let mut report = Report::default();
        let elsewhere = Key {
            other: Some("/b".into()),
            ..key("/a")
        };
        let unread = Key {
            object: Object::Unread,
            ..key("/a")
        };
        for key in [key("/a"), key("/b"), elsewhere, unread] {
            assert_eq!(report.count(&key), Seen::New);
            report.add(key, effect("same"));
        }
        assert_eq!(report.count(&key("/b")), Seen::Repeated);
        assert_eq!((report.attempts(), report.unread()), (5, 1));
        let line = report.summary_line().unwrap();
        assert!(line.ends_with("; 1 unreadable"), "{line}");
    }

    #[test]
    fn repeats_are_counted_and_reported_at_powers_of_ten() {
        let mut report = Report::default();
        assert_eq!(report.count(&key("/a")), Seen::New);
        report.add(key("/a"), effect("/a"));
        let told: Vec<_> = (2..=1000)
            .filter(|count| report.count(&key("/a")) == Seen::Milestone(0, *count))
            .collect();
        assert_eq!(told, [10, 100, 1000]);
        assert_eq!(report.attempts(), 1000);
        let line = report.summary_line().unwrap();
        assert_eq!(line, "side effects: 1000 attempts: \"/a\" (1000)");
    }

    #[test]
    fn attempts_beyond_a_thousand_different_ones_are_only_counted() {
        let mut report = Report::default();
        for number in 0..LISTED + 10 {
            let path = number.to_string();
            if report.count(&key(&path)) == Seen::New {
                report.add(key(&path), effect(&path));
            }
        }
        assert_eq!(report.attempts() as usize, LISTED + 10);
        assert_eq!(report.effects().count(), LISTED);
        assert!(report.summary_line().unwrap().ends_with("and 995 more"));
    }

    #[test]
    fn a_run_without_attempts_has_no_summary_and_no_advice() {
        let report = Report::default();
        assert_eq!((report.summary_line(), report.advice().len()), (None, 0));
    }
}
