//! In a build without bundles: `run` is the launch of an image, and nothing else.

use super::{Cli, Global};
use crate::base::error::{Error, Result};
use std::ffi::OsString;

/// `run --bundle DIR ID`: there is none.
pub enum Run {}

impl Run {
    /// Never.
    pub fn names_bundle(_: &[OsString]) -> bool {
        false
    }
}

/// What they mean to runc: nothing here.
pub fn parse(_: &[OsString]) -> Option<std::result::Result<Cli, clap::Error>> {
    None
}

/// There is no container of a bundle.
pub fn ps(_: &Global, id: &str, _: bool) -> Result<u8> {
    let why = "this build of imrun is without the feature \"oci\"";
    Err(Error::unsupported(format_args!("ps {id:?}"), why))
}
