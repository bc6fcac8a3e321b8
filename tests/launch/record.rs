//! The launch record: what decides a run, and its digest, the launch's id.

use crate::host;
use crate::support::bulk::{Answer, Bulk};
use crate::support::host::Host;
use crate::support::launch::Launch;
use crate::support::skip::{is_unpacked, skip};
use imrun::digest::Digest;
use serde_json::{Value, json};
use std::fs;

/// The launch's record and its id.
fn record(launch: Launch<'_>) -> (Value, String) {
    let bulk = Bulk::start(Answer::Well);
    launch
        .sink(format!("es+http://{}", bulk.address()))
        .run()
        .exits(0);
    let first = bulk.documents().remove(0).source;
    assert_eq!(first["event.dataset"], "imrun.launch");
    let id = first["imrun.id"].as_str().unwrap().to_owned();
    assert_eq!(first["imrun.launch_id"], id);
    (first["imrun.record"].clone(), id)
}

/// The launch's id, to a sink that is the same each time.
fn id(launch: Launch<'_>) -> String {
    launch.run().exits(0).event("started")["launch"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn blob(host: &Host, digest: &str) -> Value {
    serde_json::from_slice(&fs::read(host.blob(digest)).unwrap()).unwrap()
}

#[test]
fn the_record_has_everything_that_decides_the_run() {
    let host = host!();
    let image = host.bake_busybox("workdir = \"/home\"\nstop-signal = \"SIGUSR1\"");
    let launch = host.launch_of(&image).app(["true", "a b"]).options([
        "-u",
        "app",
        "-e",
        "A=1",
        "--hostname",
        "web",
    ]);
    let (record, _) = record(launch.options([
        "--on-stall",
        "kill",
        "--stall-deadline",
        "7s",
        "--stop-timeout",
        "2s",
    ]));

    let manifest = blob(&host, &image);
    let config = blob(&host, manifest["config"]["digest"].as_str().unwrap());
    assert_eq!(record["image"]["manifest"], image);
    assert_eq!(record["image"]["config"], manifest["config"]["digest"]);
    assert_eq!(record["image"]["diffIds"], config["rootfs"]["diff_ids"]);
    assert_eq!(record["image"]["diffIds"].as_array().unwrap().len(), 2);
    let trees = fs::read_dir(host.path("store/trees")).unwrap();
    let trees =
        trees.map(|tree| Digest::sha256(&fs::read(tree.unwrap().path()).unwrap()).to_string());
    assert!(
        trees
            .into_iter()
            .any(|tree| record["image"]["tree"] == tree),
        "{record}"
    );

    assert_eq!(record["version"], 1);
    assert_eq!(record["imrun"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(!record["imrun"]["build"].as_str().unwrap().is_empty());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(
        record["kernel"].as_str().unwrap().contains(kernel.trim()),
        "{record}"
    );
    assert_eq!(record["integrity"], "hashed");
    let driver = if is_unpacked() { "overlay" } else { "erofs" };
    assert_eq!(record["driver"]["name"], driver);
    assert_eq!(record["args"], json!(["true", "a b"]));
    let groups: &[u32] = match nix::unistd::geteuid().is_root() {
        true => &[1001, 2000],
        false => &[], // an ordinary user has none to give
    };
    assert_eq!(
        record["user"],
        json!({ "uid": 1000, "gid": 1001, "groups": groups })
    );
    assert_eq!(record["workdir"], "/home");
    assert_eq!(record["hostname"], "web");
    let variables = record["env"].as_array().unwrap().iter();
    let variables: Vec<_> = variables.map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["PATH", "HOME", "A"]);
    assert_eq!(record["network"], json!({ "mode": "none" }));
    assert_eq!(record["policy"]["onStall"], "kill");
    assert_eq!(record["policy"]["stallDeadlineMs"], 7000);
    assert_eq!(record["policy"]["stopSignal"], 10);
    assert_eq!(record["policy"]["stopTimeoutMs"], 2000);
    assert_eq!(record["policy"]["logBuffer"], 1 << 20);
    assert_eq!(record["policy"]["capabilities"], json!([]));
    assert_eq!(record["policy"]["noNewPrivileges"], true);
    assert_eq!(record["sink"]["acknowledgement"], "protocol");
}

#[test]
fn the_id_is_the_digest_of_the_canonical_record() {
    let host = host!();
    let (record, id) = record(host.launch().app(["true"]));
    assert_eq!(
        id,
        Digest::sha256(imrun::json::canonical(&record).as_bytes()).to_string()
    );
}

#[test]
fn equal_launches_have_equal_ids_whatever_they_are_called() {
    let host = host!();
    // The level is in the record: without a demand it is another one as soon as the image is known.
    let launch = |option: [&str; 2]| {
        let launch = host.launch().script("exit 0").options(option);
        launch.options(["--integrity", "hashed"])
    };
    let first = id(launch(["-e", "A=1"]));
    assert_eq!(first, id(launch(["-e", "A=1"])));
    assert_eq!(first, id(launch(["-e", "A=1"]).options(["--name", "web"])));
    let file = host.write("file", "A=1\n");
    assert_eq!(first, id(launch(["--env-file", file.to_str().unwrap()])));
}

#[test]
fn launches_that_differ_have_other_ids() {
    let host = host!();
    let other = host.bake_busybox("workdir = \"/\"");
    let launch = || host.launch().script("exit 0");
    let first = id(launch());
    let others = [
        launch().script("exit 0 "),
        launch().options(["-e", "A="]),
        launch().options(["-e", "A=2"]),
        launch().options(["--net", "host"]),
        launch().options(["-u", "app"]),
        launch().options(["-w", "/etc"]),
        launch().options(["--hostname", "web"]),
        launch().options(["--stop-timeout", "1s"]),
        launch().options(["--stop-signal", "INT"]),
        launch().options(["--on-stall", "drop"]),
        launch().environment("IMRUN_FINGERPRINT_KEY", "other"),
        host.launch_of(&other).script("exit 0"),
    ];
    let mut ids: Vec<_> = others.into_iter().map(id).chain([first]).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "two of them are the same");
}

#[test]
fn the_hosts_names_are_in_the_record_by_their_digests() {
    let host = host!();
    let (record, _) = record(host.launch().app(["true"]).options(["--net", "host"]));
    let digest = |path: &str| Digest::sha256(&fs::read(path).unwrap()).to_string();
    let network = json!({
        "mode": "host", "resolvConf": digest("/etc/resolv.conf"), "hosts": digest("/etc/hosts"),
    });
    assert_eq!(record["network"], network);
}

#[test]
fn a_store_on_a_tmpfs_is_mounted_by_loop_devices_and_the_record_says_so() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    if is_unpacked() {
        return skip("no tree image is mounted");
    }
    let host = host!();
    let store = host.path("store");
    fs::create_dir(&store).unwrap();
    mount(
        Some("none"),
        &store,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let (by_loop, _) = record(host.launch().app(["true"]));
    umount2(&store, MntFlags::empty()).unwrap();
    assert_eq!(by_loop["driver"]["backing"], "loop");

    let on_disk = host!();
    let (by_file, _) = record(on_disk.launch().app(["true"]));
    assert_eq!(by_file["image"], by_loop["image"]);
    if by_file["driver"]["backing"] == "loop" {
        return skip("this kernel takes loop devices for every store");
    }
    assert_eq!(by_file["driver"]["backing"], "file");
}

#[test]
fn a_process_1_of_imruns_is_named_in_the_record_by_its_digest() {
    let host = host!();
    let (without, _) = record(host.launch().script("true"));
    assert_eq!(without["init"], Value::Null);
    let script = "true";
    let (with, _) = record(host.launch().options(["--init"]).script(script));
    assert_eq!(with["init"]["name"], "imrun-init");
    with["init"]["digest"]
        .as_str()
        .unwrap()
        .parse::<Digest>()
        .unwrap();
    assert_eq!(with["args"], without["args"]);
}
