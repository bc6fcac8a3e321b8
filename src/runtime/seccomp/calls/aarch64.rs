//! AArch64: constants of its filter. It has none of the calls that newer architectures dropped.

use super::calls;

/// AUDIT_ARCH_AARCH64 (linux/audit.h).
pub(in crate::runtime::seccomp) const ARCHITECTURE: u32 = 0xc000_00b7;
/// No foreign ABI: calls of 32-bit programs have another architecture.
pub(in crate::runtime::seccomp) const FOREIGN: Option<u32> = None;

pub(super) const ALLOWED: &[u32] = calls! {};

pub(super) const DENIED: &[u32] = calls! {};
