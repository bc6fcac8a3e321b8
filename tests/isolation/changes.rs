//! Every way to change something has the outcome in its row of images/probe: refused, reported or allowed.

use crate::host::Host;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Output;

/// Report of an attempt: call, place, argument and errno.
type Told = [String; 4];

/// One way, with the result of the probe.
#[derive(Debug)]
struct Row {
    name: String,
    outcome: String,
    expected: String,
    /// Expected outcome under `kill` and `check`.
    strict: String,
    told: Option<Told>,
    is_of_process: bool,
    why: String,
}

impl Row {
    fn parse(line: &str) -> Option<Row> {
        let words: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let [
            name,
            outcome,
            expected,
            strict,
            call,
            place,
            argument,
            is_of_process,
            why,
        ] = words.try_into().ok()?;
        let told = [call, place, argument, outcome.clone()];
        Some(Row {
            name,
            outcome,
            expected,
            strict,
            told: (told[0] != "-").then_some(told),
            is_of_process: is_of_process == "true",
            why,
        })
    }

    /// Returns true if the outcome is the expected one.
    fn is_as_expected(&self, strict: bool) -> bool {
        let expected = if strict { &self.strict } else { &self.expected };
        expected.split('|').any(|outcome| outcome == self.outcome)
    }
}

/// Bakes an image of the probe with the files that its attempts need.
fn image(host: &Host) -> String {
    let fill = |top: &Path| {
        std::fs::create_dir(top.join("home")).unwrap();
        symlink("probe", top.join("link")).unwrap();
    };
    host.bake(fill, "")
}

/// Launches the probe, with status events on standard error.
fn try_some(host: &Host, options: &[&str], attempts: &[&str]) -> Output {
    let options = [&["--status-fd", "2"], options].concat();
    host.launch_of(&image(host), &options, attempts)
        .output()
        .unwrap()
}

fn rows(text: &[u8]) -> Vec<Row> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(Row::parse)
        .collect()
}

/// Returns the status events with a name.
fn events(output: &Output, name: &str) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let events = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == name).collect()
}

fn told(event: &Value) -> Told {
    let word = |name: &str| event[name].as_str();
    let place = word("resolved").or(word("path")).unwrap_or("-");
    let argument = word("argument").unwrap_or("-");
    let words = [
        word("syscall").unwrap(),
        place,
        argument,
        word("errno").unwrap(),
    ];
    words.map(str::to_owned)
}

/// Returns the reports, each different one once.
fn reported(output: &Output) -> Vec<Told> {
    let effects = events(output, "side-effect");
    effects
        .iter()
        .filter(|event| event["count"] == 1)
        .map(told)
        .collect()
}

/// Fails with all rows whose outcome is not the expected one.
#[track_caller]
fn assert_outcomes(rows: &[Row], strict: bool) {
    let wrong: Vec<_> = rows
        .iter()
        .filter(|row| !row.is_as_expected(strict))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Prints a table of all attempts and outcomes, shown by `cargo test … -- --nocapture`.
fn print_table(rows: &[Row]) {
    println!("{:<50} {:<12} {:<8}  why", "tried", "outcome", "reported");
    for row in rows {
        let reported = if row.told.as_ref().is_some() {
            "yes"
        } else {
            "no"
        };
        println!(
            "{:<50} {:<12} {reported:<8}  {}",
            row.name, row.outcome, row.why
        );
    }
    let count = |wanted: &dyn Fn(&&Row) -> bool| rows.iter().filter(wanted).count();
    println!(
        "{} tried, {} refused, {} reported, {} allowed",
        rows.len(),
        count(&|row| row.outcome != "ok"),
        count(&|row| row.told.as_ref().is_some()),
        count(&|row| row.outcome == "ok"),
    );
}

#[test]
fn every_way_to_change_something_has_the_outcome_in_its_row() {
    let host = host!();
    let output = try_some(&host, &[], &["ways"]);
    let rows = rows(&output.stdout);
    print_table(&rows);
    assert!(rows.len() >= 320, "{}: {output:?}", rows.len());
    assert_outcomes(&rows, false);
    let succeeded = |row: &&Row| row.outcome == "ok" && row.told.is_some();
    assert_eq!(rows.iter().filter(succeeded).count(), 0);
    let unexplained = |row: &&Row| row.told.is_none() && row.why.is_empty();
    assert_eq!(rows.iter().filter(unexplained).count(), 0);

    let reported = reported(&output);
    let expected: Vec<_> = rows.iter().filter_map(|row| row.told.as_ref()).collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|told| !reported.contains(told))
        .collect();
    let surplus: Vec<_> = reported
        .iter()
        .filter(|told| !expected.contains(told))
        .collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "not reported: {missing:#?}\nnot tried: {surplus:#?}"
    );
    let exit = &events(&output, "exit")[0]["sideEffects"];
    assert_eq!(
        exit["attempts"],
        expected.len(),
        "each attempt is counted once"
    );
    let unread = expected
        .iter()
        .filter(|told| told[1] == "unreadable")
        .count();
    assert_eq!(exit["unread"], unread);
}

#[test]
fn a_check_counts_each_way_as_in_its_row() {
    let host = host!();
    let image = image(&host);
    let output = host
        .imrun(["check", "--json", "--sink", "stdio:", &image, "ways"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let rows = rows(&output.stderr);
    assert!(rows.len() >= 320, "{}: {output:?}", rows.len());
    assert_outcomes(&rows, true);
    let mut expected = BTreeMap::new();
    for told in rows.iter().filter_map(|row| row.told.as_ref()) {
        *expected.entry(told.clone()).or_insert(0) += 1;
    }
    // Opens with different flags are counted separately.
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut counted = BTreeMap::new();
    for effect in report["sideEffects"].as_array().unwrap() {
        *counted.entry(told(effect)).or_insert(0) += effect["count"].as_u64().unwrap();
    }
    assert_eq!(counted, expected);
    assert_eq!(report["attempts"], expected.values().sum::<u64>());
}

#[test]
fn without_an_observer_attempts_fail_alike_and_are_not_reported() {
    let host = host!();
    let quiet = try_some(&host, &["--on-write", "quiet"], &["ways"]);
    let loud = try_some(&host, &[], &["ways"]);
    for (quiet, loud) in rows(&quiet.stdout).iter().zip(&rows(&loud.stdout)) {
        // Only a filter with notifications has a listener, and there can be only one.
        if quiet.name != "seccomp, a second listener" {
            assert_eq!(quiet.outcome, loud.outcome, "{}", quiet.name);
        }
    }
    assert!(reported(&quiet).is_empty());
    assert!(!String::from_utf8_lossy(&quiet.stderr).contains("side effects"));
}

#[test]
fn the_reported_errno_is_the_same_for_all_users() {
    let host = host!();
    let output = try_some(&host, &["-u", "1000:1000"], &["ways"]);
    let rows = rows(&output.stdout);
    let reported = reported(&output);
    let expected = rows.iter().filter_map(|row| row.told.as_ref());
    let missing: Vec<_> = expected.filter(|told| !reported.contains(told)).collect();
    assert!(missing.is_empty(), "{missing:#?} are not in {reported:#?}");
}

#[test]
fn harmless_calls_end_no_container() {
    let host = host!();
    let output = try_some(&host, &["--on-write", "kill"], &["harmless"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let rows = rows(&output.stdout);
    assert!(rows.len() >= 150, "{}", rows.len());
    assert_outcomes(&rows, true);
    let expected: Vec<_> = rows.iter().filter_map(|row| row.told.as_ref()).collect();
    assert_eq!(reported(&output).iter().collect::<Vec<_>>(), expected);
}

#[test]
fn every_reported_way_ends_the_container_under_on_write_kill() {
    let host = host!();
    let image = image(&host);
    let rows = rows(&try_some(&host, &["--on-write", "quiet"], &["ways"]).stdout);
    let attempts: Vec<_> = rows
        .iter()
        .filter(|row| row.told.as_ref().is_some() && !row.is_of_process)
        .collect();
    assert!(attempts.len() > 200, "{}", attempts.len());
    for row in attempts {
        let attempt = format!("way:{}", row.name);
        let output = host
            .launch_of(&image, &["--on-write", "kill"], &[&attempt])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(122), "{row:?} {output:?}");
        assert!(output.stdout.is_empty(), "the call never returns");
    }
}

/// Calls whose names or descriptors another thread changes continuously.
const RACES: [&str; 15] = [
    "device",
    "own-descriptor",
    "trait",
    "mkdir",
    "exclusive",
    "reading",
    "directory",
    "link",
    "chmod",
    "unlink",
    "socket",
    "times",
    "fchmod",
    "futimens",
    "ioctl",
];

#[test]
fn a_call_changed_by_another_thread_ends_the_container_under_on_write_kill() {
    let host = host!();
    let image = image(&host);
    for race in RACES {
        for _ in 0..3 {
            let attempt = format!("race:{race}");
            let output = host
                .launch_of(&image, &["--on-write", "kill"], &[&attempt])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            match output.status.code() {
                Some(122) => assert_eq!(text, "", "{race}"),
                // No change by the other thread was observed.
                code => assert_eq!(
                    (code, &*text),
                    (Some(0), &*format!("{attempt}: 0\n")),
                    "{output:?}"
                ),
            }
        }
    }
}

#[test]
fn a_check_counts_calls_changed_by_another_thread() {
    let host = host!();
    let image = image(&host);
    for race in RACES {
        let attempt = format!("race:{race}");
        let output = host
            .imrun(["check", "--json", "--sink", "stdio:", &image, &attempt])
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let refused = format!("{attempt}: 0");
        let refused = !String::from_utf8_lossy(&output.stderr).contains(&refused);
        let seen = report["attempts"].as_u64().unwrap() > 0;
        assert!(seen || !refused, "{race}: {output:?}");
        assert_eq!(
            output.status.code(),
            Some(i32::from(seen)),
            "{race}: {output:?}"
        );
    }
}

#[test]
fn a_check_with_unreadable_attempts_is_not_clean() {
    let host = host!();
    let image = image(&host);
    for (way, syscall, errno) in [
        ("open a name that cannot be read", "open", "EFAULT"),
        ("ftruncate what is not open", "ftruncate", "EBADF"),
    ] {
        let attempt = format!("way:{way}");
        let output = host
            .imrun(["check", "--json", "--sink", "stdio:", &image, &attempt])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&report["attempts"], &report["unread"]),
            (&1.into(), &1.into())
        );
        let effect = &report["sideEffects"][0];
        assert_eq!(
            told(effect),
            [syscall, "unreadable", "-", errno].map(str::to_owned)
        );
        assert_eq!(effect["resolved"], Value::Null);
        let output = host
            .launch_of(&image, &["--on-write", "kill"], &[&attempt])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(122), "{output:?}");
    }
}

/// Returns the number of attempts on `/new` in the exit event, and the probe's output.
fn attempts(host: &Host, tried: &[&str]) -> (u64, String) {
    let options = ["--status-fd", "2"];
    let output = host.launch(&options, tried).output().unwrap();
    let exit = events(&output, "exit");
    let exit = exit.first().unwrap_or_else(|| panic!("{output:?}"));
    let count = exit["sideEffects"]["attempts"].as_u64().unwrap();
    (count, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_attempt_of_any_process_is_counted_once() {
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
fn an_apps_filter_can_refuse_calls_but_not_notify() {
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

/// Returns everything on the host that an app could change: the store, mounts, System V objects, message queues.
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
        // Other tests mount below their own directories.
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
