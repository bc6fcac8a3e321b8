//! Hosts that lack a feature, simulated by a filter that makes one system call fail.

use crate::host::{Host, assert_refused};
use crate::skip::is_unpacked;
use imrun::runtime::seccomp::{Answer, Policy, Rule};
use std::collections::BTreeMap;
use std::process::Output;

/// Launches while the system call `number` fails with `errno`, in imrun and in the container.
fn launch_without(host: &Host, options: &[&str], number: libc::c_long, errno: i32) -> Output {
    let fails = Rule::always(Answer::Errno(errno as u16));
    let policy = Policy {
        rules: BTreeMap::from([(number as u32, fails)]),
        otherwise: Answer::Allow,
    };
    let mut launch = host.launch(options, &["memfd"]);
    // The filter applies to this thread and its children.
    let thread = std::thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            // An ordinary user needs this for a filter.
            nix::sys::prctl::set_no_new_privs().unwrap();
            imrun::base::sys::seccomp::install(&policy.compile()).unwrap();
            launch.output().unwrap()
        });
        filtered.join()
    });
    thread.unwrap()
}

#[test]
fn youki_a_kernel_without_seccomp_stops_the_launch() {
    let host = host!();
    let output = launch_without(&host, &[], libc::SYS_seccomp, libc::ENOSYS);
    assert_refused(&output, 125, "seccomp: this kernel cannot filter");
}

#[test]
fn a_kernel_without_landlock_stops_the_launch_and_the_hint_names_the_setting() {
    let host = host!();
    for errno in [libc::ENOSYS, libc::EOPNOTSUPP] {
        let output = launch_without(&host, &[], libc::SYS_landlock_create_ruleset, errno);
        assert_refused(&output, 125, "Landlock: this kernel has none");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("lsm="),
            "{output:?}"
        );
    }
}

/// A call may report success without effect, so imrun checks the kernel's table of mounts.
#[test]
fn a_mount_table_that_is_not_the_expected_one_stops_the_launch() {
    let host = host!();
    for (number, what) in [
        (libc::SYS_mount_setattr, "is not read-only in the container"),
        // The host's root is still mounted, and writable.
        (
            libc::SYS_umount2,
            "mount \"/\": is not read-only in the container",
        ),
    ] {
        let output = launch_without(&host, &[], number, 0);
        assert_refused(&output, 125, what);
    }
}

#[test]
fn crun_2262_every_failed_call_stops_the_launch() {
    let host = host!();
    let calls = [
        (libc::SYS_fsopen, "fsopen("),
        (libc::SYS_fsconfig, "fsconfig("),
        (libc::SYS_fsmount, ""),
        (libc::SYS_move_mount, "move_mount("),
        (
            libc::SYS_open_tree,
            if is_unpacked() {
                "open_tree("
            } else {
                "move_mount("
            },
        ),
        (libc::SYS_mount_setattr, "mount_setattr("),
        (libc::SYS_mount, "mount("),
        (libc::SYS_pivot_root, "pivot_root("),
        (libc::SYS_umount2, "umount2("),
        (libc::SYS_unshare, "unshare("),
        (libc::SYS_sethostname, "sethostname("),
        (libc::SYS_setsid, "setsid("),
        (libc::SYS_setgroups, "setresuid("),
        (libc::SYS_setresgid, "setresuid("),
        (libc::SYS_setresuid, "setresuid"),
        (libc::SYS_capset, "capset("),
        (libc::SYS_prctl, "prctl("),
        (libc::SYS_landlock_add_rule, "landlock_add_rule("),
        (libc::SYS_landlock_restrict_self, "landlock_restrict_self("),
        (libc::SYS_close_range, "close_range("),
    ];
    // An ordinary user keeps the groups, so the child fails first.
    let ordinary = !nix::unistd::geteuid().is_root();
    for (number, name) in calls {
        if ordinary && number == libc::SYS_setgroups {
            continue;
        }
        let name = if ordinary {
            name.trim_end_matches('(')
        } else {
            name
        };
        let output = launch_without(&host, &[], number, libc::EINVAL);
        assert_refused(&output, 125, name);
    }
    let output = launch_without(&host, &["--net", "host"], libc::SYS_open_tree, libc::EINVAL);
    assert_refused(&output, 125, "open_tree(");
}
