//! `imrun-init`: process 1 of a container that is launched with `--init`. A program of its own, without any library;
//! imrun has it inside (`src/build.rs`).
//!
//! ```text
//! imrun-init N PATH… ARGUMENT…     N paths at which the program may be; its arguments, its name first
//! ```
//! It executes the program in a child, passes all signals on to that, reaps whatever ends, and ends when the child
//! does. On descriptor 3 it tells imrun two things, as `Failure` of `launch/child.rs` has them: that the program was
//! executed, or with which errno not; and the child's wait status.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

/// Where imrun listens.
const CHANNEL: usize = 3;
/// The numbers of `Step::Started` and `Step::Ended`.
const STARTED: u8 = 3;
const ENDED: u8 = 4;

const SIGCHLD: usize = 17;
const SIG_SETMASK: usize = 2;
const SIGNAL_SET: usize = 8;
const O_CLOEXEC: usize = 0o2000000;
const F_SETFD: usize = 2;
const FD_CLOEXEC: usize = 1;
const WNOHANG: usize = 1;
const WALL: usize = 0x4000_0000;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;
const ENOENT: isize = 2;
const EACCES: isize = 13;
const ENOTDIR: isize = 20;

#[cfg(target_arch = "x86_64")]
mod call {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const SIGPROCMASK: usize = 14;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const FCNTL: usize = 72;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const EXIT_GROUP: usize = 231;
    pub const PIPE2: usize = 293;
}

#[cfg(target_arch = "aarch64")]
mod call {
    pub const FCNTL: usize = 25;
    pub const CLOSE: usize = 57;
    pub const PIPE2: usize = 59;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const KILL: usize = 129;
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
}

// The kernel enters with the arguments on the stack; the function wants their place as its own argument.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {main}", main = sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {main}", main = sym main);

/// Makes a system call; the kernel's result, an errno as its negative.
///
/// # Safety
/// As of the call itself.
#[cfg(target_arch = "x86_64")]
unsafe fn system(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; a system call clobbers these two registers.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, in("r8") 0, out("rcx") _, out("r11") _);
    }
    result
}

/// The same.
#[cfg(target_arch = "aarch64")]
unsafe fn system(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; the kernel keeps all registers but the one of the result.
    unsafe {
        asm!("svc #0", inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d, in("x4") 0,
            in("x8") number);
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(121)
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: it does not return.
        unsafe { system(call::EXIT_GROUP, code, 0, 0, 0) };
    }
}

/// # Safety
/// `stack` must be where the kernel puts a program's arguments: their number, their addresses, 0, and the same of the
/// environment.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the caller's promise, and imrun's that there are so many arguments; all other pointers lead to the own
    // stack.
    unsafe {
        let arguments = stack.add(1);
        let environment = arguments.add(*stack + 1);
        // The app, which may be of the same user, shall not get hold of the channel.
        system(call::PRCTL, PR_SET_DUMPABLE, 0, 0, 0);
        system(call::PRCTL, PR_SET_NAME, c"imrun-init".as_ptr() as usize, 0, 0);
        // A blocked signal is kept for process 1, and taken by `serve`.
        set_mask(u64::MAX);
        let mut pipe = [0_i32; 2];
        if system(call::PIPE2, pipe.as_mut_ptr() as usize, O_CLOEXEC, 0, 0) < 0 {
            exit(121);
        }
        let [end, start] = pipe;
        let child = system(call::CLONE, SIGCHLD, 0, 0, 0);
        if child == 0 {
            execute(start as usize, arguments, environment);
        }
        system(call::CLOSE, start as usize, 0, 0, 0);
        let errno = if child < 0 { -child } else { failure(end as usize) };
        tell(STARTED, errno as i32, 0);
        if errno != 0 {
            exit(125);
        }
        // The app's own alone: whoever waits for its end sees it.
        for number in [0, 1, 2, end as usize] {
            system(call::CLOSE, number, 0, 0, 0);
        }
        serve(child)
    }
}

/// Becomes the program, or tells the errno by `start`.
unsafe fn execute(start: usize, arguments: *const usize, environment: *const usize) -> ! {
    // SAFETY: as in `main`.
    unsafe {
        system(call::FCNTL, CHANNEL, F_SETFD, FD_CLOEXEC, 0);
        set_mask(0);
        let paths = number(*arguments.add(1));
        let program = arguments.add(2 + paths);
        let mut errno = ENOENT;
        let mut index = 0;
        while index < paths {
            let path = *arguments.add(2 + index);
            match -system(call::EXECVE, path, program as usize, environment as usize, 0) {
                ENOENT | ENOTDIR => {}
                EACCES => errno = EACCES,
                other => {
                    errno = other;
                    break;
                }
            }
            index += 1;
        }
        let errno = errno as i32;
        system(call::WRITE, start, &raw const errno as usize, 4, 0);
        exit(125)
    }
}

/// The decimal number at an address.
unsafe fn number(at: usize) -> usize {
    let (mut digit, mut number) = (at as *const u8, 0_usize);
    // SAFETY: imrun writes digits and a NUL.
    unsafe {
        while *digit != 0 {
            number = number.wrapping_mul(10).wrapping_add((*digit - b'0') as usize);
            digit = digit.add(1);
        }
    }
    number
}

/// The errno that the child tells; 0 where the pipe was closed by its execve(2).
unsafe fn failure(end: usize) -> isize {
    let mut errno = 0_i32;
    // SAFETY: four bytes of the own stack.
    let count = unsafe { system(call::READ, end, &raw mut errno as usize, 4, 0) };
    if count == 4 { errno as isize } else { 0 }
}

/// Passes signals on and reaps, until `child` ends.
unsafe fn serve(child: isize) -> ! {
    let all = u64::MAX;
    loop {
        // SAFETY: the set is eight bytes of the own stack.
        let signal = unsafe { system(call::SIGTIMEDWAIT, &raw const all as usize, 0, 0, SIGNAL_SET) };
        if signal == SIGCHLD as isize {
            // SAFETY: nobody else waits.
            unsafe { reap(child) };
        } else if signal > 0 {
            // SAFETY: the child is not reaped, so the number is its own.
            unsafe { system(call::KILL, child as usize, signal as usize, 0, 0) };
        }
    }
}

/// Reaps all that has ended; ends with `child`.
unsafe fn reap(child: isize) {
    loop {
        let mut status = 0_i32;
        // SAFETY: four bytes of the own stack.
        let pid = unsafe {
            system(call::WAIT4, usize::MAX, &raw mut status as usize, WNOHANG | WALL, 0)
        };
        if pid <= 0 {
            return;
        }
        if pid == child {
            tell(ENDED, 0, status);
            let signal = status & 0x7f;
            let code = if signal == 0 { status >> 8 & 0xff } else { 128 + signal };
            exit(code as usize);
        }
    }
}

fn tell(step: u8, errno: i32, status: i32) {
    let ([a, b, c, d], [e, f, g, h]) = (errno.to_ne_bytes(), status.to_ne_bytes());
    let message = [step, a, b, c, d, e, f, g, h];
    // SAFETY: nine bytes of the own stack.
    unsafe { system(call::WRITE, CHANNEL, message.as_ptr() as usize, 9, 0) };
}

unsafe fn set_mask(set: u64) {
    // SAFETY: the set is eight bytes of the own stack.
    unsafe { system(call::SIGPROCMASK, SIG_SETMASK, &raw const set as usize, 0, SIGNAL_SET) };
}
