//! The documented list of all system calls, compared with the policy and the compiled program.

use super::super::calls::FOREIGN;
use super::{Answer, Call, Policy, decide, decode, interpret};
use crate::runtime::observe::calls::{self, of};
use crate::runtime::seccomp::number_of;
use std::collections::BTreeMap;

const X86_64: &str = include_str!("x86_64.calls");
const AARCH64: &str = include_str!("aarch64.calls");
const OWN: &str = if cfg!(target_arch = "x86_64") {
    X86_64
} else {
    AARCH64
};

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: &'static str,
    answer: Answer,
    cases: Vec<(Vec<Test>, Answer)>,
}

/// Condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equals(usize, u32),
    HasAny(usize, u64),
}

fn rows(table: &'static str) -> BTreeMap<u32, Row> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let mut rows = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let number = words.next().unwrap().parse().unwrap();
        let (name, answer) = (words.next().unwrap(), parse_answer(words.next().unwrap()));
        let rest: Vec<_> = words.collect();
        let case = |pair: &[&str]| {
            let tests = pair[0].split(',').map(parse_test).collect();
            (tests, parse_answer(pair[1]))
        };
        let cases = rest.chunks(2).map(case).collect();
        let row = Row {
            name,
            answer,
            cases,
        };
        assert_eq!(rows.insert(number, row), None, "{line} is there twice");
    }
    rows
}

fn parse_answer(word: &str) -> Answer {
    match word {
        "allow" => Answer::Allow,
        "done" => Answer::Errno(0),
        "EPERM" => Answer::Errno(libc::EPERM as u16),
        "ENOSYS" => Answer::Errno(libc::ENOSYS as u16),
        "EAFNOSUPPORT" => Answer::Errno(libc::EAFNOSUPPORT as u16),
        _ => panic!("{word} is no answer"),
    }
}

fn parse_test(text: &str) -> Test {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    };
    let at = text.find(['=', '&']).unwrap();
    let (argument, value) = (text[..at].parse().unwrap(), number(&text[at + 1..]));
    match &text[at..=at] {
        "=" => Test::Equals(argument, value as u32),
        _ => Test::HasAny(argument, value),
    }
}

impl Test {
    fn holds(self, arguments: &[u64; 6]) -> bool {
        match self {
            Test::Equals(argument, value) => arguments[argument] as u32 == value,
            Test::HasAny(argument, bits) => arguments[argument] & bits != 0,
        }
    }
}

impl Row {
    fn answer(&self, arguments: &[u64; 6]) -> Answer {
        let holds = |tests: &[Test]| tests.iter().all(|test| test.holds(arguments));
        let case = self.cases.iter().rfind(|(tests, _)| holds(tests));
        case.map_or(self.answer, |(_, answer)| *answer)
    }

    /// Returns the words that some test compares with, and their neighbours.
    fn words(&self) -> Vec<u64> {
        let tests = self.cases.iter().flat_map(|(tests, _)| tests);
        let values = tests.flat_map(|test| match *test {
            Test::Equals(_, value) => vec![u64::from(value)],
            Test::HasAny(_, bits) => (0..64).map(|bit| bits & 1 << bit).collect(),
        });
        let near = |value: u64| [value, value ^ 1, value | 1 << 40, value.wrapping_add(1)];
        let fixed = [0, 1, 0x5401, 0x8000_0000, u64::from(u32::MAX), u64::MAX];
        values.flat_map(near).chain(fixed).collect()
    }

    /// Returns argument lists with each word at each position, the other positions zero or all ones.
    fn arguments(&self) -> impl Iterator<Item = [u64; 6]> {
        let words = self.words();
        let places =
            (0..6).flat_map(move |place| words.clone().into_iter().map(move |w| (place, w)));
        places.flat_map(|(place, word)| {
            [0, u64::MAX].map(|rest| {
                let mut arguments = [rest; 6];
                arguments[place] = word;
                arguments
            })
        })
    }
}

static UNKNOWN: Row = Row {
    name: "?",
    answer: Answer::Errno(libc::ENOSYS as u16),
    cases: Vec::new(),
};

#[test]
fn every_system_call_gets_its_documented_answer() {
    let (rows, policy) = (rows(OWN), Policy::container());
    let program = policy.compile();
    for number in (0..1024).chain([0x3fff_ffff, u32::MAX]) {
        let row = rows.get(&number).unwrap_or(&UNKNOWN);
        for arguments in row.arguments() {
            let call = Call {
                number,
                architecture: super::ARCHITECTURE,
                arguments,
            };
            let expected = row.answer(&arguments);
            let told = (decide(&policy, &call), decode(interpret(&program, &call).0));
            assert_eq!(told, (expected, expected), "{} {call:x?}", row.name);
        }
    }
}

#[test]
fn an_observed_container_gets_the_same_answers_except_for_the_reported_calls() {
    let rows = rows(OWN);
    let program = Policy::container().watch(calls::watched()).compile();
    for number in 0..1024 {
        let row = rows.get(&number).unwrap_or(&UNKNOWN);
        let mut asked = false;
        for arguments in row.arguments() {
            let call = Call {
                number,
                architecture: super::ARCHITECTURE,
                arguments,
            };
            match decode(interpret(&program, &call).0) {
                Answer::Notify => asked = true,
                answer => assert_eq!(answer, row.answer(&arguments), "{} {call:x?}", row.name),
            }
        }
        // The table has none of the ioctl(2) requests that are reported.
        let watched = of(number).is_some() && number != libc::SYS_ioctl as u32;
        assert_eq!(asked, watched, "{number} {}", row.name);
    }
}

#[test]
fn no_number_of_another_abi_is_allowed() {
    let program = Policy::container().compile();
    let architectures = [0x4000_0003, 0x4000_0028, 0xc000_00b7, 0xc000_003e];
    let others = architectures
        .into_iter()
        .filter(|other| *other != super::ARCHITECTURE);
    for architecture in others {
        for number in 0..1024 {
            let call = Call {
                number,
                architecture,
                arguments: [0; 6],
            };
            assert_eq!(
                decode(interpret(&program, &call).0),
                Answer::Kill,
                "{call:x?}"
            );
        }
    }
    for number in FOREIGN.into_iter().flat_map(|first| first..first + 1024) {
        let call = super::call(number.into(), 0);
        assert_eq!(
            decode(interpret(&program, &call).0),
            Answer::Kill,
            "{call:x?}"
        );
    }
}

#[test]
fn both_architectures_give_a_call_the_same_answer() {
    let (x86_64, aarch64) = (rows(X86_64), rows(AARCH64));
    let mut shared = 0;
    for (number, row) in &aarch64 {
        let Some((other, twin)) = x86_64.iter().find(|(_, other)| other.name == row.name) else {
            panic!("{} is a call of AArch64 alone", row.name);
        };
        assert_eq!(row, twin);
        // From 424 on, numbers are the same on all architectures (Linux, scripts/syscall.tbl).
        assert!(*number < 424 || number == other, "{}", row.name);
        shared += 1;
    }
    assert!(shared > 300, "{shared}");
}

#[test]
fn the_documented_list_has_the_numbers_of_this_architecture() {
    for (number, row) in rows(OWN) {
        let known = number_of(row.name);
        assert!(
            known.is_none_or(|known| known == number),
            "{number} {}",
            row.name
        );
    }
}
