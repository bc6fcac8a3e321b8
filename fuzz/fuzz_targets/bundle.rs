//! A bundle's config.json from arbitrary bytes: no panic, and no cgroup outside the hierarchy.
//!
//! The first byte selects the context of the parser.
#![no_main]

use imrun::oci::config::{Config, ParseContext};
use libfuzzer_sys::fuzz_target;
use std::path::{Component, Path};

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let context = ParseContext {
        directory: Path::new("/bundle"),
        systemd: how & 1 != 0,
        controllers: &["memory".to_owned()],
        image: None,
        quiet: how & 2 != 0,
        is_directory: &|path| path.ends_with("directory"),
    };
    if let Ok(config) = Config::parse(bytes, &context) {
        let cgroup = config.bundle.cgroup.unwrap_or_default();
        let normal = |part| matches!(part, Component::Normal(_));
        assert!(cgroup.components().all(normal));
    }
});
