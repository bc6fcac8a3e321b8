//! Calls whose names and descriptors another thread changes all the while: between what may be done and
//! what is an attempt to change a file system.

use super::Attempt;
use super::ways::{CREAT, HERE, MODE, NULL, WRONLY, address, memory, pipe, sys};
use std::ffi::c_long;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};

const ATTEMPTS: usize = 300;
const EROFS: i32 = 30;

/// A text of which one byte is now this, now that.
struct Text(Box<[AtomicU8]>);

impl Text {
    fn new(text: &[u8]) -> Text {
        Text(text.iter().map(|byte| AtomicU8::new(*byte)).chain([AtomicU8::new(0)]).collect())
    }

    fn address(&self) -> c_long {
        self.0.as_ptr() as c_long
    }

    fn set(&self, place: usize, byte: u8) {
        self.0[place].store(byte, Ordering::Relaxed);
    }
}

/// Counts the calls of `attempt` that fail with EROFS while `change` is called with true and false by turns.
fn count(change: impl Fn(bool) + Sync, attempt: impl Fn() -> Attempt) -> usize {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = false;
            while !over.load(Ordering::Relaxed) {
                change(turn);
                turn = !turn;
                (0..500).for_each(|_| std::hint::spin_loop());
            }
        });
        let refused = |_: &usize| attempt().is_err_and(|error| error.raw_os_error() == Some(EROFS));
        let count = (0..ATTEMPTS).filter(refused).count();
        over.store(true, Ordering::Relaxed);
        count
    })
}

/// The same with one byte of a path.
fn by_name(path: &[u8], place: usize, other: u8, attempt: impl Fn(c_long) -> Attempt) -> usize {
    let text = Text::new(path);
    let change = |turn| text.set(place, if turn { path[place] } else { other });
    count(change, || attempt(text.address()))
}

/// The same with a descriptor that is now of /home, now of something else.
fn by_descriptor(harmless: c_long, attempt: impl Fn(c_long) -> Attempt) -> usize {
    let home = sys(2, &[address(b"/home\0"), 0]).unwrap();
    let moving = sys(32, &[home]).unwrap();
    let change = |turn| drop(sys(33, &[if turn { home } else { harmless }, moving]));
    count(change, || attempt(moving))
}

fn open(path: c_long) -> Attempt {
    let file = sys(257, &[HERE, path, WRONLY | CREAT, MODE])?;
    sys(3, &[file])
}

/// Counts the calls of a race that fail with EROFS.
pub fn refusals(what: &str) -> usize {
    match what {
        "device" => by_name(b"/dev/null", 8, b'k', open),
        "own-descriptor" => by_name(b"/dev/fd/1", 5, b'x', open),
        "trait" => by_name(b"/home/../proc/self/comm", 5, 0, |path| {
            sys(83, &[path, MODE]).or_else(|_| open(path))
        }),
        "mkdir" => by_name(b"/home", 4, b'x', |path| sys(83, &[path, MODE])),
        "exclusive" => by_name(b"/probe", 5, b'x', |path| sys(2, &[path, WRONLY | CREAT | 0o200, MODE])),
        "reading" => by_name(b"/probe", 5, b'x', |path| {
            let file = sys(2, &[path, CREAT, MODE])?;
            sys(3, &[file])
        }),
        "directory" => by_name(b"/home", 4, b'x', |path| sys(2, &[path, WRONLY | CREAT, MODE])),
        "link" => by_name(b"/link", 1, b'x', |path| sys(88, &[address(b"x\0"), path])),
        "chmod" => by_name(b"/dev/null", 8, 0, |path| sys(90, &[path, MODE])),
        "unlink" => by_name(b"/dev/null", 8, b'k', |path| sys(87, &[path])),
        "socket" => by_name(b"\x01\0\0socket", 2, b'n', |address| {
            let socket = sys(41, &[1, 1, 0])?;
            let bound = sys(49, &[socket, address, 9]);
            sys(3, &[socket])?;
            bound
        }),
        "times" => {
            let omit = 0x3fff_fffe;
            let times = [0, omit, 0, omit].map(AtomicU64::new);
            let change = |turn| times[1].store(if turn { omit } else { 7 }, Ordering::Relaxed);
            count(change, || sys(280, &[HERE, address(b"/probe\0"), times.as_ptr() as c_long, 0]))
        }
        "fchmod" => by_descriptor(pipe().unwrap()[0], |fd| sys(91, &[fd, MODE])),
        "futimens" => by_descriptor(memory().unwrap(), |fd| sys(280, &[fd, NULL, NULL, 0])),
        "ioctl" => by_descriptor(memory().unwrap(), |fd| sys(16, &[fd, 0x4008_6602, address(&0u64)])),
        _ => panic!("{what:?} is no race"),
    }
}
