//! A child in fresh namespaces that shares this process's memory until it executes a program.
//!
//! This is vfork(2) with a separate stack, so that the child cannot change the frames of the waiting thread. Neither
//! page tables nor written pages are copied, which is the main cost of fork(2).
//!
//! An intermediate process, a member of the guard's pid namespace ([`super::guard`]), clones the child: only a member
//! of a pid namespace can nest another one in it.

use super::check;
use nix::Result;
use nix::errno::Errno;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

// linux/sched.h; the C library's constants for clone(2) are too narrow for the last one.
pub(super) const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Stack size, in bytes.
const STACK: usize = 128 * 1024;
/// Size of the inaccessible area below a stack, in bytes: a page of any architecture.
const GUARD: usize = 64 * 1024;

/// Slot for the child's pidfd, filled before the child's first instruction, and readable by all threads.
#[derive(Debug)]
pub struct ChildPidfd {
    pidfd: AtomicI32,
}

impl ChildPidfd {
    /// Returns an empty slot.
    pub const fn pending() -> ChildPidfd {
        ChildPidfd {
            pidfd: AtomicI32::new(-1),
        }
    }

    /// Takes the child's pidfd; `None` before the clone, or if it is taken already.
    pub fn take(&self) -> Option<OwnedFd> {
        match self.pidfd.swap(-1, Ordering::AcqRel) {
            -1 => None,
            // SAFETY: the kernel has made this descriptor for this process, and it is taken once.
            pidfd => Some(unsafe { OwnedFd::from_raw_fd(pidfd) }),
        }
    }
}

impl Drop for ChildPidfd {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Parameters of a child.
pub struct Request<'a, T> {
    /// New namespaces of the child (`CLONE_NEW*`).
    pub namespaces: u64,
    /// True if the child's parent is the parent of this process.
    pub adopted: bool,
    /// Cgroup of the child.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Runs in the intermediate process. Returns false to cancel the clone.
    pub before: fn(&T) -> bool,
    /// Runs in the child.
    pub child: fn(&T) -> !,
    /// Argument of both functions.
    pub argument: &'a T,
}

/// Clones a child by an intermediate process, and waits until the child executes a program or ends.
/// The calling thread must have set the pid namespace for both (`setns(CLONE_NEWPID)`); the child's own, if it has
/// one, is nested in it.
///
/// Other threads keep running and share their memory with both processes. The intermediate process shares all
/// descriptors, the child none. Both use the thread-local storage (errno) of the calling thread, which waits. They
/// must not allocate or lock, because they may be killed at any moment.
///
/// # Errors
/// The errors of clone3(2); ECHILD if the intermediate process was killed.
pub fn clone_and_wait<T: Sync>(request: &Request<'_, T>, child_pidfd: &ChildPidfd) -> Result<()> {
    let stacks = [Stack::new()?, Stack::new()?];
    let [own, childs] = &stacks;
    let outcome = AtomicI32::new(Errno::ECHILD as i32);
    let call = Call {
        request,
        child_pidfd,
        stack: childs,
        outcome: &outcome,
    };
    let parent = if request.adopted {
        libc::CLONE_PARENT as u64
    } else {
        0
    };
    let mut args = own.arguments(SHARED | libc::CLONE_FILES as u64 | parent);
    // A sibling inherits the exit signal, and the kernel demands 0 here.
    args.exit_signal = if request.adopted {
        0
    } else {
        libc::SIGCHLD as u64
    };
    // SAFETY: the stacks, the arguments and the target of `call` outlive their use: this thread continues
    // only when neither process uses this memory any more. `enter_between` gets the `Call<T>` that it expects.
    let result = unsafe { clone3(&args, enter_between::<T>, (&raw const call).cast()) };
    let pid = check(result)? as libc::pid_t;
    if !request.adopted {
        // SAFETY: a child of this process that only this code waits for.
        check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }.into())?;
    }
    match Errno::from_raw(outcome.load(Ordering::Acquire)) {
        Errno::UnknownErrno => Ok(()),
        killed @ Errno::ECHILD => {
            // The child may still run on its stack.
            std::mem::forget(stacks);
            Err(killed)
        }
        errno => Err(errno),
    }
}

/// Clone flags of a child with shared memory, whose parent waits for it.
const SHARED: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;

struct Call<'a, T> {
    request: &'a Request<'a, T>,
    child_pidfd: &'a ChildPidfd,
    stack: &'a Stack,
    outcome: &'a AtomicI32,
}

/// Entry point of the intermediate process, on its own stack. It exits and never returns.
extern "C" fn enter_between<T>(call: *const c_void) -> ! {
    // SAFETY: `clone_and_wait` passes a `Call<T>` that lives as long as it is needed.
    let call = unsafe { &*call.cast::<Call<'_, T>>() };
    let request = call.request;
    let cloned = if (request.before)(request.argument) {
        clone_child(call)
    } else {
        Ok(())
    };
    let errno = cloned.err().map_or(0, |errno| errno as i32);
    call.outcome.store(errno, Ordering::Release);
    super::process::exit(0)
}

/// Clones the child in the intermediate process. The child's parent is the parent of that process, which ends.
fn clone_child<T>(call: &Call<'_, T>) -> Result<()> {
    let request = call.request;
    let parent = libc::CLONE_PARENT as u64;
    let mut args = call
        .stack
        .arguments(request.namespaces | SHARED | parent | CLONE_PIDFD);
    args.pidfd = call.child_pidfd.pidfd.as_ptr() as u64;
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: as in `clone_and_wait`.
    check(unsafe { clone3(&args, enter::<T>, std::ptr::from_ref(call).cast()) }).map(drop)
}

/// Entry point of the child, on its own stack.
extern "C" fn enter<T>(call: *const c_void) -> ! {
    // SAFETY: `clone_child` passes a `Call<T>` that lives as long as the child needs it.
    let call = unsafe { &*call.cast::<Call<'_, T>>() };
    (call.request.child)(call.request.argument)
}

/// Makes clone3(2). The child calls `enter` on the stack in `args` and never returns.
///
/// # Safety
/// `args` must contain a stack that no other code uses, and `enter` must accept `argument`.
pub(super) unsafe fn clone3(
    args: &libc::clone_args,
    enter: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> libc::c_long {
    // SAFETY: the caller's promise.
    let result = unsafe { raw_clone3(args, enter, argument) };
    // As the C library's syscall(2) does.
    match result {
        -4095..0 => {
            Errno::from_raw(-result as i32).set();
            -1
        }
        _ => result,
    }
}

/// Makes clone3(2). Returns the kernel's result; errors are negative errnos.
#[cfg(target_arch = "x86_64")]
unsafe fn raw_clone3(
    args: &libc::clone_args,
    enter: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the child leaves this frame at once, by a call on its own stack, which is aligned as
    // the ABI demands. For the parent this is a system call, with the usual clobbers.
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

/// Makes clone3(2). Returns the kernel's result; errors are negative errnos.
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

/// Memory of a stack, above an inaccessible page.
#[derive(Debug)]
pub(super) struct Stack(*mut c_void);

// SAFETY: an address, which any thread may unmap.
unsafe impl Send for Stack {}
// SAFETY: a shared reference gives no access to the memory.
unsafe impl Sync for Stack {}

impl Stack {
    /// Returns arguments of clone3(2) for a child with this stack.
    pub fn arguments(&self, flags: u64) -> libc::clone_args {
        // SAFETY: an all-zero clone_args is a valid one.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = flags;
        args.stack = self.bottom() as u64;
        args.stack_size = STACK as u64;
        args
    }

    pub fn new() -> Result<Stack> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let size = GUARD + STACK;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let stack = Stack(start);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the upper part of the new mapping.
        check(unsafe { libc::mprotect(stack.bottom(), STACK, protection) }.into())?;
        Ok(stack)
    }

    fn bottom(&self) -> *mut c_void {
        self.0.wrapping_byte_add(GUARD)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which is no longer used.
        unsafe { libc::munmap(self.0, GUARD + STACK) };
    }
}
