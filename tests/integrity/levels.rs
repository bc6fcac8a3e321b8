//! The integrity level of a launch, and the places that report it.

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
    if is_unpacked() {
        unsupported("sealed")
    } else {
        drop(lab.launch("sealed", &["true"]).holds("sealed", "none"))
    }
}

#[test]
fn the_list_of_containers_shows_the_level() {
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
fn inspect_hashes_even_a_known_image() {
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

/// `sealed` prevents this, `hashed` and `known` do not.
#[test]
fn a_sealed_container_does_not_see_later_writes_to_the_store() {
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
fn a_sealed_launch_leaves_no_loop_device() {
    if !can_launch() || without_sealed() {
        return;
    }
    let lab = Lab::new();
    let mut child = lab
        .command(
            "true",
            "sealed",
            &["sh", "-c", "cat /proc/self/mountinfo; echo; read x"],
        )
        .spawn()
        .unwrap();
    // Kept open to the end: closing the pipe would end the container.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mounts: Vec<_> = lines
        .by_ref()
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
        .collect();
    let names = loops_of_root(&mounts);
    // Identified by their files, since another container may reuse a free device.
    let own: Vec<_> = loops()
        .into_iter()
        .filter(|(name, _)| names.contains(name))
        .collect();
    assert!(own.len() == names.len() && !own.is_empty(), "{mounts:#?}");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    let mut tries = 0;
    while loops().iter().any(|device| own.contains(device)) {
        tries += 1;
        assert!(tries < 1000, "a loop device over a memfd is left: {own:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Returns the loop devices of the root in a mount table: its source and its further devices.
fn loops_of_root(mounts: &[String]) -> Vec<String> {
    let root = mounts.iter().find(|line| line.contains(" / / ")).unwrap();
    let words = root
        .split([' ', ',', '='])
        .filter(|word| word.starts_with("/dev/loop"));
    words.map(str::to_owned).collect()
}

/// Returns the loop devices in use, each with its file.
fn loops() -> Vec<(String, String)> {
    let mut command = std::process::Command::new("losetup");
    command.args(["--list", "--noheadings", "-O", "NAME,BACK-MAJ:MIN,BACK-INO"]);
    let device = |line: &str| {
        let (name, file) = line.trim().split_once(' ').unwrap();
        (name.to_owned(), file.trim().to_owned())
    };
    run(command).lines().map(device).collect()
}
