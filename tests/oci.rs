//! The commands of the OCI runtime, called as by an engine.
//!
//! These tests launch containers: they need root, cgroup2, EROFS, Landlock and Linux 6.15. Without them each test is
//! skipped with a message.
#![allow(clippy::unwrap_used)]

#[path = "support/skip.rs"]
mod skip;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Debian's package busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// Makes a bundle for the test. Skips the test with a reason if the host cannot run it.
macro_rules! bundle {
    ($script:expr) => {
        match skip::missing() {
            Some(why) => return skip::skip(why),
            None => Bundle::new($script),
        }
    };
}

#[path = "oci/edges.rs"]
mod edges;
#[path = "oci/fields.rs"]
mod fields;
#[path = "oci/hooks.rs"]
mod hooks;
#[path = "oci/run.rs"]
mod run;

/// A state directory and one bundle.
struct Bundle {
    directory: tempfile::TempDir,
}

impl Bundle {
    /// Makes a bundle whose root has busybox only, without any mount point.
    fn new(script: &str) -> Bundle {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let bin = directory.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        symlink("busybox", bin.join("sh")).unwrap();
        let bundle = Bundle { directory };
        assert!(bundle.imrun(&["spec", "-b", bundle.dir()]).status.success());
        bundle.change(|config| config["process"]["args"] = json!(["sh", "-c", script]));
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn dir(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let file = self.path("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&file, config.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imrun"));
        command.arg("--root").arg(self.path("run")).args(arguments);
        command
            .env("IMRUN_SINK", "stdio:")
            .env("IMRUN_FINGERPRINT_KEY", "key");
        command.stdin(Stdio::null());
        command
    }

    fn imrun(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.imrun(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], why: &str) {
        let output = self.imrun(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {text}");
        assert!(text.contains(why), "{text}");
    }

    /// Creates a container whose output goes to the returned pipe.
    #[track_caller]
    fn create(&self, id: &str) -> (i32, std::io::PipeReader) {
        let (output, end) = std::io::pipe().unwrap();
        let pid_file = self.path("pid");
        let arguments = [
            "create",
            "--bundle",
            self.dir(),
            "--pid-file",
            pid_file.to_str().unwrap(),
            id,
        ];
        let mut command = self.command(&arguments);
        command.stdout(end.try_clone().unwrap()).stderr(end);
        assert!(command.status().unwrap().success());
        drop(command);
        let pid = std::fs::read_to_string(pid_file).unwrap();
        (pid.parse().unwrap(), output)
    }

    /// Creates a container, and starts it if requested.
    #[track_caller]
    fn waits_or_runs(&self, started: bool) -> (i32, std::io::PipeReader) {
        let created = self.create("one");
        if started {
            self.succeeds(&["start", "one"]);
        }
        created
    }

    #[track_caller]
    fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.succeeds(&["state", id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn run(&self) -> (Option<i32>, String) {
        let output = self.imrun(&["run", "--bundle", self.dir(), "one"]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }
}

#[track_caller]
fn soon(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    let bundle = bundle!("echo started; exec busybox sleep 100");
    bundle.change(|config| config["annotations"] = json!({ "org.example": "x" }));
    let (pid, mut output) = bundle.create("one");
    let state: Value = serde_json::from_str(&bundle.succeeds(&["state", "one"])).unwrap();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["id"], "one");
    assert_eq!(
        state["bundle"],
        bundle
            .directory
            .path()
            .canonicalize()
            .unwrap()
            .to_str()
            .unwrap()
    );
    assert_eq!(state["annotations"]["org.example"], "x");
    bundle.refused(
        &["create", "--bundle", bundle.dir(), "one"],
        "already exists",
    );
    bundle.refused(&["delete", "none"], "does not exist");

    bundle.succeeds(&["start", "one"]);
    assert_eq!(bundle.status("one"), "running");
    bundle.refused(&["start", "one"], "is running");
    bundle.refused(&["delete", "one"], "is running");
    bundle.succeeds(&["pause", "one"]);
    assert_eq!(bundle.status("one"), "paused");
    bundle.succeeds(&["resume", "one"]);
    assert!(bundle.succeeds(&["ps", "one"]).contains(&pid.to_string()));
    bundle.succeeds(&["kill", "one", "KILL"]);
    soon("the app is still there", || {
        bundle.status("one") == "stopped"
    });
    bundle.refused(&["kill", "one", "TERM"], "not running");
    bundle.succeeds(&["delete", "one"]);
    assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "started\n");
}

#[test]
fn the_callers_subreaper_gets_the_apps_exit_status() {
    let bundle = bundle!("exit 7");
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let (pid, _output) = bundle.create("one");
    bundle.succeeds(&["start", "one"]);
    let pid = Pid::from_raw(pid);
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 7));
    soon("it is not stopped", || bundle.status("one") == "stopped");
    bundle.succeeds(&["delete", "one"]);
}

#[test]
fn the_app_dies_with_its_supervisor() {
    let bundle = bundle!("exec busybox sleep 100");
    for started in [false, true] {
        let (pid, _output) = bundle.waits_or_runs(started);
        let socket = bundle.path("run/oci/one/lock");
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&socket.metadata().unwrap());
        let line = locks
            .lines()
            .find(|line| line.contains(&format!(":{inode} ")))
            .unwrap();
        // `create`, which took the lock, is gone: the supervisor holds it now.
        assert!(line.contains("FLOCK"), "{line}");
        let supervisor = supervisor_of(&bundle.path("run/oci/one"), pid);
        kill(supervisor, Signal::SIGKILL).unwrap();
        soon("the app outlives its supervisor", || is_gone(pid));
        assert_eq!(bundle.status("one"), "stopped");
        bundle.succeeds(&["delete", "one"]);
        assert!(!bundle.path("run/oci/one").exists());
    }
}

#[test]
fn the_app_dies_when_supervisor_and_guard_are_killed() {
    let bundle = bundle!("exec busybox sleep 100");
    for started in [false, true] {
        let (pid, _output) = bundle.waits_or_runs(started);
        let supervisor = supervisor_of(&bundle.path("run/oci/one"), pid);
        kill(guard_of(supervisor), Signal::SIGKILL).unwrap();
        soon("the app outlives its guard", || is_gone(pid));
        bundle.succeeds(&["delete", "one"]);
    }
}

/// Returns the guard of a supervisor, which is its child.
fn guard_of(supervisor: Pid) -> Pid {
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = std::fs::read_to_string(children).unwrap();
    let mut pids = children.split_whitespace();
    let is_guard = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "imrun-guard\n"
    };
    Pid::from_raw(pids.find(is_guard).unwrap().parse().unwrap())
}

/// Returns the supervisor: the process, other than the app, that has the container's lock open and leads a session.
fn supervisor_of(place: &Path, app: i32) -> Pid {
    let lock = place.join("lock").canonicalize().unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let holds = files
            .flatten()
            .any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == lock));
        // The intermediate process that has cloned the app exists until the program is executed, in the guard's
        // namespace.
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let is_of_the_host = status
            .lines()
            .any(|line| line.starts_with("NSpid:") && line.split_whitespace().count() == 2);
        if holds && pid != app && is_of_the_host {
            return Pid::from_raw(pid);
        }
    }
    panic!("nobody holds {lock:?}");
}

#[test]
fn a_created_container_is_deleted_without_its_program_ever_running() {
    let bundle = bundle!("echo ran");
    let (pid, mut output) = bundle.create("one");
    bundle.succeeds(&["delete", "one"]);
    assert!(is_gone(pid));
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(!text.contains("ran"), "{text}");
}

#[test]
fn a_directory_as_root_is_read_only_and_unchanged() {
    let bundle = bundle!(
        "busybox touch /x /bin/x /dev/x 2>/dev/null && echo wrote; busybox cat /proc/self/uid_map; \
         busybox ls /proc/self/cmdline /sys/fs/cgroup/cgroup.procs /etc/hosts; echo null >/dev/null && echo ok"
    );
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "65536",
        "/proc/self/cmdline",
        "/sys/fs/cgroup/cgroup.procs",
        "/etc/hosts",
        "ok\n",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("wrote"), "{text}");
    let names: Vec<_> = std::fs::read_dir(bundle.path("rootfs")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn the_process_has_the_bundles_settings() {
    let bundle = bundle!("busybox id; umask; ulimit -n; busybox hostname; echo $A; busybox pwd");
    bundle.change(|config| {
        config["hostname"] = json!("named");
        config["process"]["user"] =
            json!({ "uid": 5, "gid": 6, "umask": 63, "additionalGids": [7] });
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 78 }]);
        config["process"]["env"] = json!(["PATH=/bin", "A=b"]);
        config["process"]["cwd"] = json!("/bin");
    });
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text, "uid=5 gid=6 groups=7\n0077\n77\nnamed\nb\n/bin\n");
}

#[test]
fn hooks_run_in_order_with_the_state_on_standard_input() {
    let bundle = bundle!("true");
    let log = bundle.path("log");
    let script = bundle.path("hook");
    let text = format!(
        "#!/bin/sh\necho \"$1 $V $(jq -r .status)\" >>{}\n",
        log.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    bundle.change(|config| {
        for kind in [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop",
        ] {
            config["hooks"][kind] = json!([{
                "path": script, "args": ["hook", kind], "env": ["V=1", "PATH=/usr/bin:/bin"],
                "timeout": 10
            }]);
        }
    });
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        "prestart 1 creating\ncreateRuntime 1 creating\ncreateContainer 1 creating\n\
         poststart 1 running\npoststop 1 stopped\n"
    );
}

#[test]
fn a_hook_that_fails_or_takes_too_long_ends_the_creation() {
    let bundle = bundle!("echo ran");
    for (path, args, why) in [
        ("/bin/false", json!(["false"]), "exit status: 1"),
        ("/bin/sleep", json!(["sleep", "100"]), "timeout"),
        ("/nowhere", json!([]), "No such file"),
    ] {
        bundle.change(|config| {
            config["hooks"]["createRuntime"] =
                json!([{ "path": path, "args": args, "timeout": 1 }]);
        });
        let arguments = ["create", "--bundle", bundle.dir(), "one"];
        bundle.refused(&arguments, why);
        assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
    }
}

#[test]
fn a_start_hook_runs_in_the_container() {
    let bundle = bundle!("true");
    bundle.change(|config| {
        let script = "busybox test -e /rootfs && exit 3; busybox test -d /proc/1 || exit 4";
        config["hooks"]["startContainer"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }]);
    });
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn the_bundles_filter_is_installed_in_addition_to_imruns_own() {
    let bundle =
        bundle!("busybox uname; busybox kill -0 1 && echo zero; busybox kill -18 1 || echo other");
    bundle.change(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                { "names": ["uname", "of_another_machine"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 },
                { "names": ["kill"], "action": "SCMP_ACT_ERRNO",
                  "args": [{ "index": 1, "value": 0, "op": "SCMP_CMP_NE" }] }
            ]
        });
    });
    let (_, text) = bundle.run();
    assert!(!text.contains("Linux"), "{text}");
    assert!(
        text.contains("zero\n") && text.contains("other\n"),
        "{text}"
    );
}

/// Agent that receives a listener, prints the message with it, and answers one call with success.
/// Source: seccomp_unotify(2), linux/seccomp.h.
const AGENT: &str = r"
import array, fcntl, os, socket, struct, sys
RECV, SEND = 0xC0502100, 0xC0182101
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(sys.argv[1])
server.listen()
print('ready', flush=True)
peer = server.accept()[0]
state, fds, _, _ = socket.recv_fds(peer, 65536, 1)
while piece := peer.recv(65536): state += piece
print(state.decode(), flush=True)
asked = bytearray(80)
fcntl.ioctl(fds[0], RECV, asked)
fcntl.ioctl(fds[0], SEND, struct.pack('=QqiI', struct.unpack_from('=Q', asked)[0], 0, 0, 0))
";

#[test]
fn the_holder_of_the_listener_answers_notifications_of_the_bundles_filter() {
    let bundle = bundle!("busybox mkdir /made && busybox test ! -e /made && echo answered");
    let socket = bundle.path("agent");
    bundle.change(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": socket,
            "listenerMetadata": "for the agent",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }]
        });
    });
    let arguments = ["run", "--bundle", bundle.dir(), "one"];
    bundle.refused(&arguments, "imrun's observer");

    let quiet = |bundle: &Bundle| {
        let mut command = bundle.command(&arguments);
        command.env("IMRUN_ON_WRITE", "quiet").output().unwrap()
    };
    let output = quiet(&bundle);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(text.contains("listenerPath"), "{text}");

    let mut agent = Command::new("python3")
        .args(["-c", AGENT, socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let output = quiet(&bundle);
    assert_eq!(output.stdout, b"answered\n", "{output:?}");
    let state: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["metadata"], "for the agent");
    assert_eq!(state["state"]["id"], "one");
    assert_eq!(state["state"]["status"], "created");
    assert_eq!(state["pid"], state["state"]["pid"]);
    assert!(agent.wait().unwrap().success());
}

/// Fills the queue of connections, and accepts none.
const DEAF_AGENT: &str = r"
import socket, sys, time
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(sys.argv[1])
server.listen(0)
peers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
for peer in peers:
    peer.setblocking(False)
    try: peer.connect(sys.argv[1])
    except BlockingIOError: pass
print('ready', flush=True)
time.sleep(1000)
";

#[test]
fn a_start_ends_by_a_signal_or_in_time_when_nobody_takes_the_listener() {
    let bundle = bundle!("echo ran");
    let socket = bundle.path("agent");
    bundle.change(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": socket,
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]
        });
    });
    let mut agent = Command::new("python3")
        .args(["-c", DEAF_AGENT, socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    for (signal, code, why) in [
        (Some(Signal::SIGTERM), 143, "SIGTERM"),
        (None, 125, "accepts no connection"),
    ] {
        let mut command = bundle.command(&["run", "--bundle", bundle.dir(), "one"]);
        command
            .env("IMRUN_ON_WRITE", "quiet")
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        if let Some(signal) = signal {
            soon("it is not created", || {
                bundle.succeeds(&["list"]).contains("created")
            });
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(why), "{text}");
        bundle.imrun(&["delete", "--force", "one"]);
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn a_namespace_path_of_the_wrong_kind_is_refused() {
    let bundle = bundle!("true");
    for kind in ["uts", "ipc"] {
        bundle.change(|config| {
            config["hostname"] = json!("named");
            config["linux"]["namespaces"] =
                json!([{ "type": "mount" }, { "type": kind, "path": "/proc/self/ns/net" }]);
        });
        bundle.refused(
            &["run", "--bundle", bundle.dir(), "one"],
            &format!(
                "`linux.namespaces, {kind}` \"/proc/self/ns/net\": is a namespace of another kind"
            ),
        );
    }
}

#[test]
fn network_sysctls_are_set_in_a_joined_network_namespace() {
    let bundle = bundle!("busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let with = |path: &str| {
        bundle.change(|config| {
            config["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "81" });
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            let network = namespaces.iter_mut().find(|one| one["type"] == "network");
            network.unwrap()["path"] = json!(path);
        });
    };
    let own = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let before = std::fs::read_to_string(own).unwrap();
    with("/proc/self/ns/net");
    bundle.refused(
        &["run", "--bundle", bundle.dir(), "one"],
        "the namespace is the host's",
    );

    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c", "echo ready; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    with(&format!("/proc/{}/ns/net", holder.id()));
    let (code, text) = bundle.run();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!((code, text.as_str()), (Some(0), "81\n"));
    assert_eq!(std::fs::read_to_string(own).unwrap(), before);
}

/// Runs imrun with `arguments` from a shell that opens descriptors first.
fn with_descriptors(bundle: &Bundle, setup: &str, arguments: &[&str]) -> Output {
    let imrun = bundle.command(arguments);
    let mut shell = Command::new("bash");
    shell
        .arg("-c")
        .arg(format!("{setup}\nexec \"$0\" \"$@\""))
        .arg(imrun.get_program())
        .args(imrun.get_args());
    for (name, value) in imrun.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn only_sockets_and_pipes_of_the_caller_are_preserved() {
    let bundle =
        bundle!("echo to the pipe >&3; ls /proc/self/fd | tr '\\n' ' '; echo LISTEN $LISTEN_FDS");
    let run = [
        "run",
        "--bundle",
        bundle.dir(),
        "--preserve-fds",
        "1",
        "one",
    ];
    let output = with_descriptors(&bundle, "exec 3> >(cat >&2) 4>/dev/null", &run);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    // Descriptor 3 is the directory that ls reads.
    assert_eq!(out, "0 1 2 3 4 LISTEN\n");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("to the pipe"), "{text}");

    let setup = "export LISTEN_FDS=1 LISTEN_PID=$$; exec 3> >(cat >&2)";
    let output = with_descriptors(&bundle, setup, &["run", "--bundle", bundle.dir(), "two"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(out, "0 1 2 3 4 LISTEN 1\n");
    // LISTEN_PID of another process.
    let setup = "export LISTEN_FDS=1 LISTEN_PID=1; exec 3> >(cat >&2)";
    let output = with_descriptors(&bundle, setup, &["run", "--bundle", bundle.dir(), "three"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Bad file descriptor"), "{text}");
}

#[test]
fn a_descriptor_of_a_file_is_not_preserved() {
    let bundle = bundle!("true");
    for (setup, why) in [
        (
            "exec 3>/dev/null",
            "descriptor 3: is neither a socket nor a pipe",
        ),
        (
            "exec 3</etc/passwd",
            "descriptor 3: is neither a socket nor a pipe",
        ),
        ("exec 3</", "descriptor 3: is neither a socket nor a pipe"),
        ("exec 3> >(cat) 4>&-", "descriptor 4: is not open"),
        (
            "mkfifo \"$FILE\"; exec 3<>\"$FILE\"",
            "descriptor 3: is a named pipe, which is a file of the host",
        ),
    ] {
        let run = [
            "run",
            "--bundle",
            bundle.dir(),
            "--preserve-fds",
            "2",
            "one",
        ];
        let setup = setup.replace("$FILE", bundle.path("fifo").to_str().unwrap());
        let output = with_descriptors(&bundle, &setup, &run);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn a_path_to_a_pipe_or_a_socket_is_not_preserved() {
    let bundle = bundle!("true");
    let (fifo, socket) = (bundle.path("fifo"), bundle.path("socket"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (pipe, _end) = std::io::pipe().unwrap();
    let pipe = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&pipe)
    );
    for path in [&fifo, &socket, Path::new(&pipe)] {
        let script = "import os, sys; fd = os.open(sys.argv[1], os.O_PATH); os.dup2(fd, 3); os.set_inheritable(3, True); \
                      os.execv(sys.argv[2], sys.argv[2:])";
        let arguments = [
            "run",
            "--bundle",
            bundle.dir(),
            "--preserve-fds",
            "1",
            "one",
        ];
        let imrun = bundle.command(&arguments);
        let mut python = Command::new("python3");
        python
            .args(["-c", script])
            .arg(path)
            .arg(imrun.get_program());
        let output = python.args(imrun.get_args()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{path:?}: {text}");
        assert!(
            text.contains("descriptor 3: is a path, opened with O_PATH"),
            "{text}"
        );
    }
}

#[test]
fn unsupported_features_are_refused_with_a_reason() {
    let bundle = bundle!("true");
    bundle.refused(&["exec", "one", "sh"], "never entered");
    bundle.refused(&["update", "one"], "lives and dies");
    bundle.refused(
        &[
            "create",
            "--console-socket",
            "/s",
            "--bundle",
            bundle.dir(),
            "one",
        ],
        "no terminal",
    );
    bundle.refused(
        &["create", "--bundle", bundle.dir(), "../one"],
        "expected 1 to 255",
    );
    let log = bundle.path("log.json");
    let global = [
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "--systemd-cgroup",
    ];
    bundle.change(|config| config["process"]["terminal"] = json!(true));
    let create = ["create", "--bundle", bundle.dir(), "one"];
    bundle.refused(&[&global[..], &create].concat(), "process.terminal");
    let line: Value = serde_json::from_slice(&std::fs::read(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"].as_str().unwrap().contains("process.terminal"),
        "{line}"
    );
}

#[test]
fn the_pid_file_replaces_a_symbolic_link_and_keeps_its_target() {
    let bundle = bundle!("busybox true");
    let (victim, pid_file) = (bundle.path("victim"), bundle.path("pid"));
    for leads_to in [&victim, &bundle.path("pid.new")] {
        std::fs::write(&victim, "untouched").unwrap();
        symlink(leads_to, &pid_file).unwrap();
        symlink(&victim, bundle.path("pid.new")).unwrap();
        let (pid, _output) = bundle.create("one");
        assert!(pid > 1 && !pid_file.is_symlink());
        let mode = pid_file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        bundle.succeeds(&["delete", "--force", "one"]);
        for path in [&pid_file, &bundle.path("pid.new")] {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn the_log_file_is_private_and_is_not_written_through_a_symbolic_link() {
    let bundle = bundle!("busybox true");
    let (victim, log) = (bundle.path("victim"), bundle.path("log"));
    let state = ["--log", log.to_str().unwrap(), "state", "none"];
    bundle.refused(&state, "does not exist");
    bundle.refused(&state, "does not exist");
    let lines = std::fs::read_to_string(&log).unwrap();
    assert_eq!(lines.matches("does not exist").count(), 2, "{lines}");
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    std::fs::remove_file(&log).unwrap();
    std::fs::write(&victim, "untouched").unwrap();
    symlink(&victim, &log).unwrap();
    bundle.refused(&state, "is a symbolic link");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
}

#[test]
fn the_state_of_a_created_container_is_private() {
    fn modes(path: &Path, found: &mut Vec<(String, u32)>) {
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        if mode != expected {
            found.push((path.display().to_string(), mode));
        }
        if metadata.is_dir() {
            let entries = std::fs::read_dir(path).unwrap();
            entries.for_each(|entry| modes(&entry.unwrap().path(), found));
        }
    }
    let bundle = bundle!("busybox true");
    let _created = bundle.create("one");
    let mut found = Vec::new();
    modes(&bundle.path("run"), &mut found);
    assert_eq!(found, []);
    bundle.succeeds(&["delete", "--force", "one"]);
}
