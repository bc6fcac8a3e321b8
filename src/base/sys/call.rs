//! System calls without the C library, whose errno belongs to a thread.

/// Makes a system call with up to three arguments. Returns the kernel's result; errors are negative errnos.
///
/// # Safety
/// As of the call itself.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn raw(number: libc::c_long, [a, b, c]: [usize; 3]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; a system call clobbers these two registers.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// Makes a system call with up to three arguments. Returns the kernel's result; errors are negative errnos.
#[cfg(target_arch = "aarch64")]
pub(super) unsafe fn raw(number: libc::c_long, [a, b, c]: [usize; 3]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; the kernel keeps all registers but the one of the result.
    unsafe {
        std::arch::asm!(
            "svc #0",
            inlateout("x0") a as isize => result,
            in("x1") b,
            in("x2") c,
            in("x8") number,
        );
    }
    result
}
