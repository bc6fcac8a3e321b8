//! The attempts of an app, each different one once with a count.

use super::advice;
use super::attempt::Spelling;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// More different attempts than these are only counted.
const LISTED: usize = 1000;
/// Maximum number of calls whose words are remembered; others are judged each time.
const SPELLINGS: usize = 4000;
/// Path that is reported of an attempt whose object imrun could not read.
pub const UNREADABLE: &str = "unreadable";
/// More than these are not named on standard error.
const NAMED: usize = 5;

/// An attempt, told for the first time.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// The call, as its manual page has it.
    pub syscall: &'static str,
    /// Path as the app gave it, or [`UNREADABLE`].
    pub path: Option<String>,
    /// In the root, without links.
    pub resolved: Option<String>,
    /// Errno of the call, by name.
    pub errno: String,
    /// The program that the thread executes.
    pub executable: Option<String>,
    /// All else there is to say: an object.
    pub details: Value,
}

impl Effect {
    /// The event's fields, of an attempt that was made so often.
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

    /// The path to show of it, if it has one.
    pub fn shown(&self) -> Option<&str> {
        self.resolved.as_deref().or(self.path.as_deref())
    }
}

/// The properties that two equal attempts share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The call.
    pub number: u32,
    /// The flags of an open.
    pub flags: i32,
    /// Object that it would have changed.
    pub what: What,
    /// Place of the call's second name.
    pub other: Option<PathBuf>,
    /// Other argument of the call.
    pub argument: Option<String>,
    /// Errno that it fails with.
    pub errno: Option<i32>,
}

/// The object of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// A place in the container.
    Place(PathBuf),
    /// A name without a place; empty if there is none.
    Name(Vec<u8>),
    /// An object that imrun could not read.
    Unread,
}

/// Everything that a container tried.
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
    /// The attempt is new: look closer, and add it.
    New,
    /// The attempt at this place of the list was made so many times: report it again.
    Often(usize, u64),
    /// Counted, and nothing to tell.
    Again,
}

impl Report {
    /// Counts an attempt.
    pub fn count(&mut self, key: &Key) -> Seen {
        self.attempts += 1;
        self.unread += u64::from(key.what == What::Unread);
        match self.places.get(key) {
            Some(place) => self.add_one(*place),
            None if self.effects.len() < LISTED => Seen::New,
            None => Seen::Again,
        }
    }

    /// Counts another one of an attempt that is listed.
    pub fn count_again(&mut self, place: usize) -> Seen {
        self.attempts += 1;
        self.add_one(place)
    }

    fn add_one(&mut self, place: usize) -> Seen {
        let count = &mut self.effects[place].1;
        *count += 1;
        if is_power_of_ten(*count) {
            Seen::Often(place, *count)
        } else {
            Seen::Again
        }
    }

    /// Lists a new one that was counted; its place in the list.
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

    /// Forgets the words of attempts: from now on the same words may lead elsewhere.
    pub fn forget_spellings(&mut self) {
        self.spellings.clear();
    }

    /// Returns the place in the list of the attempt with these words.
    pub fn find(&self, spelling: &Spelling) -> Option<usize> {
        self.spellings.get(spelling).copied()
    }

    /// The attempt at a place of the list.
    pub fn effect(&self, place: usize) -> &Effect {
        &self.effects[place].0
    }

    /// Returns true if nothing was tried.
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

    /// The different attempts and how often each was made, in the order in which they were first seen.
    pub fn effects(&self) -> impl Iterator<Item = (&Effect, u64)> {
        self.effects.iter().map(|(effect, count)| (effect, *count))
    }

    /// For the exit record.
    pub fn summary(&self) -> Value {
        json!({ "attempts": self.attempts, "different": self.effects.len(), "unread": self.unread })
    }

    /// One line about all of it; None when nothing was tried.
    pub fn line(&self) -> Option<String> {
        if self.is_clean() {
            return None;
        }
        let mut names: Vec<(&str, u64)> = Vec::new();
        for (effect, count) in &self.effects {
            let shown = effect.shown().unwrap_or(effect.syscall);
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

    /// Returns the advice that fits, each piece once.
    pub fn advice(&self) -> Vec<&'static str> {
        let mut pieces = Vec::new();
        for (effect, _) in &self.effects {
            if let Some(advice) = advice::about(effect)
                && !pieces.contains(&advice.does)
            {
                pieces.push(advice.does);
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
            what: What::Place(path.into()),
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
            what: What::Unread,
            ..key("/a")
        };
        for key in [key("/a"), key("/b"), elsewhere, unread] {
            assert_eq!(report.count(&key), Seen::New);
            report.add(key, effect("same"));
        }
        assert_eq!(report.count(&key("/b")), Seen::Again);
        assert_eq!((report.attempts(), report.unread()), (5, 1));
        let line = report.line().unwrap();
        assert!(line.ends_with("; 1 unreadable"), "{line}");
    }

    #[test]
    fn repeats_are_counted_and_told_at_powers_of_ten() {
        let mut report = Report::default();
        assert_eq!(report.count(&key("/a")), Seen::New);
        report.add(key("/a"), effect("/a"));
        let told: Vec<_> = (2..=1000)
            .filter(|count| report.count(&key("/a")) == Seen::Often(0, *count))
            .collect();
        assert_eq!(told, [10, 100, 1000]);
        assert_eq!(report.attempts(), 1000);
        let line = report.line().unwrap();
        assert_eq!(line, "side effects: 1000 attempts: \"/a\" (1000)");
    }

    #[test]
    fn beyond_a_thousand_different_ones_are_only_counted() {
        let mut report = Report::default();
        for number in 0..LISTED + 10 {
            let path = number.to_string();
            if report.count(&key(&path)) == Seen::New {
                report.add(key(&path), effect(&path));
            }
        }
        assert_eq!(report.attempts() as usize, LISTED + 10);
        assert_eq!(report.effects().count(), LISTED);
        assert!(report.line().unwrap().ends_with("and 995 more"));
    }

    #[test]
    fn a_clean_run_has_nothing_to_say() {
        let report = Report::default();
        assert_eq!((report.line(), report.advice().len()), (None, 0));
    }
}
