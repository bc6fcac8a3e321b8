//! Which level holds, and where it is said.

use super::lab::{DATA, Lab, can_launch, without_sealed};
use super::skip::is_unpacked;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;

fn run(mut command: std::process::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_demand_gets_its_own_level_or_a_stronger_one() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.settle();
    lab.launch("known", &["true"]).holds("hashed", "made");
    lab.launch("known", &["true"]).holds("known", "fits");
    lab.launch("auto", &["true"]).holds("known", "fits");
    lab.launch("hashed", &["true"]).holds("hashed", "made");
    let unsupported = |level: &str| {
        let refused = lab.launch(level, &["true"]);
        refused
            .refused(&format!("--integrity {level}"))
            .because("unsupported");
    };
    unsupported("verity");
    match is_unpacked() {
        true => unsupported("sealed"),
        false => drop(lab.launch("sealed", &["true"]).holds("sealed", "none")),
    }
}

#[test]
fn the_level_is_in_the_list_of_containers() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.make_known();
    let levels = ["known", "hashed", "sealed"];
    for level in levels.into_iter().take(if is_unpacked() { 2 } else { 3 }) {
        let mut child = lab
            .command("true", level, &["sh", "-c", "echo up; read x"])
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let list: Value = serde_json::from_str(&run(lab.imrun("true", &["ps", "--json"]))).unwrap();
        assert_eq!(list[0]["integrity"], level);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn inspect_hashes_even_what_is_known() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.make_known();
    let words = ["inspect", &lab.image().manifest];
    let shown: Value = serde_json::from_str(&run(lab.imrun("true", &words))).unwrap();
    assert_eq!(
        (&shown["integrity"], &shown["memo"]),
        (&"hashed".into(), &"made".into())
    );
}

/// What `hashed` and `known` do not promise, and `sealed` does.
#[test]
fn a_sealed_container_does_not_see_what_is_written_to_the_store() {
    if !can_launch() || without_sealed() {
        return;
    }
    let lab = Lab::new();
    let script = "echo up; read x; cat /data";
    let mut child = lab
        .command("true", "sealed", &["sh", "-c", script])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let layer = lab.object(&lab.image().layer);
    let file = fs::OpenOptions::new().write(true).open(&layer).unwrap();
    let zeros = vec![0; file.metadata().unwrap().len() as usize];
    file.write_all_at(&zeros, 0).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), DATA);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_sealed_launch_leaves_no_loop_device_behind() {
    if !can_launch() || without_sealed() {
        return;
    }
    let lab = Lab::new();
    // The names of imrun's own copies: other tests may have some at this moment.
    let script = "cat /proc/self/mountinfo";
    lab.launch("sealed", &["sh", "-c", script])
        .holds("sealed", "none");
    let mut tries = 0;
    while memory_loops() > 0 {
        tries += 1;
        assert!(tries < 1000, "a loop device over a memfd stays");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Loop devices whose file is a copy in memory.
fn memory_loops() -> usize {
    let devices = fs::read_dir("/sys/block")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = |device: std::path::PathBuf| fs::read_to_string(device.join("loop/backing_file"));
    devices
        .filter_map(|device| file(device).ok())
        .filter(|file| file.contains("memfd:imrun"))
        .count()
}
