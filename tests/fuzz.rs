//! The fuzz targets, with what is in `fuzz/corpus` for each: they compile and hold without a nightly compiler.
#![allow(clippy::unwrap_used)]

// Stands in for the fuzzer's own crate.
extern crate self as libfuzzer_sys;

use std::path::Path;

/// A module for each target, and a test that has its name.
macro_rules! targets {
    ($($name:ident $path:literal)*) => {
        $(
            #[path = $path]
            #[allow(unused_attributes)] // no_main is for the fuzzer
            mod $name;
        )*

        mod corpus {
            $(
                #[test]
                fn $name() {
                    super::every_input(stringify!($name), super::$name::run);
                }
            )*

            #[test]
            fn every_target_is_one_of_these() {
                let mut names = vec![$(format!("{}.rs", stringify!($name))),*];
                names.sort();
                assert_eq!(super::file_names("fuzz_targets"), names);
            }
        }
    };
}

targets! {
    answers "../fuzz/fuzz_targets/answers.rs"
    bundle "../fuzz/fuzz_targets/bundle.rs"
    env "../fuzz/fuzz_targets/env.rs"
    manifest "../fuzz/fuzz_targets/manifest.rs"
    reference "../fuzz/fuzz_targets/reference.rs"
    registry "../fuzz/fuzz_targets/registry.rs"
    sink "../fuzz/fuzz_targets/sink.rs"
    tar "../fuzz/fuzz_targets/tar.rs"
    tree "../fuzz/fuzz_targets/tree.rs"
}

fn file_names(directory: &str) -> Vec<String> {
    let list = std::fs::read_dir(Path::new("fuzz").join(directory)).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = list
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Each file of a target's corpus, cut off at every place and with each bit of each byte changed, as far as that
/// takes no time.
fn every_input(target: &str, run: fn(&[u8])) {
    let corpus = Path::new("corpus").join(target);
    let names = file_names(corpus.to_str().unwrap());
    assert!(names.len() >= 3, "{target} has hardly any corpus");
    for name in names {
        let bytes = std::fs::read(Path::new("fuzz").join(&corpus).join(name)).unwrap();
        run(&bytes);
        for place in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
            run(&bytes[..place]);
            let mut changed = bytes.clone();
            for bit in 0..8 {
                changed[place] = bytes[place] ^ (1 << bit);
                run(&changed);
            }
        }
    }
}

/// The fuzzer calls a target with bytes; so does [`every_input`].
#[macro_export]
macro_rules! fuzz_target {
    (|$bytes:ident: &[u8]| $body:expr) => {
        pub fn run($bytes: &[u8]) {
            $body
        }
    };
}
