//! A merged tree as files in a directory of the host, for kernels and users that cannot mount tree images.
//!
//! [`write`] creates the files, [`compare`] checks that they still match the layers' tars. Neither
//! follows a path outside: each directory is opened beneath the top one without symlinks, `..` or
//! other mounts (openat2(2)); every other operation takes one name in an open directory.
#![forbid(unsafe_code)]

mod beneath;
mod compare;
mod listing;
mod pieces;
mod write;

pub use beneath::{names, open_directory};
pub use compare::{TakeLease, compare};
pub use listing::list;
pub use write::write;

use crate::base::ids::Owners;
use crate::image::tree::{InodeId, Tree};
use std::fs::File;

/// Tree and data that the files are made from.
pub struct Model<'a> {
    /// Names, attributes, and the places of the data in the tars.
    pub tree: &'a Tree,
    /// Tars of the layers, lowest first.
    pub tars: &'a [File],
    /// Owners that the files can have.
    pub owners: Owners,
}

impl Model<'_> {
    /// Returns all directories with their paths, each before its entries.
    fn directories(&self) -> Vec<(Vec<u8>, InodeId)> {
        let names = self.tree.walk().map(|(path, entry)| (path, entry.inode));
        names
            .filter(|(_, inode)| self.tree.children(*inode).is_some())
            .collect()
    }
}

/// Formats a path of the tree for errors.
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
