//! Whether this host can launch, and how a test says that it cannot.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Says that a test was skipped, and why, past the test harness, which would swallow it.
pub fn skip(why: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("test");
    let line = format!("skipped: {name}: {why} ({count} so far)\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Why this host cannot launch, if it cannot.
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("launching takes root");
    }
    if imrun::cgroup::hierarchy().is_err() {
        return Some("no cgroup2 is mounted");
    }
    if imrun::sys::mount::fsopen(c"erofs").is_err() {
        return Some("this kernel has no EROFS");
    }
    if imrun::sys::landlock::version().is_err() {
        return Some("this kernel has no Landlock");
    }
    None
}
