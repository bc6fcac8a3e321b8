//! Default directories of imrun's data.
#![forbid(unsafe_code)]

use crate::base::error::{Context, Result};
use nix::unistd::geteuid;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Default of `--store`, for root.
pub const STORE: &str = "/var/lib/imrun";
/// Default of `--root`, for root.
pub const RUNTIME: &str = "/run/imrun";

/// Returns the default of `--store`.
pub fn default_store() -> PathBuf {
    if geteuid().is_root() {
        return STORE.into();
    }
    let data = environment("XDG_DATA_HOME");
    let home = || environment("HOME").map(|home| home.join(".local/share"));
    data.or_else(home)
        .map_or_else(|| PathBuf::from(STORE), |data| data.join("imrun"))
}

/// Returns the default of `--root`.
pub fn default_runtime() -> PathBuf {
    if geteuid().is_root() {
        return RUNTIME.into();
    }
    private_runtime().unwrap_or_else(|| PathBuf::from(format!("/tmp/imrun-{}", geteuid())))
}

/// Returns the directory of an ordinary user's runtime state, which others cannot write and which ends with a reboot.
pub fn private_runtime() -> Option<PathBuf> {
    environment("XDG_RUNTIME_DIR").map(|directory| directory.join("imrun"))
}

/// Returns true if this user owns the directory, and its mode has none of the bits `others`.
pub fn is_own(directory: &Path, others: u32) -> Result<bool> {
    let found = directory
        .symlink_metadata()
        .context(|| format!("lstat({directory:?})"))?;
    Ok(found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & others == 0)
}

/// Returns the directory in a variable; relative ones are ignored (XDG Base Directory Specification).
fn environment(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(name)?);
    path.is_absolute().then_some(path)
}
