//! A merged tree as files in a directory of the host, for kernels and users that mount no tree image.
//!
//! [`write`] makes the files, [`compare`] finds out whether they are still what the layers' tars say.
//! Neither ever follows a path: a directory is opened beneath the top one without symlinks, `..` or
//! other mounts on the way (openat2(2)), and all else is one name in an open directory.
#![forbid(unsafe_code)]

mod beneath;
mod compare;
mod listing;
mod pieces;
mod write;

pub use beneath::{names, open_directory};
pub use compare::{Still, compare};
pub use listing::list;
pub use write::write;

use crate::ids::Owners;
use crate::tree::{InodeId, Tree};
use std::fs::File;

/// What the files are made of.
pub struct Model<'a> {
    /// Names, attributes, and where in the tars the data are.
    pub tree: &'a Tree,
    /// The layers' tars, the lowest first.
    pub tars: &'a [File],
    /// Whose the files can be.
    pub owners: Owners,
}

impl Model<'_> {
    /// All directories with their paths, each before what is in it.
    fn directories(&self) -> Vec<(Vec<u8>, InodeId)> {
        let names = self.tree.walk().map(|(path, entry)| (path, entry.inode));
        names
            .filter(|(_, inode)| self.tree.children(*inode).is_some())
            .collect()
    }
}

/// A path of the tree, for errors.
fn shown(directory: &[u8], name: &[u8]) -> String {
    let path = [directory, name].map(String::from_utf8_lossy);
    match (directory, name) {
        (b"", _) => format!("/{}", path[1]),
        (_, b"") => format!("/{}", path[0]),
        _ => format!("/{}/{}", path[0], path[1]),
    }
}

#[cfg(test)]
mod tests;
