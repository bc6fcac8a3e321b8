//! Compiler from a policy to classic BPF over `struct seccomp_data` (linux/seccomp.h, linux/filter.h).

use super::calls::{ARCHITECTURE, FOREIGN};
use super::{Answer, Condition, Policy, Rule};
use libc::sock_filter;
use std::collections::BTreeMap;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Offsets of the two halves of a 64-bit argument: classic BPF computes in 32 bits.
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

/// Generates code that kills calls of other architectures and loads the call's number for [`search`].
pub(super) fn head(architecture: u32) -> Vec<sock_filter> {
    vec![
        instruction(LOAD, ARCH),
        branch(IF_EQUAL, architecture, 1, 0),
        answer(Answer::Kill),
        instruction(LOAD, NUMBER),
    ]
}

/// Returns the offset of an argument.
pub(super) fn argument(number: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(number)
}

/// Returns the ranges of numbers that share a rule, each with its first number.
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
    // -1, which a tracer sets to skip a call, is not a call of another architecture.
    let skipped = [(u32::MAX, otherwise.clone())];
    // If several start with the same number, the last one counts.
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

/// Generates a binary search over the ranges.
///
/// A range is its first number and the code that decides there.
pub(super) fn search(ranges: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    if let [(_, code)] = ranges {
        return code.clone();
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let left = search(below);
    let mut code = if_below(above[0].0, left.len());
    code.extend(left);
    code.extend(search(above));
    code
}

fn decide(rule: &Rule) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for cases in rule
        .cases
        .chunk_by(|(one, _), (next, _)| is_choice(one, next))
    {
        match cases {
            [(condition, answer)] => code.extend(case(condition, *answer)),
            _ => code.extend(choice(cases)),
        }
    }
    code.push(answer(rule.otherwise));
    code
}

/// Returns true if both conditions compare the lower half of one argument, and nothing else.
fn is_choice(one: &Condition, next: &Condition) -> bool {
    let half = u64::from(u32::MAX);
    let is_half = |condition: &Condition| condition.mask == half && condition.value <= half;
    one.argument == next.argument && is_half(one) && is_half(next)
}

/// Generates code that loads the argument once and looks up its value; continues after the code if no
/// case holds.
fn choice(cases: &[(Condition, Answer)]) -> Vec<sock_filter> {
    let load = instruction(LOAD, argument(cases[0].0.argument) + LOW);
    let mut answers = BTreeMap::new();
    for (condition, answer) in cases {
        // The first case that holds counts.
        answers.entry(condition.value as u32).or_insert(*answer);
    }
    let answers: Vec<_> = answers.into_iter().collect();
    [vec![load], look_up(&answers)].concat()
}

/// Generates a binary search over the sorted values.
fn look_up(values: &[(u32, Answer)]) -> Vec<sock_filter> {
    if let [_] | [_, _] = values {
        let test = |(value, then): &(u32, Answer)| [branch(IF_EQUAL, *value, 0, 1), answer(*then)];
        return values.iter().flat_map(test).collect();
    }
    let (below, above) = values.split_at(values.len() / 2);
    let (mut left, right) = (look_up(below), look_up(above));
    left.push(instruction(JUMP, right.len() as u32));
    [if_below(above[0].0, left.len()), left, right].concat()
}

/// Generates code that continues after itself if the loaded word is below `value`, else skips `length`
/// instructions.
fn if_below(value: u32, length: usize) -> Vec<sock_filter> {
    match u8::try_from(length) {
        Ok(skip) => vec![branch(IF_AT_LEAST, value, skip, 0)],
        // A branch skips at most 255 instructions, a jump any number.
        Err(_) => vec![
            branch(IF_AT_LEAST, value, 0, 1),
            instruction(JUMP, length as u32),
        ],
    }
}

/// Generates the code of one condition, from its end, so that each branch knows how many instructions it
/// skips.
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
        Answer::Notify => libc::SECCOMP_RET_USER_NOTIF,
    };
    instruction(RETURN, value)
}

pub(super) fn instruction(code: u32, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

/// Makes an instruction; `jt` and `jf` are the numbers of instructions to skip if the test holds and if
/// it does not.
pub(super) fn branch(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = code as u16;
    sock_filter { code, jt, jf, k }
}
