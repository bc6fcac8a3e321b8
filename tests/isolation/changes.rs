//! Whatever an app tries to change, it fails, is reported, and the host is as it was.

use crate::host::Host;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Output;

/// A host whose probe has what its changes are about.
fn image(host: &Host) -> String {
    let fill = |top: &Path| {
        std::fs::create_dir(top.join("home")).unwrap();
        symlink("probe", top.join("link")).unwrap();
    };
    host.bake(fill, "")
}

/// The status events go to standard error.
fn try_all(host: &Host, options: &[&str]) -> Output {
    let options = [&["--status-fd", "2"], options].concat();
    host.launch_of(&image(host), &options, &["changes"])
        .output()
        .unwrap()
}

/// Call, errno and path of each attempt, as the probe saw it.
fn seen(output: &Output) -> Vec<(String, i32, String)> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut next = || words.next().unwrap();
        (next(), next().parse().unwrap(), next())
    };
    text.lines().map(line).collect()
}

/// Call, errno and path of each attempt, as it was reported; and how many lines were told besides.
fn reported(output: &Output) -> Vec<(String, i32, String)> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let events = text.lines().filter(|line| line.starts_with('{'));
    let events = events.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let effects = events.filter(|event| event["event"] == "side-effect");
    let effect = |event: Value| {
        let path = [&event["resolved"], &event["path"]]
            .into_iter()
            .find_map(Value::as_str);
        let call = event["syscall"].as_str().unwrap().to_owned();
        let errno = errno(event["errno"].as_str().unwrap());
        (call, errno, path.unwrap_or("-").to_owned())
    };
    effects.map(effect).collect()
}

fn errno(name: &str) -> i32 {
    let of = |number: &i32| format!("{:?}", nix::errno::Errno::from_raw(*number)) == name;
    (1..134).find(of).unwrap()
}

#[test]
fn every_way_to_change_something_fails_and_is_reported_with_its_path_and_errno() {
    let host = host!();
    let output = try_all(&host, &[]);
    let tried = seen(&output);
    assert!(tried.len() >= 90, "{output:?}");
    assert!(tried.iter().all(|(_, errno, _)| *errno != 0), "{tried:?}");
    let told = reported(&output);
    for attempt in &tried {
        assert!(told.contains(attempt), "{attempt:?} is not among {told:?}");
    }
    let known = told
        .iter()
        .filter(|attempt| !tried.contains(attempt))
        .count();
    assert_eq!(known, 0, "more was reported than was tried: {told:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.contains(&format!("imrun: side effects: {} attempts: ", tried.len())),
        "{line}"
    );
}

#[test]
fn without_an_observer_they_fail_in_the_same_way_and_nobody_is_told() {
    let host = host!();
    let quiet = try_all(&host, &["--on-write", "quiet"]);
    assert_eq!(seen(&quiet), seen(&try_all(&host, &[])));
    assert!(reported(&quiet).is_empty());
    assert!(
        !String::from_utf8(quiet.stderr)
            .unwrap()
            .contains("side effects")
    );
}

#[test]
fn the_first_one_ends_the_container_where_that_is_asked_for() {
    let host = host!();
    let output = try_all(&host, &["--on-write", "kill"]);
    assert_eq!(output.status.code(), Some(122), "{output:?}");
    assert!(output.stdout.is_empty(), "the call never returns");
    assert_eq!(reported(&output).len(), 1);
}

/// How often `/new` was tried, by the exit event, when the probe tries these.
fn attempts(host: &Host, tried: &[&str]) -> (u64, String) {
    let options = ["--status-fd", "2"];
    let output = host.launch(&options, tried).output().unwrap();
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let events = text.lines().filter(|line| line.starts_with('{'));
    let events: Vec<Value> = events
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let exit = events.iter().find(|event| event["event"] == "exit");
    let exit = exit.unwrap_or_else(|| panic!("{output:?}"));
    let count = exit["sideEffects"]["attempts"].as_u64().unwrap();
    (count, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn no_attempt_is_missed_or_counted_twice_whoever_makes_it() {
    let host = host!();
    for (tried, count) in [
        ("mkdir_in_threads", 400),
        ("mkdir_among_signals", 500),
        ("mkdir_in_child", 1),
    ] {
        let (attempts, out) = attempts(&host, &[tried]);
        assert_eq!(attempts, count, "{tried}: {out}");
    }
}

#[test]
fn a_filter_of_the_apps_own_can_take_calls_away_but_not_be_asked() {
    let host = host!();
    let (attempts, out) = attempts(&host, &["second_listener", "mkdir_behind_a_filter"]);
    assert_eq!(
        out,
        "second_listener: EBUSY\nmkdir_behind_a_filter: EACCES\n"
    );
    assert_eq!(attempts, 0, "the app stopped it itself");
}

#[test]
fn nothing_on_the_host_is_changed() {
    let host = host!();
    let digest = image(&host);
    let launch = || host.launch_of(&digest, &[], &["changes"]).output().unwrap();
    launch();
    let before = traces(&host);
    launch();
    assert_eq!(traces(&host), before);
}

/// What an app could have changed: the store, mounts, System V's objects, message queues.
fn traces(host: &Host) -> BTreeMap<String, String> {
    let mut traces = BTreeMap::new();
    files_below(&host.path("store"), &mut traces);
    for file in [
        "mounts",
        "swaps",
        "sysvipc/shm",
        "sysvipc/sem",
        "sysvipc/msg",
    ] {
        let text = std::fs::read_to_string(format!("/proc/{file}")).unwrap();
        // Other tests mount beneath directories of their own.
        let lines = text.lines().filter(|line| !line.contains("imrun-test-"));
        traces.insert(file.into(), lines.collect::<Vec<_>>().join("\n"));
    }
    traces
}

fn files_below(directory: &Path, traces: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let what = (
            metadata.ino(),
            metadata.len(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        traces.insert(entry.path().display().to_string(), format!("{what:?}"));
        if metadata.is_dir() {
            files_below(&entry.path(), traces);
        }
    }
}
