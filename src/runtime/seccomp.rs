//! System calls that the app may make, and the program with which the kernel decides (seccomp(2)).
//!
//! A policy is data, and its program a pure function of it: a binary search for the call's number, so
//! that each call costs only a few comparisons.
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

/// Answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel makes the call.
    Allow,
    /// The call is not made and fails with this errno; with 0 it seems to have succeeded.
    Errno(u16),
    /// The kernel kills the process (SIGSYS).
    Kill,
    /// The call waits for the answer of the filter's listener (seccomp_unotify(2)).
    Notify,
}

/// Condition `argument & mask == value`; the kernel ignores the bits outside the mask, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Index of the argument, 0 to 5.
    pub argument: u8,
    /// Bits to compare.
    pub mask: u64,
    /// Expected value of these bits.
    pub value: u64,
}

/// Rule for one call number: the answer of the first condition that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Conditions and answers, tried in order.
    pub cases: Vec<(Condition, Answer)>,
    /// Answer if no condition holds.
    pub otherwise: Answer,
}

impl Rule {
    /// Makes a rule with one answer, whatever the arguments.
    pub fn always(answer: Answer) -> Rule {
        Rule {
            cases: Vec::new(),
            otherwise: answer,
        }
    }
}

/// Calls of one number that are reported to the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// All of them.
    Always,
    /// Only calls that meet the condition.
    Where(Condition),
    /// Only calls that do not meet the condition.
    Unless(Condition),
}

/// Policy for all calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Rules, by the call's number on this architecture.
    pub rules: BTreeMap<u32, Rule>,
    /// Answer for numbers without a rule. ENOSYS lets a C library fall back to an older call.
    pub otherwise: Answer,
}

impl Policy {
    /// Returns the policy of every container.
    pub fn container() -> Policy {
        calls::container()
    }

    /// Returns this policy with the `watched` calls reported to the listener.
    pub fn watch(mut self, watched: impl IntoIterator<Item = (u32, Watch)>) -> Policy {
        for (number, watch) in watched {
            let rule = self.rules.entry(number);
            let rule = rule.or_insert_with(|| Rule::always(self.otherwise));
            match watch {
                Watch::Always => *rule = Rule::always(Answer::Notify),
                Watch::Where(condition) => rule.cases.insert(0, (condition, Answer::Notify)),
                Watch::Unless(condition) => {
                    rule.cases.insert(0, (condition, rule.otherwise));
                    rule.otherwise = Answer::Notify;
                }
            }
        }
        self
    }

    /// Returns this policy with executable memfds denied (memfd_create(2)). It replaces the sysctl
    /// `vm.memfd_noexec`, which only the host's root can set, and only since Linux 6.3.
    pub fn without_executable_memory(mut self) -> Policy {
        self.rules
            .insert(libc::SYS_memfd_create as u32, calls::memory());
        self
    }

    /// Compiles the policy to a BPF program.
    pub fn compile(&self) -> Vec<sock_filter> {
        compile::program(self)
    }
}

#[cfg(test)]
mod tests;
