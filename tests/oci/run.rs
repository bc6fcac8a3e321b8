//! `run` accepts the forms of runc, and distinguishes bundles from images.

use super::{Bundle, skip, soon};
use std::process::{Command, Output};

impl Bundle {
    /// Returns a command that runs in the bundle's directory.
    fn here(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.current_dir(self.dir());
        command
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn run_launches_a_bundle_by_directory_or_option_in_any_position() {
    let bundle = bundle!("echo ran");
    let (dir, pid) = (bundle.dir().to_owned(), bundle.path("pid"));
    let pid = pid.to_str().unwrap();
    for form in [
        &["run", "one"][..],
        &["run", "A-b.c+d_9"],
        &["run", "-b", &dir, "one"],
        &["run", "one", "--bundle", &dir],
        &["run", "--pid-file", pid, "--no-pivot", "one"],
        &[
            "run",
            "one",
            "--no-new-keyring",
            "--preserve-fds",
            "0",
            "--pid-file",
            pid,
        ],
        &["--systemd-cgroup", "--log-format", "json", "run", "one"],
        &["run", "--", "one"],
    ] {
        let output = bundle.here(form).output().unwrap();
        assert_eq!(text(&output), "ran\n", "{form:?}");
        assert!(output.status.success(), "{form:?}");
    }
    assert!(std::fs::read_to_string(pid).unwrap().parse::<i32>().is_ok());
    // The value of an option is not a command.
    let output = bundle
        .here(&["--log", "run", "state", "none"])
        .output()
        .unwrap();
    assert!(text(&output).contains("does not exist"), "{output:?}");
}

#[test]
fn run_launches_an_image_if_the_argument_is_not_a_bare_id() {
    let bundle = bundle!("echo ran");
    let digest = format!("sha256:{}", "ab".repeat(32));
    for (arguments, why) in [
        (&["run", "busybox:latest"][..], "is a name"),
        (&["run", "one", "sh", "-c", "true"], "is a name"),
        (&["run", &digest, "--bundle", "x"], &digest),
        (&["run", "--user", "5", "one"], "is a name"),
    ] {
        let output = bundle.here(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {output:?}");
        assert!(text(&output).contains(why), "{arguments:?}: {output:?}");
    }
    let bare = ["run", "one"];
    let output = bundle.command(&bare).current_dir("/").output().unwrap();
    assert!(text(&output).contains("is a name"), "{output:?}");
}

#[test]
fn a_kept_container_exists_until_it_is_deleted() {
    let bundle = bundle!("exit 3");
    let output = bundle.here(&["run", "--keep", "one"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(bundle.status("one"), "stopped");
    bundle.succeeds(&["delete", "one"]);
    assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
    // A container that was never created is not kept.
    std::fs::remove_file(bundle.path("rootfs/bin/sh")).unwrap();
    let output = bundle.here(&["run", "--keep", "two"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
}

#[test]
fn run_detached_returns_after_the_program_was_executed() {
    let bundle = bundle!("exec busybox sleep 100");
    let (_output, end) = std::io::pipe().unwrap();
    let mut command = bundle.here(&["run", "--detach", "one"]);
    let status = command
        .stdout(end.try_clone().unwrap())
        .stderr(end)
        .status();
    assert!(status.unwrap().success());
    assert_eq!(bundle.status("one"), "running");
    bundle.succeeds(&["kill", "one", "KILL"]);
    soon("it does not stop", || bundle.status("one") == "stopped");
    bundle.succeeds(&["delete", "one"]);
}

#[test]
fn a_run_with_options_of_a_bundle_alone_says_that_the_id_is_none() {
    let bundle = bundle!("echo ran");
    for arguments in [
        &["run", "--keep", "a:b"][..],
        &["run", "--pid-file", "x", "a@b"],
    ] {
        let output = bundle.here(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(text(&output).contains("container ID \"a"), "{output:?}");
    }
}

#[test]
fn spec_replaces_no_config_and_says_so() {
    let bundle = bundle!("true");
    let before = std::fs::read(bundle.path("config.json")).unwrap();
    bundle.refused(&["spec", "-b", bundle.dir()], "exists already");
    assert_eq!(std::fs::read(bundle.path("config.json")).unwrap(), before);
}

#[test]
fn an_ordinary_user_is_told_that_these_commands_need_root() {
    use std::os::unix::process::CommandExt;
    let bundle = bundle!("true");
    // The build's own directory may be closed to others.
    let program = bundle.path("imrun");
    std::fs::copy(env!("CARGO_BIN_EXE_imrun"), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bundle.dir(), open).unwrap();
    for command in ["start", "state", "kill", "delete", "pause", "resume"] {
        let mut imrun = Command::new(&program);
        imrun.args(["--root", bundle.dir(), command, "one"]);
        let output = imrun.uid(65_533).gid(65_533).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let start = format!("imrun: {command}: needs root of the host\n");
        assert!(text(&output).starts_with(&start), "{output:?}");
    }
    assert_eq!(bundle.succeeds(&["delete", "--force", "none"]), "");
}
