//! From a policy to classic BPF over `struct seccomp_data` (linux/seccomp.h, linux/filter.h).

use super::calls::{ARCHITECTURE, FOREIGN};
use super::{Answer, Condition, Policy, Rule};
use libc::sock_filter;
use std::collections::BTreeMap;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Where the two halves of a 64-bit argument are: classic BPF computes in 32 bits.
pub(super) const LOW: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };
pub(super) const HIGH: u32 = 4 - LOW;

// Instructions (linux/bpf_common.h).
pub(super) const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub(super) const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
pub(super) const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
pub(super) const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
pub(super) const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
pub(super) const IF_ABOVE: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
pub(super) const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

pub(super) fn program(policy: &Policy) -> Vec<sock_filter> {
    let ranges = ranges(policy).into_iter();
    let ranges: Vec<_> = ranges.map(|(start, rule)| (start, decide(&rule))).collect();
    let mut program = head(ARCHITECTURE);
    program.extend(search(&ranges));
    program
}

/// Kills calls of other architectures, and has the call's number ready for [`search`].
pub(super) fn head(architecture: u32) -> Vec<sock_filter> {
    vec![
        instruction(LOAD, ARCH),
        branch(IF_EQUAL, architecture, 1, 0),
        answer(Answer::Kill),
        instruction(LOAD, NUMBER),
    ]
}

/// The offset of an argument.
pub(super) fn argument(number: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(number)
}

/// The first number of each range of numbers that share a rule.
fn ranges(policy: &Policy) -> Vec<(u32, Rule)> {
    let otherwise = Rule::always(policy.otherwise);
    let ends = policy
        .rules
        .keys()
        .map(|number| (number + 1, otherwise.clone()));
    let rules = policy
        .rules
        .iter()
        .map(|(number, rule)| (*number, rule.clone()));
    let foreign = FOREIGN.map(|number| (number, Rule::always(Answer::Kill)));
    // What a tracer makes of a call that it skips, -1, is no call of another architecture.
    let skipped = [(u32::MAX, otherwise.clone())];
    // Of those that start with the same number the last one counts.
    let starts = std::iter::once((0, otherwise.clone()))
        .chain(ends)
        .chain(rules)
        .chain(foreign)
        .chain(skipped);
    let starts: BTreeMap<_, _> = starts.collect();
    let mut ranges: Vec<_> = starts.into_iter().collect();
    ranges.dedup_by(|next, range| next.1 == range.1);
    ranges
}

/// Halves the ranges until one is left: as deep as their number's logarithm.
///
/// A range is its first number, and what decides there.
pub(super) fn search(ranges: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    if let [(_, code)] = ranges {
        return code.clone();
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let left = search(below);
    let mut code = match u8::try_from(left.len()) {
        Ok(skip) => vec![branch(IF_AT_LEAST, above[0].0, skip, 0)],
        // A branch skips at most 255 instructions, a jump any number.
        Err(_) => vec![
            branch(IF_AT_LEAST, above[0].0, 0, 1),
            instruction(JUMP, left.len() as u32),
        ],
    };
    code.extend(left);
    code.extend(search(above));
    code
}

fn decide(rule: &Rule) -> Vec<sock_filter> {
    let cases = rule.cases.iter();
    let mut code: Vec<_> = cases
        .flat_map(|(condition, answer)| case(condition, *answer))
        .collect();
    code.push(answer(rule.otherwise));
    code
}

/// Built from its end, so that every branch knows how much it skips.
fn case(condition: &Condition, then: Answer) -> Vec<sock_filter> {
    let argument = argument(condition.argument);
    let mut code = vec![answer(then)];
    for (half, shift) in [(LOW, 0), (HIGH, 32)] {
        let [mask, value] = [condition.mask, condition.value].map(|word| (word >> shift) as u32);
        if mask == 0 {
            continue;
        }
        let mut test = vec![instruction(LOAD, argument + half)];
        if mask != u32::MAX {
            test.push(instruction(AND, mask));
        }
        test.push(branch(IF_EQUAL, value, 0, code.len() as u8));
        test.append(&mut code);
        code = test;
    }
    code
}

fn answer(answer: Answer) -> sock_filter {
    let value = match answer {
        Answer::Allow => libc::SECCOMP_RET_ALLOW,
        Answer::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Answer::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        Answer::Ask => libc::SECCOMP_RET_USER_NOTIF,
    };
    instruction(RETURN, value)
}

pub(super) fn instruction(code: u32, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

/// `jt` and `jf` are how many instructions are skipped when the test holds, and when it does not.
pub(super) fn branch(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = code as u16;
    sock_filter { code, jt, jf, k }
}
