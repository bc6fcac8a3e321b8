//! A child in fresh namespaces that shares this process's memory until it executes a program.
//!
//! As vfork(2), but with a stack of its own, so that nothing the child does reaches the frames of
//! the thread that waits for it. No page tables are copied and no page is copied when it is written,
//! which is most of what fork(2) costs a process that does little else.
//!
//! The child is cloned by an intermediate process, which is a member of the guard's pid namespace
//! ([`super::guard`]): a pid namespace can be nested in another one only by a member of that.

use super::check;
use nix::Result;
use nix::errno::Errno;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

// linux/sched.h; the C library's constants for clone(2) are too narrow for the last one.
pub(super) const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Bytes of a stack.
const STACK: usize = 128 * 1024;
/// Bytes beneath it that nothing can be written to: as large as any architecture's page.
const GUARD: usize = 64 * 1024;

/// Receives the child's descriptor before its first instruction, for any thread of this process.
#[derive(Debug)]
pub struct ChildPidfd {
    pidfd: AtomicI32,
}

impl ChildPidfd {
    /// Of a child that is still to come.
    pub const fn pending() -> ChildPidfd {
        ChildPidfd {
            pidfd: AtomicI32::new(-1),
        }
    }

    /// A descriptor of the child (pidfd_open(2)); `None` before the clone, and once it was taken
    /// already.
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

/// A child to be cloned.
pub struct Request<'a, T> {
    /// The child's namespaces (`CLONE_NEW*`).
    pub namespaces: u64,
    /// Whether the child's parent is that of this process.
    pub adopted: bool,
    /// The cgroup that the child is born into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Runs in the intermediate process; there is no child where it returns false.
    pub before: fn(&T) -> bool,
    /// Runs in the child.
    pub child: fn(&T) -> !,
    /// Argument of both.
    pub argument: &'a T,
}

/// Clones a child by an intermediate process, and waits until the child executes a program or ends.
/// The calling thread must have entered the pid namespace that both become members of
/// (`setns(CLONE_NEWPID)`); the child's own, if it has one, is nested in that.
///
/// Other threads run on, and share their memory with both processes. The child has no descriptors in
/// common with them, the intermediate process has all. Both use this thread's thread-local storage
/// (errno), as this thread does not run. They must not allocate or lock: they may be killed at any
/// moment.
///
/// # Errors
/// Those of either clone3(2); ECHILD where the intermediate process was killed.
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
    // A sibling's signal is this process's own, and the kernel wants to be told of none.
    args.exit_signal = if request.adopted {
        0
    } else {
        libc::SIGCHLD as u64
    };
    // SAFETY: the stacks, the arguments and what `call` points to outlive their use, for this thread
    // goes on only when neither process has this memory any more; `enter_between` is given the very
    // `Call<T>` that it expects.
    let result = unsafe { clone3(&args, enter_between::<T>, (&raw const call).cast()) };
    let pid = check(result)? as libc::pid_t;
    if !request.adopted {
        // SAFETY: a child of this process, which nobody else waits for; the outcome says how it ended.
        check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }.into())?;
    }
    match Errno::from_raw(outcome.load(Ordering::Acquire)) {
        Errno::UnknownErrno => Ok(()),
        killed @ Errno::ECHILD => {
            // A child that it has cloned runs on, on its own stack.
            std::mem::forget(stacks);
            Err(killed)
        }
        errno => Err(errno),
    }
}

/// The flags of a child that its cloner waits for.
const SHARED: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;

struct Call<'a, T> {
    request: &'a Request<'a, T>,
    child_pidfd: &'a ChildPidfd,
    stack: &'a Stack,
    outcome: &'a AtomicI32,
}

/// The intermediate process's first function, on its own stack. Returns by its exit.
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

/// The child's parent is that of the intermediate process, which ends.
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

/// The child's first function, on its own stack.
extern "C" fn enter<T>(call: *const c_void) -> ! {
    // SAFETY: `clone_child` passes a `Call<T>` that lives as long as the child needs it.
    let call = unsafe { &*call.cast::<Call<'_, T>>() };
    (call.request.child)(call.request.argument)
}

/// clone3(2), whose child calls `enter` on the stack of `args` and never returns.
///
/// # Safety
/// `args` must name a stack that nobody else uses, and `enter` must take `argument`.
pub(super) unsafe fn clone3(
    args: &libc::clone_args,
    enter: extern "C" fn(*const c_void) -> !,
    argument: *const c_void,
) -> libc::c_long {
    // SAFETY: the caller's promise.
    let result = unsafe { raw_clone3(args, enter, argument) };
    // What the C library's syscall(2) makes of it.
    match result {
        -4095..0 => {
            Errno::from_raw(-result as i32).set();
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
#[derive(Debug)]
pub(super) struct Stack(*mut c_void);

// SAFETY: an address; whoever has it may unmap it.
unsafe impl Send for Stack {}
// SAFETY: nothing is read or written through a shared reference.
unsafe impl Sync for Stack {}

impl Stack {
    /// The arguments of a clone3(2) whose child gets this stack.
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
        // SAFETY: a new mapping, where the kernel has room for it.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
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
