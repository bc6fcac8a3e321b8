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

/// Whether images are unpacked here: by IMRUN_DRIVER, for want of root or of a kernel that mounts them.
#[allow(dead_code)] // not every suite asks
pub fn is_unpacked() -> bool {
    let demanded = std::env::var("IMRUN_DRIVER").is_ok_and(|driver| driver == "overlay");
    demanded || !nix::unistd::geteuid().is_root() || !imrun::runtime::rootfs::is_known()
}

/// Whether the test is over because an ordinary user runs it, and why that matters.
#[allow(dead_code)] // not every suite asks
pub fn without_root(why: &str) -> bool {
    let ordinary = !nix::unistd::geteuid().is_root();
    if ordinary {
        skip(why);
    }
    ordinary
}

/// Why this host cannot launch, if it cannot.
pub fn missing() -> Option<&'static str> {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root && imrun::base::sys::probe::try_namespaces(libc::CLONE_NEWUSER as u64).is_err() {
        return Some("launching takes root or user namespaces");
    }
    if is_root && imrun::runtime::cgroup::hierarchy().is_err() {
        return Some("no cgroup2 is mounted");
    }
    if imrun::base::sys::landlock::version().is_err() {
        return Some("this kernel has no Landlock");
    }
    None
}
