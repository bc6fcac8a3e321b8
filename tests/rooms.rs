//! The rooms of the source, and which of them may use which.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// From the top to the bottom: a room uses only rooms that stand in a later line.
const FLOORS: [&[&str]; 8] = [
    &["shim"],
    &["cli"],
    &["appliance", "bake", "oci"],
    &["runtime"],
    &["logs", "registry"],
    &["store"],
    &["image"],
    &["base"],
];

/// The files of the source that are in no room.
const BESIDE: [&str; 3] = ["build.rs", "lib.rs", "main.rs"];

#[test]
fn a_room_uses_only_rooms_below_it() {
    let climbing: Vec<_> = source_files()
        .iter()
        .flat_map(|file| climbing(file))
        .collect();
    assert!(climbing.is_empty(), "\n{}", climbing.join("\n"));
}

#[test]
fn paths_name_their_room_in_the_line_that_begins_them() {
    for file in source_files() {
        let text = fs::read_to_string(source().join(&file)).unwrap();
        let grouped = code(&text).find(|(_, line)| line.contains("crate::{"));
        assert_eq!(grouped, None, "src/{}", file.display());
    }
}

#[test]
fn every_file_of_the_source_is_in_a_room() {
    let source = source();
    for entry in fs::read_dir(&source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            floor(&name).is_some() || BESIDE.contains(&name.as_str()),
            "src/{name} is no room"
        );
    }
}

#[test]
fn system_calls_alone_have_unsafe_code() {
    for file in source_files() {
        let text = fs::read_to_string(source().join(&file)).unwrap();
        let is_system = file.starts_with("base/sys");
        let has_unsafe =
            code(&text).any(|(_, line)| line.contains("unsafe {") || line.contains("unsafe fn"));
        assert!(
            is_system || !has_unsafe,
            "src/{} has unsafe code",
            file.display()
        );
    }
}

/// A line of text for each use of a room that does not stand below the file's own.
fn climbing(file: &Path) -> Vec<String> {
    let own = file.iter().next().and_then(|room| room.to_str()).unwrap();
    let Some(own_floor) = floor(own) else {
        return Vec::new();
    };
    let text = fs::read_to_string(source().join(file)).unwrap();
    let uses =
        code(&text).flat_map(|(number, line)| rooms_in(line).map(move |room| (number, room, line)));
    uses.filter(|(_, room, _)| *room != own && floor(room).is_some_and(|other| other <= own_floor))
        .map(|(number, _, line)| format!("src/{}:{number}: {}", file.display(), line.trim()))
        .collect()
}

/// The lines of a file with their numbers, without comments and without its tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end]
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The first names of all paths that begin with `crate::`.
fn rooms_in(line: &str) -> impl Iterator<Item = &str> {
    let end = |rest: &str| {
        rest.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len())
    };
    line.split("crate::")
        .skip(1)
        .map(move |rest| &rest[..end(rest)])
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The paths of all files of the source but those that are tests, from `src` on.
fn source_files() -> Vec<PathBuf> {
    let (mut files, mut left) = (Vec::new(), vec![source()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(source()).unwrap().to_owned());
            }
        }
    }
    files.retain(|file| !file.ends_with("tests.rs") && !file.iter().any(|part| part == "tests"));
    assert!(files.len() > 100, "{} files", files.len());
    files
}
