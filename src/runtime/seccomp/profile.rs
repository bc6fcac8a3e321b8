//! Seccomp profiles of bundles (OCI runtime specification), compiled unchanged. The kernel runs them in
//! addition to the container's own filter and takes the stricter answer.

use super::calls::{ARCHITECTURE, FOREIGN};
use super::compile::{
    AND, HIGH, IF_ABOVE, IF_AT_LEAST, IF_EQUAL, JUMP, LOAD, LOW, RETURN, argument, branch, head,
    instruction, search,
};
use libc::sock_filter;
use std::collections::BTreeMap;

/// Comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    AtMost,
    /// Greater.
    Greater,
    /// Greater or equal.
    AtLeast,
    /// Equal in these bits.
    Masked(u64),
}

/// Condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Index of the argument, 0 to 5.
    pub argument: u8,
    /// Comparison.
    pub comparison: Comparison,
    /// Value to compare with.
    pub value: u64,
}

/// Answer to a call if all tests hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Tests; if empty, the case always applies.
    pub tests: Vec<Test>,
    /// Answer: `SECCOMP_RET_*` with its data.
    pub answer: u32,
}

/// A complete profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Cases by the call's number; the first one that applies counts.
    pub cases: BTreeMap<u32, Vec<Case>>,
    /// Answer if no case applies.
    pub otherwise: u32,
}

impl Profile {
    /// Compiles the profile to a BPF program. Calls of other architectures kill the process.
    pub fn compile(&self) -> Vec<sock_filter> {
        let otherwise = vec![instruction(RETURN, self.otherwise)];
        let mut starts = BTreeMap::from([(0, otherwise.clone())]);
        for number in self.cases.keys() {
            starts.insert(number + 1, otherwise.clone());
        }
        for (number, cases) in &self.cases {
            starts.insert(*number, decide(cases, self.otherwise));
        }
        if let Some(foreign) = FOREIGN {
            let kill = instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS);
            starts.insert(foreign, vec![kill]);
            starts.insert(u32::MAX, otherwise);
        }
        let ranges: Vec<_> = starts.into_iter().collect();
        let mut program = head(ARCHITECTURE);
        program.extend(search(&ranges));
        program
    }
}

fn decide(cases: &[Case], otherwise: u32) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for case in cases {
        // Built from the end, so that each test knows how many instructions it skips.
        let mut then = vec![instruction(RETURN, case.answer)];
        for test in case.tests.iter().rev() {
            let mut whole = test.code(then.len());
            whole.append(&mut then);
            then = whole;
        }
        code.append(&mut then);
    }
    code.push(instruction(RETURN, otherwise));
    code
}

impl Test {
    /// Generates code that continues after itself if the test holds, else skips `rest` further
    /// instructions.
    fn code(&self, rest: usize) -> Vec<sock_filter> {
        let [low, high] = [
            argument(self.argument) + LOW,
            argument(self.argument) + HIGH,
        ];
        let [below, above] = [self.value as u32, (self.value >> 32) as u32];
        // Each part ends at `yes`, the second next instruction, or at `no`, the next one.
        let ordered = |below_is| {
            vec![
                instruction(LOAD, high),
                branch(IF_ABOVE, above, 4, 0),
                branch(IF_EQUAL, above, 0, 2),
                instruction(LOAD, low),
                branch(below_is, below, 1, 0),
            ]
        };
        let mut code = match self.comparison {
            Comparison::Equal | Comparison::NotEqual => vec![
                instruction(LOAD, high),
                branch(IF_EQUAL, above, 0, 2),
                instruction(LOAD, low),
                branch(IF_EQUAL, below, 1, 0),
            ],
            Comparison::Masked(mask) => vec![
                instruction(LOAD, high),
                instruction(AND, (mask >> 32) as u32),
                branch(IF_EQUAL, above, 0, 3),
                instruction(LOAD, low),
                instruction(AND, mask as u32),
                branch(IF_EQUAL, below, 1, 0),
            ],
            Comparison::AtLeast | Comparison::Less => ordered(IF_AT_LEAST),
            Comparison::Greater | Comparison::AtMost => ordered(IF_ABOVE),
        };
        let skip = instruction(JUMP, rest as u32);
        let inverted = matches!(
            self.comparison,
            Comparison::NotEqual | Comparison::Less | Comparison::AtMost
        );
        match inverted {
            // no: jump; yes: continue.
            false => code.push(skip),
            // no: skip the jump; yes: jump.
            true => code.extend([instruction(JUMP, 1), skip]),
        }
        code
    }
}
