//! What an app tried, each thing once with a count.

use super::advice;
use super::attempt::Spelling;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// More different attempts than these are only counted.
const LISTED: usize = 1000;
/// More spellings than these are not remembered: their calls are looked into each time.
const SPELLINGS: usize = 4000;
/// The path of an attempt that named something, of which it could not be read what.
pub const UNREADABLE: &str = "unreadable";
/// More than these are not named on standard error.
const NAMED: usize = 5;

/// An attempt, told for the first time.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// The call, as its manual page has it.
    pub syscall: &'static str,
    /// As the app gave it.
    pub path: Option<String>,
    /// In the root, without links.
    pub resolved: Option<String>,
    /// What the call fails with, by name.
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

/// What makes two attempts the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The call.
    pub number: u32,
    /// The flags of an open.
    pub flags: i32,
    /// What it would have changed.
    pub what: What,
    /// Where the call's other name leads.
    pub other: Option<PathBuf>,
    /// What else the call was given.
    pub argument: Option<String>,
    /// What it fails with.
    pub errno: Option<i32>,
}

/// What an attempt is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// A place in the container.
    Place(PathBuf),
    /// What has a name and no place; empty: nothing.
    Name(Vec<u8>),
    /// It could not be read.
    Unread,
}

/// Everything that a container tried.
#[derive(Debug, Default)]
pub struct Report {
    effects: Vec<(Effect, u64)>,
    places: HashMap<Key, usize>,
    spellings: HashMap<Spelling, usize>,
    attempts: u64,
    /// How many of them named something that could not be read.
    unread: u64,
    /// Whether the container was killed at the first one.
    pub killed: bool,
}

/// What a count has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is new: look closer, and add it.
    New,
    /// The one at this place of the list, so many times; that is worth an event.
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
        match is_power_of_ten(*count) {
            true => Seen::Often(place, *count),
            false => Seen::Again,
        }
    }

    /// Lists a new one that was counted; its place in the list.
    pub fn add(&mut self, key: Key, effect: Effect) -> usize {
        let place = self.effects.len();
        self.places.insert(key, place);
        self.effects.push((effect, 1));
        place
    }

    /// Remembers how the attempt of a key is written, if it is listed.
    pub fn remember(&mut self, spelling: Spelling, key: &Key) {
        if let Some(place) = self.places.get(key)
            && self.spellings.len() < SPELLINGS
        {
            self.spellings.insert(spelling, *place);
        }
    }

    /// Forgets how attempts are written: from now on the same words may lead elsewhere.
    pub fn forget_spellings(&mut self) {
        self.spellings.clear();
    }

    /// Where the attempt that is written like this is listed.
    pub fn find(&self, spelling: &Spelling) -> Option<usize> {
        self.spellings.get(spelling).copied()
    }

    /// The attempt at a place of the list.
    pub fn effect(&self, place: usize) -> &Effect {
        &self.effects[place].0
    }

    /// Whether nothing was tried.
    pub fn is_clean(&self) -> bool {
        self.attempts == 0
    }

    /// How many attempts there were, repeated ones too.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// How many of them named something that could not be read.
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
            let _ = write!(line, "; {} named what imrun could not read", self.unread);
        }
        Some(line)
    }

    /// What would make the app stop it, each piece once.
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
        assert!(
            line.ends_with("; 1 named what imrun could not read"),
            "{line}"
        );
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
