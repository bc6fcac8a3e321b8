//! An app for demonstrations: says what it was told, and tries what an app should not do.

use std::fs;

fn main() {
    let name = std::env::var("GREETING").unwrap_or_else(|_| "nobody".into());
    println!("hello, {name}");
    println!("process {}, arguments {:?}", std::process::id(), std::env::args().collect::<Vec<_>>());
    // Nothing is cut: outside of a container, where it is allowed, no harm is done.
    for path in ["/state.db", "/etc/hosts", "/dev/shm/cache", "/proc/sys/kernel/hostname"] {
        match fs::OpenOptions::new().append(true).create(true).open(path) {
            Ok(_) => println!("write {path}: allowed"),
            Err(error) => eprintln!("write {path}: {error}"),
        }
    }
    println!("done");
}
