mod table;

use super::calls::ARCHITECTURE;
use super::{Answer, Condition, Policy, Rule};
use libc::sock_filter;
use proptest::prelude::*;
use std::collections::BTreeMap;

const DENIED: Answer = Answer::Errno(libc::EPERM as u16);
const MISSING: Answer = Answer::Errno(libc::ENOSYS as u16);

/// A system call as the kernel presents it to a filter.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

fn call(number: libc::c_long, first: u64) -> Call {
    Call {
        number: number as u32,
        architecture: ARCHITECTURE,
        arguments: [first, 0, 0, 0, 0, 0],
    }
}

impl Call {
    /// struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6].
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.number.to_ne_bytes(), self.architecture.to_ne_bytes()].concat();
        bytes.extend(0xdead_beef_u64.to_ne_bytes());
        bytes.extend(
            self.arguments
                .iter()
                .flat_map(|argument| argument.to_ne_bytes()),
        );
        bytes
    }
}

/// Interprets classic BPF as Documentation/networking/filter.rst defines it, restricted to what seccomp
/// accepts. Returns the result and the number of instructions.
fn interpret(program: &[sock_filter], call: &Call) -> (u32, usize) {
    let data = call.bytes();
    let (mut accumulator, mut at) = (0u32, 0usize);
    for steps in 1.. {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        match code {
            0x20 => {
                assert_eq!(k % 4, 0, "a filter loads aligned words");
                let word = &data[k as usize..k as usize + 4];
                accumulator = u32::from_ne_bytes(word.try_into().unwrap());
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(accumulator == k),
            0x25 => at += branch(accumulator > k),
            0x35 => at += branch(accumulator >= k),
            0x06 => return (k, steps),
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
    unreachable!()
}

/// Evaluates the policy in the simplest way.
fn decide(policy: &Policy, call: &Call) -> Answer {
    let foreign = (0x4000_0000..u32::MAX).contains(&call.number);
    if call.architecture != ARCHITECTURE || foreign {
        return Answer::Kill;
    }
    let Some(rule) = policy.rules.get(&call.number) else {
        return policy.otherwise;
    };
    for (condition, answer) in &rule.cases {
        let argument = call.arguments[usize::from(condition.argument)];
        if argument & condition.mask == condition.value {
            return *answer;
        }
    }
    rule.otherwise
}

fn decode(value: u32) -> Answer {
    match (value & 0xffff_0000, value & 0xffff) {
        (0x7fff_0000, 0) => Answer::Allow,
        (0x0005_0000, errno) => Answer::Errno(errno as u16),
        (0x8000_0000, 0) => Answer::Kill,
        (0x7fc0_0000, 0) => Answer::Notify,
        _ => panic!("unknown answer {value:#x}"),
    }
}

fn container(call: Call) -> Answer {
    decode(interpret(&Policy::container().compile(), &call).0)
}

#[track_caller]
fn check(policy: &Policy, program: &[sock_filter], call: &Call) {
    let answer = decode(interpret(program, call).0);
    assert_eq!(answer, decide(policy, call), "{call:x?}");
}

#[test]
fn every_call_with_any_argument_gets_the_answer_of_the_policy() {
    let policy = Policy::container();
    let program = policy.compile();
    let conditions = policy.rules.values().flat_map(|rule| &rule.cases);
    let mut words: Vec<u64> = conditions.map(|(condition, _)| condition.value).collect();
    words.extend((0..64).map(|bit| 1 << bit));
    words.extend([u64::MAX, u64::from(u32::MAX), 1 << 32 | 1]);
    words.extend(words.clone().iter().map(|word| word | 1 << 40));
    let edges = [
        0x3fff_ffff,
        0x4000_0000,
        0x4000_0001,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ];
    for number in (0..1024).chain(edges) {
        let decided = policy
            .rules
            .get(&number)
            .is_some_and(|rule| !rule.cases.is_empty());
        for word in words.iter().take(if decided { words.len() } else { 3 }) {
            for argument in 0..6 {
                let mut call = call(number.into(), 0);
                call.arguments[argument] = *word;
                check(&policy, &program, &call);
            }
        }
    }
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Allow),
        Just(Answer::Kill),
        any::<u16>().prop_map(Answer::Errno)
    ]
}

/// Generates words of few bits, so that conditions sometimes hold.
fn any_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        0..4u64,
        (0..4u64).prop_map(|word| word << 32),
        any::<u64>()
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let condition = (0..6u8, any_word(), any_word());
    let case = (condition, any_answer()).prop_map(|((argument, mask, value), answer)| {
        let value = value & mask;
        (
            Condition {
                argument,
                mask,
                value,
            },
            answer,
        )
    });
    let cases = proptest::collection::vec(case, 0..4);
    (cases, any_answer()).prop_map(|(cases, otherwise)| Rule { cases, otherwise })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let rules = proptest::collection::btree_map(0..500u32, any_rule(), 0..200);
    (rules, any_answer()).prop_map(|(rules, otherwise)| Policy { rules, otherwise })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_policy_is_compiled_faithfully(
        policy in any_policy(),
        arguments in proptest::collection::vec(proptest::array::uniform6(any_word()), 8),
    ) {
        let program = policy.compile();
        for number in 0..502 {
            for arguments in &arguments {
                let call = Call { number, architecture: ARCHITECTURE, arguments: *arguments };
                check(&policy, &program, &call);
            }
        }
    }
}

#[test]
fn no_call_costs_more_than_a_few_comparisons() {
    let program = Policy::container().compile();
    assert!(
        program.len() <= libc::BPF_MAXINSNS as usize,
        "{}",
        program.len()
    );
    let cost = |number| interpret(&program, &call(number, 0)).1;
    let longest = (0..1024).map(cost).max().unwrap();
    assert!(longest <= 24, "{longest} instructions");
}

#[test]
fn the_observers_calls_make_no_other_call_much_slower() {
    let watched = Policy::container().watch(crate::runtime::observe::calls::watched());
    let program = watched.compile();
    assert!(program.len() <= 480, "{}", program.len());
    let requests = [libc::TCGETS, libc::FIONBIO, libc::TIOCGWINSZ, 0, u64::MAX];
    let cost = |number, request| {
        let mut call = call(number, 0);
        call.arguments[1] = request;
        interpret(&program, &call).1
    };
    let costs = (0..1024).flat_map(|number| requests.map(|request| cost(number, request)));
    let longest = costs.max().unwrap();
    assert!(longest <= 24, "{longest} instructions");
}

#[test]
fn another_architecture_and_x32_are_killed_whatever_they_call() {
    for number in [libc::SYS_read, libc::SYS_write, 9999] {
        for architecture in [0, 0x4000_0003, 0xc000_00b7, ARCHITECTURE + 1] {
            let foreign = Call {
                architecture,
                ..call(number, 0)
            };
            assert_eq!(container(foreign), Answer::Kill);
        }
        assert_eq!(container(call(number | 0x4000_0000, 0)), Answer::Kill);
    }
}

#[test]
fn calls_that_change_the_machine_are_denied() {
    use libc::*;
    let denied = [
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_fsopen,
        SYS_fsconfig,
        SYS_fsmount,
        SYS_fspick,
        SYS_move_mount,
        SYS_open_tree,
        SYS_mount_setattr,
        467,
        SYS_setns,
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_keyctl,
        SYS_add_key,
        SYS_request_key,
        SYS_bpf,
        SYS_userfaultfd,
        SYS_perf_event_open,
        SYS_io_uring_setup,
        SYS_io_uring_enter,
        SYS_io_uring_register,
        SYS_kexec_load,
        SYS_kexec_file_load,
        SYS_init_module,
        SYS_finit_module,
        SYS_delete_module,
        SYS_swapon,
        SYS_swapoff,
        SYS_reboot,
        SYS_settimeofday,
        SYS_clock_settime,
        SYS_clock_adjtime,
        SYS_acct,
        SYS_quotactl,
        SYS_nfsservctl,
        SYS_name_to_handle_at,
        SYS_open_by_handle_at,
        SYS_iopl,
        SYS_ioperm,
    ];
    for number in denied {
        assert_eq!(container(call(number, 0)), DENIED, "{number}");
    }
}

#[test]
fn unknown_and_opaque_calls_fail_with_enosys() {
    for number in [
        libc::SYS_clone3,
        libc::SYS_openat2,
        libc::SYS_memfd_secret,
        470,
        1000,
        0x3fff_ffff,
    ] {
        assert_eq!(container(call(number, 0)), MISSING, "{number}");
    }
}

#[test]
fn threads_and_processes_can_be_created_but_no_namespaces() {
    let thread = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    for flags in [
        0,
        libc::SIGCHLD,
        thread,
        libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
    ] {
        assert_eq!(
            container(call(libc::SYS_clone, flags as u64)),
            Answer::Allow,
            "{flags:#x}"
        );
    }
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    for flag in namespaces {
        for others in [0, libc::SIGCHLD, libc::CLONE_VM] {
            let flags = (flag | others) as u64;
            assert_eq!(
                container(call(libc::SYS_clone, flags)),
                DENIED,
                "{flags:#x}"
            );
            assert_eq!(
                container(call(libc::SYS_clone, flags | 1 << 32)),
                DENIED,
                "{flags:#x}"
            );
            assert_eq!(
                container(call(libc::SYS_unshare, flags)),
                DENIED,
                "{flags:#x}"
            );
        }
    }
    assert_eq!(
        container(call(libc::SYS_unshare, libc::CLONE_FILES as u64)),
        Answer::Allow
    );
    assert_eq!(
        container(call(libc::SYS_unshare, 0x80)),
        DENIED,
        "CLONE_NEWTIME"
    );
}

#[test]
fn setting_the_parent_death_signal_seems_to_succeed_and_changes_nothing() {
    let pdeathsig = libc::PR_SET_PDEATHSIG as u64;
    for option in [pdeathsig, pdeathsig | 1 << 32] {
        assert_eq!(container(call(libc::SYS_prctl, option)), Answer::Errno(0));
    }
    assert_eq!(
        container(call(libc::SYS_prctl, libc::PR_SET_NAME as u64)),
        Answer::Allow
    );
}

#[test]
fn setting_the_core_dump_limit_seems_to_succeed_and_changes_nothing() {
    let core = libc::RLIMIT_CORE.into();
    let mut prlimit = call(libc::SYS_prlimit64, 0);
    for number in [core, core | 1 << 32] {
        assert_eq!(
            container(call(libc::SYS_setrlimit, number)),
            Answer::Errno(0)
        );
        prlimit.arguments = [0, number, 1 << 40, 0, 0, 0];
        assert_eq!(container(prlimit), Answer::Errno(0));
        prlimit.arguments = [0, number, 0, 1, 0, 0];
        assert_eq!(container(prlimit), Answer::Allow, "reading it");
    }
    let files = libc::RLIMIT_NOFILE.into();
    assert_eq!(container(call(libc::SYS_setrlimit, files)), Answer::Allow);
    prlimit.arguments = [0, files, 1, 0, 0, 0];
    assert_eq!(container(prlimit), Answer::Allow);
}

#[test]
fn no_asynchronous_io_context_can_be_created() {
    let calls = [
        libc::SYS_io_setup,
        libc::SYS_io_destroy,
        libc::SYS_io_submit,
        libc::SYS_io_cancel,
        libc::SYS_io_getevents,
    ];
    for number in calls {
        assert_eq!(container(call(number, 1)), MISSING, "{number}");
    }
}

#[test]
fn nothing_is_pasted_into_a_terminal() {
    for request in [libc::TIOCSTI, libc::TIOCSTI | 1 << 32, 0x541c] {
        let mut ioctl = call(libc::SYS_ioctl, 0);
        ioctl.arguments[1] = request;
        assert_eq!(container(ioctl), DENIED, "{request:#x}");
        ioctl.arguments = [request, libc::TCGETS, 0, 0, 0, 0];
        assert_eq!(container(ioctl), Answer::Allow);
    }
}

#[test]
fn only_the_usual_address_families_exist() {
    let known = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ];
    let expected = |family| {
        if known.contains(&family) {
            Answer::Allow
        } else {
            Answer::Errno(libc::EAFNOSUPPORT as u16)
        }
    };
    for family in 0..64 {
        for number in [libc::SYS_socket, libc::SYS_socketpair] {
            assert_eq!(
                container(call(number, family as u64)),
                expected(family),
                "{family}"
            );
        }
    }
}

#[test]
fn adjacent_rules_with_one_answer_share_a_range() {
    let rules = (0..100).map(|number| (number, Rule::always(Answer::Allow)));
    let policy = Policy {
        rules: rules.collect(),
        otherwise: MISSING,
    };
    let one = Policy {
        rules: BTreeMap::from([(99, Rule::always(Answer::Allow))]),
        otherwise: MISSING,
    };
    assert!(policy.compile().len() < one.compile().len());
}

#[test]
fn a_foreign_profile_compares_whole_arguments() {
    use super::{Case, Comparison, Profile, Test};
    const VALUE: u64 = 0x1_0000_0005;
    let around = [
        0,
        4,
        5,
        6,
        VALUE - 1,
        VALUE,
        VALUE + 1,
        0x2_0000_0005,
        u64::MAX,
    ];
    type Holds = fn(u64) -> bool;
    let comparisons: [(Comparison, Holds); 7] = [
        (Comparison::Equal, |value| value == VALUE),
        (Comparison::NotEqual, |value| value != VALUE),
        (Comparison::Less, |value| value < VALUE),
        (Comparison::AtMost, |value| value <= VALUE),
        (Comparison::Greater, |value| value > VALUE),
        (Comparison::AtLeast, |value| value >= VALUE),
        (Comparison::Masked(0x1_0000_000f), |value| {
            value & 0x1_0000_000f == VALUE
        }),
    ];
    for (comparison, holds) in comparisons {
        let test = Test {
            argument: 2,
            comparison,
            value: VALUE,
        };
        // A second test, so that the first has something to skip.
        let other = Test {
            argument: 0,
            comparison: Comparison::Equal,
            value: 0,
        };
        let case = Case {
            tests: vec![test, other],
            answer: libc::SECCOMP_RET_TRAP,
        };
        let profile = Profile {
            cases: [(9, vec![case])].into(),
            otherwise: libc::SECCOMP_RET_ALLOW,
        };
        let program = profile.compile();
        for value in around {
            let call = |number| Call {
                number,
                arguments: [0, 0, value, 0, 0, 0],
                architecture: ARCHITECTURE,
            };
            let expected = if holds(value) {
                libc::SECCOMP_RET_TRAP
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(
                interpret(&program, &call(9)).0,
                expected,
                "{comparison:?} {value:#x}"
            );
            for number in [8, 10] {
                assert_eq!(
                    interpret(&program, &call(number)).0,
                    libc::SECCOMP_RET_ALLOW
                );
            }
        }
    }
}
