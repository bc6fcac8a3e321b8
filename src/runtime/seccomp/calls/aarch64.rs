//! AArch64: what its filter checks for. It has none of the calls that newer architectures never had.

use super::calls;

/// AUDIT_ARCH_AARCH64 (linux/audit.h).
pub(in crate::runtime::seccomp) const ARCHITECTURE: u32 = 0xc000_00b7;
/// All numbers are this ABI's: a 32-bit program's calls have another architecture.
pub(in crate::runtime::seccomp) const FOREIGN: Option<u32> = None;

pub(super) const ALLOWED: &[u32] = calls! {};

pub(super) const DENIED: &[u32] = calls! {};
