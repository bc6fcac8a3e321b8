//! Stand-in for `oci.rs` in a build without the feature: `run` launches images only.

use super::{Cli, Global};
use crate::base::error::{Error, Result};
use std::ffi::OsString;

/// Type of `run --bundle DIR ID`, without values.
pub enum Run {}

impl Run {
    /// Returns false: no arguments name a bundle.
    pub fn names_bundle(_: &[OsString]) -> bool {
        false
    }
}

/// Returns `None`: there are no commands of runc.
pub fn parse(_: &[OsString]) -> Option<std::result::Result<Cli, clap::Error>> {
    None
}

/// Refuses `ps ID`: there are no containers of bundles.
pub fn ps(_: &Global, id: &str, _: bool) -> Result<u8> {
    let why = "this build of imrun is without the feature \"oci\"";
    Err(Error::unsupported(format_args!("ps {id:?}"), why))
}
