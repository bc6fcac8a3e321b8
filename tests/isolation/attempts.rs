//! Objects that a read-only file system alone would leave writable or reachable.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Returns true if imrun can set vm.memfd_noexec: as root, from Linux 6.3 on.
pub fn sets_memfd_noexec() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    is_root && std::fs::exists("/proc/sys/vm/memfd_noexec").unwrap()
}

const USERS: [&[&str]; 2] = [&["-u", "0"], &["-u", "1000:1000"]];

#[test]
fn no_ipc_object_can_be_created() {
    let host = host!();
    let objects = [
        ("shmget", "ENOSPC"),
        ("msgget", "ENOSPC"),
        ("semget", "EINVAL"),
        ("mq_open", "ENOSPC"),
    ];
    for user in USERS {
        host.expect(user, &objects);
    }
}

#[test]
fn keyrings_are_unavailable() {
    let host = host!();
    host.expect(
        &[],
        &[
            ("add_key", "EPERM"),
            ("keyctl", "EPERM"),
            ("request_key", "EPERM"),
        ],
    );
}

#[test]
fn memory_files_cannot_be_executed() {
    let host = host!();
    // Without vm.memfd_noexec, imrun refuses memory files that could become executable.
    let plain = if sets_memfd_noexec() { "ok" } else { "EACCES" };
    // Before Linux 6.3 the flag is unknown.
    let known = std::fs::exists("/proc/sys/vm/memfd_noexec").unwrap();
    let sealed = if known { "ok" } else { "EINVAL" };
    host.expect(
        &[],
        &[
            ("memfd_noexec", sealed),
            ("memfd", plain),
            ("memfd_exec", "EACCES"),
            ("memfd_run", "EACCES"),
        ],
    );
}

#[test]
fn mounts_and_namespaces_are_refused() {
    let host = host!();
    let denied = [
        "mount",
        "remount",
        "remount_bind",
        "umount",
        "fsopen",
        "open_tree",
        "mount_setattr",
        "pivot_root",
        "unshare_user",
        "unshare_mount",
        "clone_user",
        "setns",
        "chroot",
    ];
    let expected: Vec<_> = denied.map(|name| (name, "EPERM")).into();
    for user in USERS {
        host.expect(user, &expected);
    }
    host.expect(&[], &[("clone3", "ENOSYS"), ("openat2", "ENOSYS")]);
}

#[test]
fn other_processes_and_the_kernel_cannot_be_accessed() {
    let host = host!();
    let denied = [
        "ptrace",
        "process_vm_readv",
        "bpf",
        "userfaultfd",
        "perf_event_open",
        "io_uring_setup",
        "syslog",
        "personality",
        "tiocsti",
        "settimeofday",
        "sethostname",
    ];
    host.expect(&[], &denied.map(|name| (name, "EPERM")));
    host.expect(
        &[],
        &["vsock", "alg", "packet"].map(|name| (name, "EAFNOSUPPORT")),
    );
}

#[test]
fn proc_and_sys_cannot_be_written() {
    let host = host!();
    let files = [
        "write:/proc/self/comm",
        "write:/proc/self/oom_score_adj",
        "write:/proc/self/mem",
        "write:/proc/sys/kernel/hostname",
        "write:/proc/sys/kernel/shmmni",
        "write:/sys/fs/cgroup/cgroup.procs",
        "write:/sys/class/net/lo/mtu",
    ];
    for user in USERS {
        host.expect(user, &files.map(|file| (file, "EROFS")));
    }
}

#[test]
fn files_about_the_host_are_masked() {
    let host = host!();
    let files = [
        "/proc/interrupts",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/kcore",
        "/proc/sched_debug",
    ];
    let there = files
        .into_iter()
        .filter(|file| std::fs::exists(file).unwrap());
    let directories = [
        "/proc/acpi",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    let directories = directories
        .into_iter()
        .filter(|path| std::fs::exists(path).unwrap());
    let looks: Vec<_> = there.map(|file| format!("cat:{file}")).collect();
    let looks: Vec<_> = looks
        .into_iter()
        .chain(directories.map(|path| format!("ls:{path}")))
        .collect();
    assert!(
        looks.len() >= 3,
        "this host shows nothing to cover: {looks:?}"
    );
    let expected: Vec<_> = looks.iter().map(|look| (look.as_str(), "")).collect();
    host.expect(&[], &expected);
}

#[test]
fn dev_has_the_standard_devices_only() {
    let host = host!();
    let names = "fd full null random stderr stdin stdout tty urandom zero";
    for user in USERS {
        host.expect(
            user,
            &[
                ("ls:/dev", names),
                ("write:/dev/null", "ok"),
                ("write:/dev/zero", "ok"),
                ("write:/dev/full", "ok"),
                ("write:/dev/stdout", "ok"),
                ("mknod", "EROFS"),
                ("mkdir", "EROFS"),
            ],
        );
    }
}

#[test]
fn core_dumps_are_off() {
    let host = host!();
    // The call reports success, but the limit does not change.
    host.expect(&[], &[("core_limit", "ok")]);
}

#[test]
fn only_the_standard_descriptors_are_open() {
    let host = host!();
    // The last descriptor is that of the listing itself.
    host.expect(&[], &[("ls:/proc/self/fd", "0 1 2 3")]);
}

#[test]
fn abstract_sockets_of_the_host_are_unreachable_even_with_net_host() {
    let host = host!();
    let name = format!("imrun-test-{}", std::process::id());
    let _listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let attempt = format!("abstract:{name}");
    host.expect(&[], &[(attempt.as_str(), "ECONNREFUSED")]);
    if imrun::base::sys::landlock::version().unwrap() < 6 {
        return crate::skip::skip("this kernel's Landlock has no scopes");
    }
    host.expect(&["--net", "host"], &[(attempt.as_str(), "EPERM")]);
}

/// Returns the app: the child of imrun that is not the guard.
fn app_of(imrun: u32) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{imrun}/task")).unwrap();
    let children = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap())
        .collect::<String>();
    let comm = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let mut apps = children
        .split_whitespace()
        .filter(|pid| comm(pid) != "imrun-guard\n");
    apps.next().unwrap().parse().unwrap()
}

#[test]
fn an_app_dies_with_imrun_though_it_clears_its_parent_death_signal_or_another_thread_executes() {
    let host = host!();
    let ways = [
        ["clear_pdeathsig", "wait"],
        ["clear_pdeathsig", "exec_in_thread"],
    ];
    for (user, way) in USERS
        .into_iter()
        .flat_map(|user| ways.map(|way| (user, way)))
    {
        let mut imrun = host.launch(user, &way).spawn().unwrap();
        let mut lines = BufReader::new(imrun.stdout.take().unwrap())
            .lines()
            .map(|line| line.unwrap());
        assert_eq!(lines.next().unwrap(), "clear_pdeathsig: ok");
        assert_eq!(lines.next().unwrap(), "waiting");
        let app = app_of(imrun.id());
        let app = imrun::base::sys::process::pidfd_open(app).unwrap();
        kill(Pid::from_raw(imrun.id() as i32), Signal::SIGKILL).unwrap();
        let mut set = [PollFd::new(app.as_fd(), PollFlags::POLLIN)];
        let ended = poll(&mut set, PollTimeout::from(10_000u16)) == Ok(1);
        // Clean up even if the test fails.
        let _ = imrun::base::sys::process::pidfd_send_signal(app.as_fd(), libc::SIGKILL);
        assert!(ended, "the app outlived imrun");
        imrun.wait().unwrap();
    }
    assert!(
        host.imrun(["ps"]).status().unwrap().success(),
        "the sweep works"
    );
}

#[test]
fn any_user_has_exactly_the_added_capabilities() {
    let host = host!();
    let held = format!("{:016x}", 1 << 13 | 1 << 18);
    for user in USERS {
        let options = [
            user,
            &["--cap-add", "net_raw", "--cap-add", "CAP_SYS_CHROOT"],
        ]
        .concat();
        let output = host
            .launch(&options, &["cat:/proc/self/status", "chroot"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
            assert!(
                text.contains(&format!("Cap{set}:\t{held}")),
                "{set}: {output:?}"
            );
        }
        assert!(text.ends_with("chroot: ok\n"), "{output:?}");
    }
}

#[test]
fn a_capability_that_breaks_isolation_is_refused() {
    let host = host!();
    for name in ["SYS_ADMIN", "cap_sys_module", "MKNOD", "SETUID", "ALL"] {
        let output = host
            .launch(&["--cap-add", name], &["memfd"])
            .output()
            .unwrap();
        crate::host::assert_refused(&output, 125, &format!("--cap-add {name}: "));
    }
}
