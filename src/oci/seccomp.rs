//! `linux.seccomp` of config.json (runtime-spec, config-linux.md, Seccomp).

use super::config::{refuse, wrong};
use super::process::number;
use crate::error::Result;
use crate::json::Node;
use crate::seccomp::{Case, Comparison, Profile, Test, number_of};
use std::collections::BTreeMap;

/// The most instructions that the kernel takes (linux/bpf_common.h, BPF_MAXINSNS).
const MAX: usize = 4096;

pub(super) fn read(node: &Node<'_>) -> Result<Vec<libc::sock_filter>> {
    if node
        .get("listenerPath")?
        .is_some_and(|path| !path.is_nothing())
    {
        let why = "a process has one listener, and it is imrun's observer";
        return Err(refuse("linux.seccomp.listenerPath", why));
    }
    let errno = node.get("defaultErrnoRet")?;
    let otherwise = action(&node.need("defaultAction")?, errno.as_ref())?;
    let mut cases: BTreeMap<u32, Vec<Case>> = BTreeMap::new();
    let list = node.get("syscalls")?;
    for rule in list.map_or(Ok(Vec::new()), |list| list.list())? {
        let answer = action(&rule.need("action")?, rule.get("errnoRet")?.as_ref())?;
        let args = rule.get("args")?;
        let args = args.map_or(Ok(Vec::new()), |args| args.list())?;
        let tests = args.iter().map(test).collect::<Result<Vec<_>>>()?;
        for name in rule.need("names")?.texts()? {
            // One that this architecture does not have cannot be called.
            if let Some(number) = number_of(&name) {
                let of_call = cases.entry(number).or_default();
                for tests in alternatives(&tests) {
                    of_call.push(Case { tests, answer });
                }
            }
        }
    }
    let program = Profile { cases, otherwise }.compile();
    match program.len() {
        ..=MAX => Ok(program),
        length => Err(wrong(
            "linux.seccomp",
            format_args!("takes {length} instructions, the kernel {MAX}"),
        )),
    }
}

/// Several tests of one argument are alternatives, as libseccomp's users have had it since runc
/// (runc, libcontainer/seccomp, matchCall): each becomes a rule of its own.
fn alternatives(tests: &[Test]) -> Vec<Vec<Test>> {
    let repeated = tests.iter().enumerate().any(|(index, test)| {
        tests[..index]
            .iter()
            .any(|other| other.argument == test.argument)
    });
    match repeated {
        true => tests.iter().map(|test| vec![*test]).collect(),
        false => vec![tests.to_vec()],
    }
}

/// `SECCOMP_RET_*`, with its data.
fn action(node: &Node<'_>, errno: Option<&Node<'_>>) -> Result<u32> {
    const EPERM: u32 = libc::EPERM as u32;
    const LAST: u32 = 4095; // MAX_ERRNO
    let data = match errno.map(number).transpose()? {
        Some(data @ 0..=LAST) => data,
        Some(_) => return Err(node.error("comes with no errno that Linux has")),
        None => EPERM,
    };
    Ok(match node.text()? {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_NOTIFY" => {
            let why = "SCMP_ACT_NOTIFY: a process has one listener, and it is imrun's observer";
            return Err(refuse("linux.seccomp", why));
        }
        _ => return Err(node.error("is no action")),
    })
}

fn test(node: &Node<'_>) -> Result<Test> {
    let argument = number(&node.need("index")?)?;
    let argument = u8::try_from(argument)
        .ok()
        .filter(|argument| *argument < 6)
        .ok_or_else(|| node.error("has an index beyond 5"))?;
    let value = node.need("value")?.word()?;
    let second = node.get("valueTwo")?.map_or(Ok(0), |node| node.word())?;
    let operator = node.need("op")?;
    let (comparison, value) = match operator.text()? {
        "SCMP_CMP_EQ" => (Comparison::Equal, value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, value),
        "SCMP_CMP_LT" => (Comparison::Less, value),
        "SCMP_CMP_LE" => (Comparison::AtMost, value),
        "SCMP_CMP_GT" => (Comparison::Greater, value),
        "SCMP_CMP_GE" => (Comparison::AtLeast, value),
        // Bits of the value that the mask leaves out would never be met.
        "SCMP_CMP_MASKED_EQ" => (Comparison::Masked(value), second & value),
        _ => return Err(operator.error("is no comparison")),
    };
    Ok(Test {
        argument,
        comparison,
        value,
    })
}
