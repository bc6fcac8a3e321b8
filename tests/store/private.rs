//! Only their owner can access the store and the runtime state.

use crate::host;
use crate::support::host::{Host, IMRUN};
use crate::support::outcome::Outcome;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Returns every path in a directory, and the directory itself, whose mode is not that of a private file or
/// directory. The image determines the modes of its unpacked files.
fn others_reach(path: &Path) -> Vec<String> {
    let metadata = fs::symlink_metadata(path).unwrap();
    let (mode, expected) = if metadata.is_dir() {
        (metadata.mode() & 0o7777, 0o700)
    } else {
        (metadata.mode() & 0o7777, 0o600)
    };
    let mut found = Vec::new();
    if mode != expected {
        found.push(format!("{mode:04o} {}", path.display()));
    }
    if metadata.is_dir() && !path.ends_with("roots") {
        let entries = fs::read_dir(path).unwrap();
        found.extend(entries.flat_map(|entry| others_reach(&entry.unwrap().path())));
    }
    found
}

/// Runs a command from a shell with this umask.
fn with_umask(host: &Host, umask: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "umask $0; exec \"$@\"", umask, IMRUN]);
    command.arg("--store").arg(host.path("store"));
    command.arg("--root").arg(host.path("root")).args(args);
    let output = command.env_remove("IMRUN_SINK").output().unwrap();
    Outcome::new(format!("{command:?}"), output, Vec::new())
}

#[test]
fn new_files_are_private_with_any_umask() {
    for umask in ["0", "0777"] {
        let host = host!();
        host.busybox();
        fs::remove_dir_all(host.path("store")).unwrap();
        let definition = host.path("image.toml");
        let bake = ["bake", definition.to_str().unwrap()];
        let image = with_umask(&host, umask, &bake).exits(0).line();
        assert_eq!(others_reach(&host.path("store")), Vec::<String>::new());
        let app = ["run", "--sink", "stdio:", &image, "sh", "-c"];
        // The container has its default umask and can list its own cgroup.
        let look = "umask; ls /sys/fs/cgroup >/dev/null && echo listed";
        let app = with_umask(&host, umask, &[&app[..], &[look]].concat());
        app.exits(0).prints("0022\nlisted\n");
        assert_eq!(others_reach(&host.path("root")), Vec::<String>::new());
    }
}

#[test]
fn the_state_of_a_running_container_is_private() {
    let host = host!();
    let app = host.launch().options(["--name", "one"]);
    let mut app = app.script("echo up; sleep 1000").spawn();
    app.expect_line("up");
    app.event("started");
    assert_eq!(others_reach(&host.path("root")), Vec::<String>::new());
    app.signal(nix::sys::signal::Signal::SIGKILL);
    app.wait();
    host.sweep();
}

/// Makes a store readable by everybody, as an imrun that followed the usual umask would.
fn open_to_all(path: &Path) {
    let mode = if fs::symlink_metadata(path).unwrap().is_dir() {
        0o755
    } else {
        0o644
    };
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    if mode == 0o755 {
        let entries = fs::read_dir(path).unwrap();
        entries.for_each(|entry| open_to_all(&entry.unwrap().path()));
    }
}

#[test]
fn a_store_that_others_can_read_is_made_private_and_one_line_reports_it() {
    let host = host!();
    let image = host.busybox();
    let store = host.path("store");
    for args in [&["images"][..], &["verify", image], &["gc"]] {
        open_to_all(&store);
        let first = host.imrun(args).exits(0);
        let lines: Vec<_> = first.err.lines().collect();
        assert_eq!(lines.len(), 1, "{first:?}");
        assert!(lines[0].contains("others could access"), "{first:?}");
        assert!(lines[0].contains(store.to_str().unwrap()), "{first:?}");
        assert_eq!(others_reach(&store), Vec::<String>::new());
        assert_eq!(host.imrun(args).exits(0).err, "");
    }
    open_to_all(&store);
    let launched = host.launch().app(["true"]).run().exits(0);
    assert!(launched.err.contains("others could access"), "{launched:?}");
    assert_eq!(others_reach(&store), Vec::<String>::new());
    open_to_all(&host.path("root"));
    host.imrun(["ps"]).exits(0);
    assert_eq!(
        fs::metadata(host.path("root")).unwrap().mode() & 0o777,
        0o700
    );
}

#[test]
fn another_user_neither_reads_an_image_nor_holds_the_lock() {
    let host = host!();
    let image = host.busybox();
    fs::set_permissions(host.path(""), Permissions::from_mode(0o755)).unwrap();
    for path in [host.path("store/lock"), host.blob(image)] {
        assert!(path.exists(), "{path:?}");
        let mut read = Command::new("/bin/sh");
        read.args(["-c", "exec 3<\"$0\""]).arg(&path);
        let output = read.uid(1000).gid(1000).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(why.contains("Permission denied"), "{path:?}: {why}");
    }
}

#[test]
fn a_readable_store_on_a_read_only_medium_is_used_with_a_warning() {
    let host = host!();
    let image = host.busybox();
    let store = host.path("store");
    let launch = |mode: u32| {
        fs::set_permissions(&store, Permissions::from_mode(mode)).unwrap();
        let medium =
            "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; shift; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", medium, "sh"]).arg(&store);
        command.args([IMRUN, "--store"]).arg(&store);
        command.arg("--root").arg(host.path("root"));
        command.args(["run", "--sink", "stdio:", image, "echo", "ran"]);
        let output = command.env_remove("IMRUN_SINK").output().unwrap();
        Outcome::new(format!("{command:?}"), output, Vec::new())
    };
    let open = launch(0o755).exits(0).prints("ran\n");
    assert!(
        open.err
            .contains("Read-only file system: other users can read"),
        "{open:?}"
    );
    assert_eq!(launch(0o700).exits(0).prints("ran\n").err, "");
}

#[test]
fn hashing_does_not_change_access_times() {
    let host = host!();
    let image = host.busybox();
    let files = || {
        let names = host.blobs().into_iter();
        names.map(|digest| host.blob(&digest)).collect::<Vec<_>>()
    };
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    for file in files() {
        let times = fs::FileTimes::new().set_accessed(long_ago);
        fs::File::open(file).unwrap().set_times(times).unwrap();
    }
    host.imrun(["verify"]).exits(0);
    host.imrun(["inspect", image]).exits(0);
    for file in files() {
        assert_eq!(fs::metadata(&file).unwrap().atime(), 1, "{file:?}");
    }
}
