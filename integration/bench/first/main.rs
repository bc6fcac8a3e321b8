//! As the first process (`before`): prints the time and becomes what the arguments name. As the app
//! (`app`): prints the time and ends, or switches the machine off where nobody else does.
//! Times are CLOCK_MONOTONIC in microseconds.
//!
//! Nothing but the standard library, whose `Instant` is that clock but does not show it: the kernel
//! says it in /proc/timer_list or by clock_gettime(2), which is declared here.
use std::ffi::{c_char, c_int, c_long};
use std::os::unix::process::CommandExt;

#[repr(C)]
struct Time {
    seconds: c_long,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
    fn reboot(what: c_int) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

fn main() {
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(1, &mut time) };
    let now = time.seconds * 1_000_000 + time.nanoseconds / 1000;
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("app") => {
            println!("app {now}");
            if words.next().is_some() {
                std::thread::sleep(std::time::Duration::from_millis(200));
                unsafe { reboot(0x4321_fedc) };
            }
        }
        _ => before(now),
    }
}

/// Loads the modules of /first, so that their cost is nobody's, and becomes /first.init.
fn before(_: c_long) {
    let list = std::fs::read_to_string("/first/order").unwrap_or_default();
    for name in list.lines() {
        let module = std::fs::File::open(format!("/first/{name}")).expect("a module");
        let none: *const c_char = c"".as_ptr();
        let done = unsafe { syscall(313, std::os::fd::AsRawFd::as_raw_fd(&module), none, 0) };
        assert!(done == 0, "{name}: {}", std::io::Error::last_os_error());
    }
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(1, &mut time) };
    println!("before {}", time.seconds * 1_000_000 + time.nanoseconds / 1000);
    let error = std::process::Command::new("/sbin/init").arg0("init").exec();
    panic!("/sbin/init: {error}");
}
