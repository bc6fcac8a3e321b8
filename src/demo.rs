//! What `imrun demo` shows imrun with.
#![forbid(unsafe_code)]

pub mod receiver;

use crate::error::Result;

/// Shows the whole way on this machine.
pub fn run() -> Result<u8> {
    Ok(0)
}
