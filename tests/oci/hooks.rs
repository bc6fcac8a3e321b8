//! Hooks run at the time, in the namespaces and as the user of the specification.

use super::{Bundle, is_gone, skip, soon, supervisor_of};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::{Child, Output, Stdio};

/// Returns a hook that runs a shell script, without an environment of its own.
fn shell(text: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", text] }])
}

impl Bundle {
    fn hook(&self, kind: &str, text: &str) {
        self.change(|config| config["hooks"][kind] = shell(text));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn create_output(&self) -> Output {
        self.imrun(&["create", "--bundle", self.dir(), "one"])
    }
}

#[test]
fn config_json_is_read_once_also_for_poststop_hooks() {
    let bundle = bundle!("true");
    let log = bundle.path("log");
    bundle.hook("poststop", &format!("echo first >>{}", log.display()));
    let (_, _output) = bundle.create("one");
    bundle.hook("poststop", &format!("echo second >>{}", log.display()));
    bundle.succeeds(&["delete", "one"]);
    assert_eq!(bundle.log(), "first\n");
    let (_, _output) = bundle.create("two");
    std::fs::remove_file(bundle.path("config.json")).unwrap();
    bundle.succeeds(&["start", "two"]);
    bundle.succeeds(&["delete", "--force", "two"]);
    assert_eq!(bundle.log(), "first\nsecond\n");
}

#[test]
fn a_hook_has_its_own_environment_or_inherits_the_runtimes() {
    let bundle = bundle!("true");
    let log = bundle.path("log");
    let text = format!("echo \"${{MARK-none}} ${{OWN-none}}\" >>{}", log.display());
    bundle.change(|config| {
        let without = shell(&text)[0].clone();
        let (mut with, mut empty) = (without.clone(), without.clone());
        with["env"] = json!(["OWN=1"]);
        empty["env"] = json!([]);
        config["hooks"]["createRuntime"] = json!([without, with, empty]);
        config["hooks"]["poststop"] = json!([without]);
    });
    let mut command = bundle.command(&["run", "--bundle", bundle.dir(), "one"]);
    assert!(command.env("MARK", "yes").status().unwrap().success());
    assert_eq!(bundle.log(), "yes none\nnone 1\nnone none\nyes none\n");
}

const NAMESPACES: &str = "cgroup ipc mnt net pid user uts";

#[test]
fn a_create_container_hook_runs_in_the_containers_namespaces_before_the_root_changes() {
    let script = format!("for kind in {NAMESPACES}; do busybox readlink /proc/self/ns/$kind; done");
    let bundle = bundle!(&script);
    let (log, dir) = (bundle.path("log"), bundle.dir().to_owned());
    // The path is one of the host: apart from the container's mounts, the hook sees the host.
    bundle.hook(
        "createContainer",
        &format!(
            "state=$(cat); root=$(echo \"$state\" | jq -r .rootfs); \
             test $(echo \"$state\" | jq -r .pid) = 1 && test -e {dir}/config.json && \
             test -e $root/bin/busybox && test -d rootfs/proc/1 && test $(pwd) = {dir} && test ! -e $root/config.json && \
             for kind in {NAMESPACES}; do readlink /proc/self/ns/$kind; done >{}",
            log.display()
        ),
    );
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(bundle.log(), text);
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    assert!(!text.contains(own.to_str().unwrap()), "{text}");
}

#[test]
fn a_mount_of_a_hook_in_the_root_is_refused() {
    let bundle = bundle!("echo ran");
    bundle.hook(
        "createContainer",
        "busybox mount -o bind,ro /etc $(jq -r .rootfs)/etc",
    );
    let (code, text) = bundle.run();
    assert_eq!(code, Some(125), "{text}");
    assert!(
        text.contains("mount \"/etc\"") && !text.contains("ran"),
        "{text}"
    );
}

#[test]
fn a_start_container_hook_runs_as_the_apps_user() {
    let bundle = bundle!("busybox sleep 100");
    let text = "test $(busybox id -u) = 5 && test \"$(busybox id -G)\" = '6 7' || exit 3; \
                test \"$A\" = b && test -z \"$IMRUN_SINK\" || exit 4; \
                busybox grep -q 'NoNewPrivs:.1' /proc/self/status || exit 5; \
                busybox grep -q 'CapEff:.0000000000000000' /proc/self/status || exit 6; \
                test -n \"$(busybox readlink /proc/self)\" || exit 7";
    bundle.hook("startContainer", &text.replace("busybox", "/bin/busybox"));
    bundle.change(|config| {
        config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [6, 7] });
        config["process"]["env"] = json!(["PATH=/bin", "A=b"]);
    });
    let (_, _output) = bundle.create("one");
    bundle.succeeds(&["start", "one"]);
    bundle.succeeds(&["delete", "--force", "one"]);
}

#[test]
fn a_failed_poststart_hook_ends_a_container_of_version_1_3() {
    let bundle = bundle!("exec busybox sleep 100");
    let log = bundle.path("log");
    bundle.hook("poststart", "exit 9");
    bundle.hook("poststop", &format!("echo stopped >>{}", log.display()));
    for (version, status) in [("1.2.1", "running"), ("1.3.0", "stopped")] {
        bundle.change(|config| config["ociVersion"] = json!(version));
        let (_, _output) = bundle.create("one");
        let output = bundle.imrun(&["start", "one"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.success(),
            status == "running",
            "{version}: {text}"
        );
        soon("it does not stop", || bundle.status("one") == status);
        if status == "stopped" {
            assert!(text.contains("poststart hook"), "{text}");
        }
        bundle.succeeds(&["delete", "--force", "one"]);
    }
    assert_eq!(bundle.log(), "stopped\nstopped\n");
}

#[test]
fn a_creation_that_a_hook_ends_runs_poststop_hooks() {
    let bundle = bundle!("echo ran");
    let log = bundle.path("log");
    bundle.hook("poststop", &format!("jq -r .status >>{}", log.display()));
    for kind in ["prestart", "createRuntime", "createContainer"] {
        bundle.change(|config| {
            let poststop = config["hooks"]["poststop"].take();
            config["hooks"] = json!({ kind: shell("exit 7"), "poststop": poststop });
        });
        let text = String::from_utf8(bundle.create_output().stderr).unwrap();
        assert!(
            text.contains(&format!("{kind} hook")) && text.contains('7'),
            "{text}"
        );
        assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
    }
    assert_eq!(bundle.log(), "stopped\n".repeat(3));
}

/// A hook that writes its process id to the log, leaves a child behind, and does not end.
const HANGS: &str = "sleep 1000 & echo $$ $! >>LOG; wait";

impl Bundle {
    fn hanging_hook(&self, kind: &str) {
        let log = self.path("log").display().to_string();
        self.hook(kind, &HANGS.replace("LOG", &log));
    }

    /// Starts a command that waits for a hanging hook, and returns once that runs.
    fn begins(&self, command: &str) -> Child {
        let _ = std::fs::remove_file(self.path("log"));
        let mut command = self.command(&[command, "--bundle", self.dir(), "one"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        soon("the hook does not run", || self.log().ends_with('\n'));
        child.unwrap()
    }

    /// Waits until the hook and its child have ended.
    #[track_caller]
    fn hook_ends(&self) {
        let log = self.log();
        for pid in log.split_whitespace() {
            let pid = pid.parse().unwrap();
            soon("the hook outlives its container", || is_gone(pid));
        }
    }
}

#[test]
fn a_hook_that_does_not_read_a_state_larger_than_a_pipe_ends_by_its_timeout() {
    let bundle = bundle!("echo ran");
    bundle.change(|config| {
        config["annotations"] = json!({ "large": "x".repeat(100_000) });
        config["hooks"]["createRuntime"] =
            json!([{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }]);
    });
    let (code, text) = bundle.run();
    assert_eq!(code, Some(125), "{text}");
    assert!(text.contains("took longer than its timeout"), "{text}");
}

#[test]
fn a_hook_reads_all_of_a_state_larger_than_a_pipe() {
    let bundle = bundle!("true");
    let log = bundle.path("log");
    bundle.hook(
        "createRuntime",
        &format!(
            "sleep 0.2; jq -r '.annotations.large|length' >{}",
            log.display()
        ),
    );
    bundle.change(|config| config["annotations"] = json!({ "large": "x".repeat(300_000) }));
    let (code, text) = bundle.run();
    assert_eq!(
        (code, bundle.log().as_str()),
        (Some(0), "300000\n"),
        "{text}"
    );
}

#[test]
fn a_signal_ends_the_creation_and_the_hook_that_runs() {
    let bundle = bundle!("echo ran");
    for kind in ["prestart", "createRuntime"] {
        bundle.change(|config| config["hooks"] = json!({}));
        bundle.hanging_hook(kind);
        let child = bundle.begins("run");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(143), "{text}");
        assert!(
            text.contains(&format!("{kind} hook")) && text.contains("SIGTERM"),
            "{text}"
        );
        bundle.hook_ends();
        assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
    }
}

#[test]
fn a_creation_ends_with_the_hook_that_runs_when_its_command_is_killed() {
    let bundle = bundle!("echo ran");
    bundle.hanging_hook("createRuntime");
    let mut child = bundle.begins("create");
    child.kill().unwrap();
    child.wait().unwrap();
    bundle.hook_ends();
    soon("it is not removed", || {
        bundle.succeeds(&["list", "--quiet"]).is_empty()
    });
}

#[test]
fn a_forced_deletion_ends_the_hook_that_runs_and_its_supervisor() {
    let bundle = bundle!("exec busybox sleep 1000");
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
    ] {
        bundle.change(|config| config["hooks"] = json!({}));
        if matches!(kind, "prestart" | "createRuntime" | "poststart") {
            bundle.hanging_hook(kind);
        } else {
            // Its processes have no numbers of the host.
            bundle.hook(kind, "busybox sleep 1000 || sleep 1000");
        }
        let child = match kind {
            "startContainer" | "poststart" => {
                let _created = bundle.create("one");
                let command = bundle
                    .command(&["start", "one"])
                    .stderr(Stdio::piped())
                    .spawn();
                command.unwrap()
            }
            _ => {
                let mut command = bundle.command(&["create", "--bundle", bundle.dir(), "one"]);
                command
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            }
        };
        if kind.starts_with('p') || kind == "createRuntime" {
            soon("the hook does not run", || bundle.log().ends_with('\n'));
        } else {
            soon("there is no container", || {
                bundle.succeeds(&["list", "--quiet"]) == "one\n"
            });
        }
        bundle.succeeds(&["delete", "--force", "one"]);
        assert!(
            !child.wait_with_output().unwrap().status.success() || kind == "poststart",
            "{kind}"
        );
        bundle.hook_ends();
        assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
        let _ = std::fs::remove_file(bundle.path("log"));
    }
}

#[test]
fn a_signal_ends_a_hook_after_the_start_and_reaches_the_app() {
    let bundle = bundle!("trap 'exit 9' TERM; busybox sleep 1000 & echo ready; wait");
    bundle.hanging_hook("poststart");
    let child = bundle.begins("run");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    // The second, by the stop timeout, if its trap was not set yet.
    assert!(matches!(output.status.code(), Some(9 | 137)), "{text}");
    bundle.hook_ends();
}

#[test]
fn a_hook_ends_with_a_supervisor_that_is_killed() {
    let bundle = bundle!("true");
    bundle.hanging_hook("createRuntime");
    bundle.change(|config| {
        let script = format!(
            "echo $$ >>{}; exec sleep 1000",
            bundle.path("log").display()
        );
        config["hooks"]["createRuntime"] = shell(&script);
    });
    let child = bundle.begins("create");
    let hook = bundle.log().trim().parse().unwrap();
    kill(
        supervisor_of(&bundle.path("run/oci/one"), hook),
        Signal::SIGKILL,
    )
    .unwrap();
    bundle.hook_ends();
    child.wait_with_output().unwrap();
    bundle.succeeds(&["delete", "--force", "one"]);
}

#[test]
fn hooks_start_without_blocked_or_ignored_signals() {
    let bundle = bundle!("true");
    let log = bundle.path("log");
    let text = "grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let kinds = [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ];
    for kind in kinds {
        bundle.hook(kind, &format!("{text} >>{}", log.display()));
    }
    // It has no file to write to, and busybox's shell ignores a signal by itself.
    let clean = |line: &str| {
        let pattern = format!("{line}:.0*$");
        json!({ "path": "/bin/busybox", "args": ["grep", "-q", pattern, "/proc/self/status"] })
    };
    bundle.change(|config| {
        config["hooks"]["startContainer"] = json!([clean("SigBlk"), clean("SigIgn")]);
    });
    let mut command = bundle.command(&["run", "--bundle", bundle.dir(), "one"]);
    let blocked: SigSet = [Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect();
    blocked.thread_block().unwrap();
    let output = command.output();
    blocked.thread_unblock().unwrap();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let none = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    assert_eq!(bundle.log(), none.repeat(kinds.len()));
}
