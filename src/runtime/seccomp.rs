//! Which system calls the app may make, and the program by which the kernel decides (seccomp(2)).
//!
//! A policy is data, and its program a pure function of it: a binary search for the call's number,
//! so that no call costs more than a few comparisons, with the answer at its end.
#![forbid(unsafe_code)]

mod calls;
mod compile;
mod names;
pub(crate) mod numbers;
mod profile;

use libc::sock_filter;
use std::collections::BTreeMap;

pub use names::number as number_of;
pub use profile::{Case, Comparison, Profile, Test};

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call is made.
    Allow,
    /// The call is not made, and fails with this errno; with 0 it seems to have worked.
    Errno(u16),
    /// The process is killed (SIGSYS).
    Kill,
    /// Whoever listens is asked; the call waits for what it says (seccomp_unotify(2)).
    Ask,
}

/// Holds when `argument & mask == value`; what the mask leaves out the kernel ignores as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub argument: u8,
    /// The bits that count.
    pub mask: u64,
    /// What they have to be.
    pub value: u64,
}

/// What a call of one number gets: the answer of the first condition that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Tried in order.
    pub cases: Vec<(Condition, Answer)>,
    /// Where none holds.
    pub otherwise: Answer,
}

impl Rule {
    /// The same answer whatever the arguments.
    pub fn always(answer: Answer) -> Rule {
        Rule {
            cases: Vec::new(),
            otherwise: answer,
        }
    }
}

/// Which of the calls of one number are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// All.
    Always,
    /// Those of which the condition holds.
    Where(Condition),
    /// Those of which it does not.
    Unless(Condition),
}

/// What every call gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// By the call's number on this architecture.
    pub rules: BTreeMap<u32, Rule>,
    /// For the numbers that no rule names. ENOSYS lets a C library fall back to an older call.
    pub otherwise: Answer,
}

impl Policy {
    /// What every container gets.
    pub fn container() -> Policy {
        calls::container()
    }

    /// The same, but that calls which meet one of these are asked about.
    pub fn watch(mut self, watched: impl IntoIterator<Item = (u32, Watch)>) -> Policy {
        for (number, watch) in watched {
            let rule = self.rules.entry(number);
            let rule = rule.or_insert_with(|| Rule::always(self.otherwise));
            match watch {
                Watch::Always => *rule = Rule::always(Answer::Ask),
                Watch::Where(condition) => rule.cases.insert(0, (condition, Answer::Ask)),
                Watch::Unless(condition) => {
                    rule.cases.insert(0, (condition, rule.otherwise));
                    rule.otherwise = Answer::Ask;
                }
            }
        }
        self
    }

    /// The same, but that no memory can be executed by a descriptor (memfd_create(2)): in place of the
    /// sysctl `vm.memfd_noexec`, which only root of the host can set, and Linux 6.3 is the first to have.
    pub fn without_executable_memory(mut self) -> Policy {
        self.rules
            .insert(libc::SYS_memfd_create as u32, calls::memory());
        self
    }

    /// The program that gives each call its answer.
    pub fn compile(&self) -> Vec<sock_filter> {
        compile::program(self)
    }
}

#[cfg(test)]
mod tests;
