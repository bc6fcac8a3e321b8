//! A filter that somebody else wrote, as the OCI runtime specification has them: compiled as it is, to
//! be passed beside the container's own. Of two answers the kernel takes the stricter one.

use super::calls::{ARCHITECTURE, FOREIGN};
use super::compile::{
    AND, HIGH, IF_ABOVE, IF_AT_LEAST, IF_EQUAL, JUMP, LOAD, LOW, RETURN, argument, branch, head,
    instruction, search,
};
use libc::sock_filter;
use std::collections::BTreeMap;

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less, or equal.
    AtMost,
    /// Greater.
    Greater,
    /// Greater, or equal.
    AtLeast,
    /// Equal in these bits.
    Masked(u64),
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// From 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// What a call gets when all its tests hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// None: always.
    pub tests: Vec<Test>,
    /// `SECCOMP_RET_*`, with its data.
    pub answer: u32,
}

/// A whole filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// By the call's number; the first case that holds counts.
    pub cases: BTreeMap<u32, Vec<Case>>,
    /// Where none does.
    pub otherwise: u32,
}

impl Profile {
    /// The program that gives each call its answer. Calls of other architectures kill.
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
        // Built from its end, so that every test knows how much it skips.
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
    /// Goes on behind itself where it holds, else skips `rest` instructions more.
    fn code(&self, rest: usize) -> Vec<sock_filter> {
        let [low, high] = [
            argument(self.argument) + LOW,
            argument(self.argument) + HIGH,
        ];
        let [below, above] = [self.value as u32, (self.value >> 32) as u32];
        // Each part ends at `yes`, the next instruction but one, or at `no`, the next.
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
            // no: jump; yes: what follows.
            false => code.push(skip),
            // no: over the jump; yes: the jump.
            true => code.extend([instruction(JUMP, 1), skip]),
        }
        code
    }
}
