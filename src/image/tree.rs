//! Merged tree of an image's layers: inodes, names, and the layer of each name.
//!
//! Names are resolved only inside the tree; none ever becomes a path of the host.

mod merge;
mod resolve;
mod synthesise;
mod walk;

pub use merge::merge;
pub use synthesise::synthesise;
pub use walk::Walk;

use crate::image::layer::{Meta, Sparse};
use std::collections::BTreeMap;

/// Number of an inode in one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    /// Root directory of every tree.
    pub const ROOT: InodeId = InodeId(0);

    /// Returns the inode's index in a table of [`Tree::capacity`] rows.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Entry of a directory: the target of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent {
    /// The inode.
    pub inode: InodeId,
    /// Layer that contains the name, from 0 for the lowest; `None` for the runtime's own names.
    pub layer: Option<u16>,
}

/// Entries of a directory, sorted by the bytes of their names.
pub type Children = BTreeMap<Box<[u8]>, Dirent>;

/// A file, directory, link or device, with any number of names.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Attributes.
    pub meta: Meta,
    /// Type and contents.
    pub content: Content,
    /// Number of names; for a directory see [`Tree::links`].
    names: u32,
}

/// Type and contents of an inode.
#[derive(Debug, Clone)]
pub enum Content {
    /// A directory.
    Directory(Children),
    /// A file stored contiguously in a layer's tar.
    File {
        /// Layer, from 0 for the lowest.
        layer: u16,
        /// Size in bytes.
        size: u64,
        /// Offset of the data in the tar, a multiple of 512.
        offset: u64,
    },
    /// A file with holes.
    Sparse {
        /// Layer, from 0 for the lowest.
        layer: u16,
        /// Size and extents.
        file: Box<Sparse>,
    },
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A character device of the runtime.
    Device {
        /// Major number, at most 12 bits.
        major: u32,
        /// Minor number, at most 20 bits.
        minor: u32,
    },
    /// An image's device during the merge; afterwards a free slot without a name.
    Dropped,
}

/// The merged tree.
#[derive(Debug, Clone)]
pub struct Tree {
    inodes: Vec<Inode>,
    free: Vec<InodeId>,
    root: Dirent,
    dropped_links: u64,
}

impl Tree {
    /// Creates a tree with an empty root (0755 0:0, mtime 0).
    fn new() -> Tree {
        Tree {
            inodes: vec![Inode::directory()],
            free: Vec::new(),
            root: Dirent {
                inode: InodeId::ROOT,
                layer: None,
            },
            dropped_links: 0,
        }
    }

    /// Returns the inode with an ID of this tree.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// Returns the number of slots for inodes: all IDs are smaller.
    pub fn capacity(&self) -> usize {
        self.inodes.len()
    }

    /// Returns the number of hard links that the tree omits because their target is a device.
    pub fn dropped_links(&self) -> u64 {
        self.dropped_links
    }

    /// Returns `st_nlink`. A directory has its name, its `.`, and the `..` of each subdirectory.
    pub fn links(&self, id: InodeId) -> u32 {
        let inode = self.inode(id);
        let Content::Directory(children) = &inode.content else {
            return inode.names;
        };
        let directory = |entry: &&Dirent| self.children(entry.inode).is_some();
        let subdirectories = children.values().filter(directory).count();
        u32::try_from(subdirectories).map_or(u32::MAX, |count| count.saturating_add(2))
    }

    /// Returns a directory's entries, or `None` for any other inode.
    pub fn children(&self, id: InodeId) -> Option<&Children> {
        match &self.inode(id).content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }

    fn child(&self, directory: InodeId, name: &[u8]) -> Option<Dirent> {
        self.children(directory)?.get(name).copied()
    }

    fn add(&mut self, inode: Inode) -> InodeId {
        if let Some(id) = self.free.pop() {
            self.inodes[id.index()] = inode;
            return id;
        }
        let id = u32::try_from(self.inodes.len()).expect("merging stops long before 2^32 inodes");
        self.inodes.push(inode);
        InodeId(id)
    }

    /// Adds a name for an inode and replaces the entry that had the name.
    fn put(&mut self, directory: InodeId, name: &[u8], entry: Dirent) {
        self.inodes[entry.inode.index()].names += 1;
        let Content::Directory(children) = &mut self.inodes[directory.index()].content else {
            unreachable!("names are put into directories only");
        };
        if let Some(old) = children.insert(name.into(), entry) {
            self.release(old.inode);
        }
    }

    fn remove(&mut self, directory: InodeId, name: &[u8]) {
        let Content::Directory(children) = &mut self.inodes[directory.index()].content else {
            return;
        };
        if let Some(old) = children.remove(name) {
            self.release(old.inode);
        }
    }

    /// Removes all entries of a directory.
    fn clear(&mut self, directory: InodeId) {
        let Content::Directory(children) = &mut self.inodes[directory.index()].content else {
            return;
        };
        for entry in std::mem::take(children).into_values() {
            self.release(entry.inode);
        }
    }

    /// Removes one name of an inode. After the last name, frees the inode and its entries.
    fn release(&mut self, id: InodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let inode = &mut self.inodes[id.index()];
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            let gone = std::mem::replace(inode, Inode::new(Meta::default(), Content::Dropped));
            self.free.push(id);
            if let Content::Directory(children) = gone.content {
                pending.extend(children.into_values().map(|entry| entry.inode));
            }
        }
    }
}

impl Inode {
    /// Creates an inode without a name.
    fn new(meta: Meta, content: Content) -> Inode {
        Inode {
            meta,
            content,
            names: 0,
        }
    }

    /// Creates a directory for a parent that no layer describes: 0755 0:0, mtime 0.
    fn directory() -> Inode {
        let meta = Meta {
            mode: 0o755,
            ..Meta::default()
        };
        Inode::new(meta, Content::Directory(Children::new()))
    }
}

#[cfg(test)]
mod tests;
