//! Directories that imrun keeps its data in, unless the command line names others.
#![forbid(unsafe_code)]

use crate::error::{Context, Result};
use nix::unistd::geteuid;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The default of `--store`.
pub const STORE: &str = "/var/lib/imrun";
/// The default of `--root`, for root.
pub const RUNTIME: &str = "/run/imrun";

/// The default of `--store`.
pub fn default_store() -> PathBuf {
    if geteuid().is_root() {
        return STORE.into();
    }
    let data = environment("XDG_DATA_HOME");
    let home = || environment("HOME").map(|home| home.join(".local/share"));
    data.or_else(home)
        .map_or_else(|| PathBuf::from(STORE), |data| data.join("imrun"))
}

/// The default of `--root`.
pub fn default_runtime() -> PathBuf {
    if geteuid().is_root() {
        return RUNTIME.into();
    }
    private_runtime().unwrap_or_else(|| PathBuf::from(format!("/tmp/imrun-{}", geteuid())))
}

/// Where an ordinary user keeps what nobody else may write, until the host is started again.
pub fn private_runtime() -> Option<PathBuf> {
    environment("XDG_RUNTIME_DIR").map(|directory| directory.join("imrun"))
}

/// Whether this is a directory of this user's, and its mode gives others none of these bits.
pub fn is_own(directory: &Path, others: u32) -> Result<bool> {
    let found = directory
        .symlink_metadata()
        .context(|| format!("lstat({directory:?})"))?;
    Ok(found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & others == 0)
}

/// A directory that a variable names (XDG Base Directory Specification: relative ones are ignored).
fn environment(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(name)?);
    path.is_absolute().then_some(path)
}
