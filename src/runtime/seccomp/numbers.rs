//! System call numbers under the names of the C library: those of the libc crate, and those that it lacks
//! on some architecture.

pub use libc::*;

#[cfg(target_arch = "aarch64")]
pub use lp64::{SYS_fchmodat2, SYS_getrlimit, SYS_renameat, SYS_setrlimit, SYS_sync_file_range};

/// Numbers of architectures with 64-bit longs (asm-generic/unistd.h).
#[cfg(target_arch = "aarch64")]
#[allow(
    non_upper_case_globals,
    reason = "they are named as libc names the others"
)]
mod lp64 {
    use libc::c_long;

    pub const SYS_renameat: c_long = 38;
    pub const SYS_sync_file_range: c_long = 84;
    pub const SYS_getrlimit: c_long = 163;
    pub const SYS_setrlimit: c_long = 164;
    pub const SYS_fchmodat2: c_long = 452;
}
