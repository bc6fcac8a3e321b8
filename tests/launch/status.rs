//! `--status-fd`: machine-readable events of a launch.

use crate::host;
use crate::support::host::Host;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_successful_launch_reports_verified_started_and_exit() {
    let host = host!();
    let outcome = host.launch().script("exit 3").run().exits(3);
    let names: Vec<_> = outcome
        .events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["verified", "started", "exit"]);
    assert_eq!(outcome.event("verified")["image"], host.busybox());
    assert_eq!(outcome.event("verified")["integrity"], "hashed");
    let started = outcome.event("started");
    assert_eq!(started["id"].as_str().unwrap().len(), 64);
    assert!(started["launch"].as_str().unwrap().starts_with("sha256:"));
    assert!(started["pid"].as_u64().unwrap() > 1);
    let exit = outcome.event("exit");
    assert_eq!(
        (&exit["code"], &exit["signal"]),
        (&3.into(), &serde_json::Value::Null)
    );
    assert_eq!(exit["launch"], started["launch"]);
}

#[test]
fn a_refusal_reports_its_reason() {
    let host = host!();
    let refusals: [(&str, &[&str]); 7] = [
        ("policy", &["--privileged"]),
        ("usage", &["--net", "bogus"]),
        ("usage", &["--user", "nobody-here"]),
        ("unsupported", &["--integrity", "verity"]),
        ("sink", &["--sink", ""]),
        ("system", &["--env-file", "/no/such/file"]),
        ("usage", &["--stop-signal", "SIGTERM", "--workdir", "/none"]),
    ];
    for (reason, options) in refusals {
        let mut launch = host.launch().script("echo ran").options(options);
        if options[0] == "--sink" {
            launch = launch.without_sink();
        }
        let refused = launch.run().refused("").because(reason);
        let event = refused.event("refused");
        assert_eq!(event["code"], 125);
        assert_eq!(
            format!("imrun: {}", event["error"].as_str().unwrap()),
            refused.err.lines().next().unwrap()
        );
    }
}

#[test]
fn changed_bytes_are_refused_with_reason_digest() {
    let host = host!();
    let layer = largest_blob(&host);
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&layer, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&layer, bytes).unwrap();
    let refused = host
        .launch()
        .script("echo ran")
        .run()
        .refused("layer sha256:")
        .because("digest");
    assert_eq!(refused.events.len(), 1, "{refused:?}");
}

fn largest_blob(host: &Host) -> std::path::PathBuf {
    host.busybox();
    let blobs = fs::read_dir(host.path("store/blobs/sha256")).unwrap();
    let paths = blobs.map(|blob| blob.unwrap().path());
    paths
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

#[test]
fn a_descriptor_that_is_not_open_is_refused() {
    let host = host!();
    let run = [
        "run",
        "--status-fd",
        "77",
        "--sink",
        "stdio:",
        host.busybox(),
    ];
    host.imrun(run).refused("--status-fd 77");
}
