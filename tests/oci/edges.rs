//! imrun neither changes foreign objects nor passes them to the app, and a container never outlives imrun.

use super::{Bundle, guard_of, is_gone, skip, soon, supervisor_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A cgroup of the test, with a process in it.
struct Foreign {
    path: PathBuf,
    member: Child,
}

impl Foreign {
    fn new(name: &str) -> Foreign {
        let path = imrun::runtime::cgroup::hierarchy().unwrap().join(name);
        std::fs::create_dir(&path).unwrap();
        let member = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        std::fs::write(path.join("cgroup.procs"), member.id().to_string()).unwrap();
        Foreign { path, member }
    }

    #[track_caller]
    fn is_untouched(&mut self) {
        assert!(
            self.member.try_wait().unwrap().is_none(),
            "its process was ended"
        );
        assert!(self.path.exists(), "it was removed");
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.member.kill().unwrap();
        self.member.wait().unwrap();
        soon("a cgroup is still busy", || {
            std::fs::remove_dir(&self.path).is_ok()
        });
    }
}

fn name(test: &str) -> String {
    format!("imrun-test-{}-{test}", std::process::id())
}

#[test]
fn an_existing_cgroup_is_refused_and_left_alone() {
    let bundle = bundle!("true");
    let name = name("foreign");
    let mut foreign = Foreign::new(&name);
    bundle.change(|config| config["linux"]["cgroupsPath"] = json!(format!("/{name}")));
    for command in ["create", "run"] {
        bundle.refused(
            &[command, "--bundle", bundle.dir(), "one"],
            "this container did not create it",
        );
        bundle.imrun(&["delete", "--force", "one"]);
        foreign.is_untouched();
    }
}

#[test]
fn deleting_an_unfinished_container_leaves_an_existing_cgroup_alone() {
    let bundle = bundle!("true");
    let name = name("creating");
    let mut foreign = Foreign::new(&name);
    bundle.change(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{name}"));
        config["annotations"] = json!({ "dev.imrun.image": format!("sha256:{}", "0".repeat(64)) });
    });
    // The supervisor blocks on a store that does not respond, as on a large image.
    let store = bundle.path("store/blobs/sha256");
    std::fs::create_dir_all(&store).unwrap();
    let arguments = ["create", "--bundle", bundle.dir(), "one"];
    let mut creating = bundle.command(&arguments);
    creating.env("IMRUN_STORE", bundle.path("store"));
    let created = creating.output().unwrap();
    assert_eq!(created.status.code(), Some(125), "{created:?}");
    bundle.imrun(&["delete", "--force", "one"]);
    foreign.is_untouched();
}

#[test]
fn a_sweep_kills_a_recorded_cgroup_only_if_its_inode_matches() {
    let bundle = bundle!("exec busybox sleep 100");
    let name = name("sweep");
    let mut foreign = Foreign::new(&name);
    let inode = foreign.path.metadata().unwrap().ino();
    let entry = bundle.path("run").join("0".repeat(64));
    for record in [
        json!({ "place": name, "inode": inode + 1 }).to_string(),
        // The state before the cgroup is made, and that of an unfinished one.
        String::new(),
        name.clone(),
    ] {
        bundle.succeeds(&["list"]);
        std::fs::create_dir_all(&entry).unwrap();
        std::fs::write(entry.join("lock"), "").unwrap();
        std::fs::write(entry.join("cgroup"), record).unwrap();
        // `create` sweeps.
        let (_, _output) = bundle.create("one");
        bundle.succeeds(&["delete", "one"]);
        assert!(!entry.exists(), "it was not swept");
        foreign.is_untouched();
    }
}

#[test]
fn delete_force_ends_a_creation_that_waits_for_a_hook() {
    let bundle = bundle!("true");
    bundle.change(|config| {
        config["hooks"] = json!({ "createRuntime": [
            { "path": "/bin/sh", "args": ["sh", "-c", "echo here >$0; exec sleep 1000", bundle.path("hook")] },
        ] });
    });
    let arguments = ["create", "--bundle", bundle.dir(), "one"];
    let mut creating = bundle.command(&arguments);
    let mut creating = creating.stderr(Stdio::null()).spawn().unwrap();
    let hook = bundle.path("hook");
    soon("the hook does not run", || {
        std::fs::read(&hook).is_ok_and(|text| !text.is_empty())
    });
    assert_eq!(bundle.status("one"), "creating");
    bundle.succeeds(&["delete", "--force", "one"]);
    assert!(!creating.wait().unwrap().success());
    assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
}

/// Kills processes as simultaneously as possible: each is stopped first.
fn kill_together(pids: &[Pid]) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        pids.iter().for_each(|pid| kill(*pid, signal).unwrap());
    }
}

#[test]
fn an_app_dies_with_its_supervisor_and_guard_in_any_order() {
    let bundle = bundle!("exec busybox sleep 100");
    for started in [false, true] {
        for (supervisors, guards) in [(true, true), (true, false), (false, true)] {
            let (pid, _output) = bundle.waits_or_runs(started);
            let supervisor = supervisor_of(&bundle.path("run/oci/one"), pid);
            let guard = guard_of(supervisor);
            let both = [(supervisor, supervisors), (guard, guards)];
            let killed = both.into_iter().filter_map(|(pid, is)| is.then_some(pid));
            kill_together(&killed.collect::<Vec<_>>());
            soon("the app outlives them", || is_gone(pid));
            bundle.succeeds(&["delete", "--force", "one"]);
        }
    }
}

#[test]
fn a_running_bundle_ends_with_imrun_and_with_its_guard() {
    for of_guard in [false, true] {
        let bundle = bundle!("exec busybox sleep 100");
        let pid_file = bundle.path("pid");
        let arguments = [
            "run",
            "--bundle",
            bundle.dir(),
            "--pid-file",
            pid_file.to_str().unwrap(),
            "one",
        ];
        let mut run = bundle.command(&arguments);
        let mut run = run
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        soon("it does not run", || {
            bundle.imrun(&["state", "one"]).status.success() && bundle.status("one") == "running"
        });
        let app: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        let supervisor = Pid::from_raw(run.id() as i32);
        kill(
            if of_guard {
                guard_of(supervisor)
            } else {
                supervisor
            },
            Signal::SIGKILL,
        )
        .unwrap();
        soon("the app outlives it", || is_gone(app));
        assert!(!run.wait().unwrap().success());
        bundle.imrun(&["delete", "--force", "one"]);
    }
}

#[test]
fn output_is_relayed_byte_for_byte() {
    let bundle = bundle!("busybox printf 'a\\0b\\r\\n\\n\\377c'");
    let output = bundle.imrun(&["run", "--bundle", bundle.dir(), "one"]);
    assert_eq!(output.stdout, b"a\0b\r\n\n\xffc");
    let long = bundle!("busybox yes x | busybox tr -d '\\n' | busybox head -c 200001");
    let output = long.imrun(&["run", "--bundle", long.dir(), "one"]);
    assert_eq!(output.stdout.len(), 200_001);
    assert!(output.stdout.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_reader_sees_the_end_of_a_stream_that_the_running_app_closes() {
    for (close, to_stderr) in [("exec >&-", false), ("exec 2>&-", true)] {
        let bundle = bundle!(&format!(
            "echo last; echo last >&2; {close}; exec busybox sleep 1000"
        ));
        let (mut reader, end) = std::io::pipe().unwrap();
        let arguments = ["create", "--bundle", bundle.dir(), "one"];
        let mut create = bundle.command(&arguments);
        create.stdout(Stdio::null()).stderr(Stdio::null());
        if to_stderr {
            create.stderr(end);
        } else {
            create.stdout(end);
        }
        assert!(create.status().unwrap().success());
        drop(create);
        bundle.succeeds(&["start", "one"]);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last\n");
        assert_eq!(bundle.status("one"), "running");
        bundle.succeeds(&["delete", "--force", "one"]);
    }
}

#[test]
fn the_app_never_gets_the_callers_fifo() {
    let bundle = bundle!(
        "echo x >/dev/stdout; busybox chmod 777 /proc/self/fd/1; busybox cat <>/dev/stdout;
         busybox cat /dev/stdout; busybox chown 7 /proc/self/fd/1; echo y >>/dev/stderr"
    );
    let fifo = bundle.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let state = |path: &Path| {
        let found = path.metadata().unwrap();
        (found.mode(), found.uid(), found.gid())
    };
    let before = state(&fifo);
    // Opening the fifo in both directions does not block.
    let both = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    let arguments = ["run", "--bundle", bundle.dir(), "one"];
    let mut run = bundle.command(&arguments);
    run.stdout(both.try_clone().unwrap())
        .stderr(both.try_clone().unwrap());
    run.status().unwrap();
    assert_eq!(state(&fifo), before);
    let mut bytes = [0; 4096];
    let length = nix::unistd::read(both.as_fd(), &mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes[..length]);
    assert!(text.contains("x\n") && text.contains("y\n"), "{text}");
    assert_eq!(text.matches("Permission denied").count(), 2, "{text}");
    assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
}

#[test]
fn a_name_file_is_a_copy_and_later_edits_do_not_reach_the_app() {
    let bundle = bundle!("busybox stat -c %d:%i /etc/hosts; busybox cat /etc/hosts");
    let hosts = bundle.path("hosts");
    std::fs::write(&hosts, "192.0.2.1 before\n").unwrap();
    bundle.change(|config| {
        let mount = json!({ "destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["bind", "ro"] });
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    let (_, mut output) = bundle.create("one");
    std::fs::write(&hosts, "192.0.2.2 after\n").unwrap();
    bundle.succeeds(&["start", "one"]);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let (inode, content) = text.split_once('\n').unwrap();
    assert_eq!(content, "192.0.2.1 before\n");
    let of_the_host = hosts.metadata().unwrap();
    assert_ne!(
        inode,
        format!("{}:{}", of_the_host.dev(), of_the_host.ino())
    );
    bundle.succeeds(&["delete", "--force", "one"]);
}

#[test]
fn a_name_file_on_a_kernel_file_system_is_refused_and_not_read() {
    let bundle = bundle!("true");
    for source in ["/proc/kmsg", "/proc/self/mounts", "/dev/zero"] {
        bundle.change(|config| {
            let mount = json!([{ "destination": "/etc/hosts", "type": "bind", "source": source, "options": ["bind", "ro"] }]);
            config["mounts"] = mount;
        });
        bundle.refused(&["run", "--bundle", bundle.dir(), "one"], source);
    }
}

#[test]
fn omitted_mounts_are_listed_on_standard_error_in_one_line() {
    let bundle = bundle!("true");
    bundle.change(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }));
        mounts.push(json!({ "destination": "/data", "type": "bind", "source": "/var/tmp", "options": ["rbind", "rw"] }));
    });
    let output = bundle.imrun(&["run", "--bundle", bundle.dir(), "one"]);
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("left out"))
        .collect();
    assert_eq!(
        lines,
        [
            "imrun: mounts: left out: \"/tmp\" (a file system in memory), \"/data\" (a writable directory of the host)"
        ]
    );
}

#[test]
fn parents_of_a_cgroup_go_with_the_container_that_made_them_and_others_stay() {
    let bundle = bundle!("true");
    let name = name("parents");
    let path = imrun::runtime::cgroup::hierarchy().unwrap().join(&name);
    bundle.change(|config| config["linux"]["cgroupsPath"] = json!(format!("/{name}/a/b")));
    let (code, text) = bundle.run();
    assert_eq!((code, path.exists()), (Some(0), false), "{text}");
    std::fs::create_dir(&path).unwrap();
    let (code, text) = bundle.run();
    let (outer, inner) = (path.exists(), path.join("a").exists());
    assert_eq!((code, outer, inner), (Some(0), true, false), "{text}");
    std::fs::remove_dir(&path).unwrap();
    // By the next command, after a supervisor that was killed.
    let (pid, _output) = bundle.create("one");
    kill(
        supervisor_of(&bundle.path("run/oci/one"), pid),
        Signal::SIGKILL,
    )
    .unwrap();
    soon("the app outlives its supervisor", || is_gone(pid));
    bundle.succeeds(&["delete", "--force", "one"]);
    assert!(!path.exists());
}
