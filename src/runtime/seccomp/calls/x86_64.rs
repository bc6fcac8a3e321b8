//! x86-64: constants of its filter, and the calls that newer architectures dropped.

use super::{calls, numbers};

/// AUDIT_ARCH_X86_64 (linux/audit.h).
pub(in crate::runtime::seccomp) const ARCHITECTURE: u32 = 0xc000_003e;
/// First number of the x32 ABI (__X32_SYSCALL_BIT).
pub(in crate::runtime::seccomp) const FOREIGN: Option<u32> = Some(0x4000_0000);

pub(super) const ALLOWED: &[u32] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_getdents
    SYS_getpgrp SYS_get_thread_area SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod
    SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_set_thread_area
    SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
};

pub(super) const DENIED: &[u32] = calls! {
    SYS_ioperm SYS_iopl SYS_modify_ldt SYS_sysfs SYS_uselib SYS_ustat
};
