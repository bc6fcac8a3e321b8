//! bench/init's own two programs, for x86_64. As the first process it loads the modules of /first, prints `before` and the
//! time, and becomes /sbin/init. As `app` it prints `app` and the time of its own begin; as `app end` it switches the
//! machine off, too, where nobody else does. Times are CLOCK_MONOTONIC in microseconds.
//!
//! There is no crate in it, so the C library's functions are declared here.
use std::ffi::{c_int, c_long, c_uint};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::time::Duration;

const CLOCK_MONOTONIC: c_int = 1;
const FINIT_MODULE: c_long = 313;
const POWER_OFF: c_uint = 0x4321_fedc;

#[repr(C)]
struct Time {
    seconds: c_long,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
    fn reboot(what: c_uint) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

fn main() {
    let begun = now();
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first() {
        Some(_) => println!("app {begun}"),
        None => become_init(),
    }
    if words.len() > 1 {
        // The console is slow.
        std::thread::sleep(Duration::from_millis(200));
        unsafe { reboot(POWER_OFF) };
    }
}

fn now() -> c_long {
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(CLOCK_MONOTONIC, &mut time) };
    time.seconds * 1_000_000 + time.nanoseconds / 1000
}

fn become_init() {
    for name in std::fs::read_to_string("/first/order").unwrap_or_default().lines() {
        let module = std::fs::File::open(format!("/first/{name}")).expect("a module");
        let done = unsafe { syscall(FINIT_MODULE, module.as_raw_fd(), c"".as_ptr(), 0) };
        assert!(done == 0, "{name}: {}", std::io::Error::last_os_error());
    }
    println!("before {}", now());
    let error = std::process::Command::new("/sbin/init").arg0("init").exec();
    panic!("/sbin/init: {error}");
}
