//! A child in fresh namespaces that shares this process's memory until it executes a program.
//!
//! As vfork(2), but with a stack of its own, so that nothing the child does reaches the frames of
//! the thread that waits for it. No page tables are copied and no page is copied when it is written,
//! which is most of what fork(2) costs a process that does little else.

use super::check;
use nix::Result;
use nix::unistd::Pid;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

// linux/sched.h; the C library's constants for clone(2) are too narrow for the last one.
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Bytes of the child's stack.
const STACK: usize = 128 * 1024;
/// Bytes beneath it that nothing can be written to: as large as any architecture's page.
const GUARD: usize = 64 * 1024;

/// What the kernel tells of a child before its first instruction, to any thread of this process.
#[derive(Debug)]
pub struct Birth {
    pid: AtomicI32,
    pidfd: AtomicI32,
}

impl Birth {
    /// Of a child that is still to come.
    pub const fn awaited() -> Birth {
        Birth {
            pid: AtomicI32::new(0),
            pidfd: AtomicI32::new(-1),
        }
    }

    /// The child's process id, in this process's pid namespace, and a descriptor of it
    /// (pidfd_open(2)); None before its birth, and when it was taken already.
    pub fn take(&self) -> Option<(Pid, OwnedFd)> {
        match self.pidfd.swap(-1, Ordering::AcqRel) {
            -1 => None,
            // SAFETY: the kernel has made this descriptor for this process, and it is taken once.
            pidfd => Some((Pid::from_raw(self.pid.load(Ordering::Acquire)), unsafe {
                OwnedFd::from_raw_fd(pidfd)
            })),
        }
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Clones a child into the namespaces of `flags` (`CLONE_NEW*`) and into `cgroup`, if one is given, which
/// runs `child`; waits until it executes a program or ends. With `CLONE_PARENT` in `flags` its parent is
/// that of this process.
///
/// Other threads run on, and share their memory with the child, but no descriptors. It has this
/// thread's thread-local storage (errno), as this thread does not run. It must not allocate or lock:
/// it may be killed at any moment. Whoever dies with its parent (PR_SET_PDEATHSIG) dies with this
/// thread.
pub fn clone_and_wait<T: Sync>(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    birth: &Birth,
    child: fn(&T) -> !,
    argument: &T,
) -> Result<()> {
    let stack = Stack::new()?;
    let shared = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID) as u64;
    // SAFETY: an all-zero clone_args is a valid one.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | shared | CLONE_PIDFD;
    args.pidfd = birth.pidfd.as_ptr() as u64;
    args.parent_tid = birth.pid.as_ptr() as u64;
    // A sibling's is this process's own, and the kernel wants to be told of none.
    args.exit_signal = match flags & libc::CLONE_PARENT as u64 {
        0 => libc::SIGCHLD as u64,
        _ => 0,
    };
    args.stack = stack.bottom() as u64;
    args.stack_size = STACK as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let call = Call { child, argument };
    // SAFETY: the stack, the arguments and what `call` points to outlive the child's use of them,
    // for this thread goes on only when the child has another memory or none; `enter` is given the
    // very `Call<T>` that it expects.
    let result = unsafe { clone3(&args, enter::<T>, (&raw const call).cast()) };
    check(result).map(drop)
}

struct Call<'a, T> {
    child: fn(&T) -> !,
    argument: &'a T,
}

/// The child's first function, on its own stack.
extern "C" fn enter<T>(call: *const c_void) -> ! {
    // SAFETY: `clone_and_wait` passes a `Call<T>` that lives as long as the child needs it.
    let call = unsafe { &*call.cast::<Call<'_, T>>() };
    (call.child)(call.argument)
}

/// clone3(2), whose child calls `enter` on the stack of `args` and never returns.
///
/// # Safety
/// `args` must name a stack that nobody else uses, and `enter` must take `argument`.
unsafe fn clone3(
    args: &libc::clone_args,
    enter: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> libc::c_long {
    // SAFETY: the caller's promise.
    let result = unsafe { raw_clone3(args, enter, argument) };
    // What the C library's syscall(2) makes of it.
    match result {
        -4095..0 => {
            nix::errno::Errno::from_raw(-result as i32).set();
            -1
        }
        _ => result,
    }
}

/// The same, with what the kernel answers.
#[cfg(target_arch = "x86_64")]
unsafe fn raw_clone3(
    args: &libc::clone_args,
    enter: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the child leaves this frame at once, by a call on its own stack, which is aligned as
    // the ABI wants it; the parent sees a system call that clobbers what every one does.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp", // the outermost frame, for who walks the stack
            "mov rdi, {argument}",
            "call {enter}",
            "ud2",
            "2:",
            enter = in(reg) enter,
            argument = in(reg) argument,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of_val(args),
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// The same, with what the kernel answers.
#[cfg(target_arch = "aarch64")]
unsafe fn raw_clone3(
    args: &libc::clone_args,
    enter: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> i64 {
    let result: i64;
    // SAFETY: as above; the kernel keeps all registers but the one of the result.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr", // the outermost frame, for who walks the stack
            "mov x0, {argument}",
            "blr {enter}",
            "brk #1",
            "2:",
            enter = in(reg) enter,
            argument = in(reg) argument,
            inlateout("x0") args => result,
            in("x1") size_of_val(args),
            in("x8") libc::SYS_clone3,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("clone3 has no entry for the child on this architecture");

/// Memory for a child's stack, above a page that nothing can be written to.
struct Stack(*mut c_void);

impl Stack {
    fn new() -> Result<Stack> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let size = GUARD + STACK;
        // SAFETY: a new mapping, where the kernel has room for it.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(nix::errno::Errno::last());
        }
        let stack = Stack(start);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the upper part of the mapping that was just made.
        check(unsafe { libc::mprotect(stack.bottom(), STACK, protection) }.into())?;
        Ok(stack)
    }

    fn bottom(&self) -> *mut c_void {
        self.0.wrapping_byte_add(GUARD)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole of the mapping, which nobody uses any more.
        unsafe { libc::munmap(self.0, GUARD + STACK) };
    }
}
