//! Hooks run at the time, in the namespaces and as the user of the specification.

use super::{Bundle, skip, soon};
use serde_json::{Value, json};
use std::process::Output;

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
