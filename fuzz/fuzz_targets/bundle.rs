//! config.json of a bundle from arbitrary bytes: no panic, and no cgroup beside the hierarchy.
#![no_main]

use imrun::oci::config::{Config, Reading};
use libfuzzer_sys::fuzz_target;
use std::path::{Component, Path};

fuzz_target!(|input: (&[u8], bool, bool)| {
    let (bytes, systemd, quiet) = input;
    let reading = Reading {
        directory: Path::new("/bundle"),
        systemd,
        controllers: &["memory".to_owned()],
        image: None,
        quiet,
        is_directory: &|path| path.ends_with("directory"),
    };
    if let Ok(config) = Config::parse(bytes, &reading) {
        let cgroup = config.bundle.cgroup.unwrap_or_default();
        let normal = |part| matches!(part, Component::Normal(_));
        assert!(cgroup.components().all(normal));
    }
});
