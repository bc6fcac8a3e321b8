//! The merged tree of an image's layers: inodes, names, and which layer each name comes from.
//!
//! Names are resolved inside the tree alone; no host path is ever made from one.

mod merge;
mod resolve;
mod synthesise;
mod walk;

pub use merge::merge;
pub use synthesise::synthesise;
pub use walk::Walk;

use crate::image::layer::{Meta, Sparse};
use std::collections::BTreeMap;

/// An inode of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    /// The root directory of every tree.
    pub const ROOT: InodeId = InodeId(0);

    /// Its place in a table of [`Tree::capacity`] rows.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent {
    /// The inode.
    pub inode: InodeId,
    /// The layer that has the name, from 0 for the lowest; none for what the runtime owns.
    pub layer: Option<u16>,
}

/// Names by their bytes.
pub type Children = BTreeMap<Box<[u8]>, Dirent>;

/// A file, directory, link or device, by whatever names.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Its attributes.
    pub meta: Meta,
    /// What it is.
    pub content: Content,
    /// Its names; for a directory see [`Tree::links`].
    names: u32,
}

/// What an inode is.
#[derive(Debug, Clone)]
pub enum Content {
    /// A directory.
    Directory(Children),
    /// A file whose bytes are one piece of a layer's tar.
    File {
        /// The layer, from 0 for the lowest.
        layer: u16,
        /// In bytes.
        size: u64,
        /// Where they start in the tar, a multiple of 512.
        offset: u64,
    },
    /// A file with holes.
    Sparse {
        /// The layer, from 0 for the lowest.
        layer: u16,
        /// Its size and pieces.
        file: Box<Sparse>,
    },
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A character device, of those that the runtime owns.
    Device {
        /// Major number, at most 12 bits.
        major: u32,
        /// Minor number, at most 20 bits.
        minor: u32,
    },
    /// An image's device while layers are merged; afterwards a free slot without a name.
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
    /// A root (0755 0:0, mtime 0) and nothing in it.
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

    /// The inode of an id from this tree.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// Ids are below this.
    pub fn capacity(&self) -> usize {
        self.inodes.len()
    }

    /// Hard links that are not in the tree because what they link to is a device.
    pub fn dropped_links(&self) -> u64 {
        self.dropped_links
    }

    /// `st_nlink`: a directory has its name, its `.`, and each subdirectory's `..`.
    pub fn links(&self, id: InodeId) -> u32 {
        let inode = self.inode(id);
        let Content::Directory(children) = &inode.content else {
            return inode.names;
        };
        let directory = |entry: &&Dirent| self.children(entry.inode).is_some();
        let subdirectories = children.values().filter(directory).count();
        u32::try_from(subdirectories).map_or(u32::MAX, |count| count.saturating_add(2))
    }

    /// A directory's names; none where it is no directory.
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

    /// Gives a name to an inode, in the place of what had it.
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

    /// Removes all that is in a directory.
    fn clear(&mut self, directory: InodeId) {
        let Content::Directory(children) = &mut self.inodes[directory.index()].content else {
            return;
        };
        for entry in std::mem::take(children).into_values() {
            self.release(entry.inode);
        }
    }

    /// Takes one name from an inode, and frees it, and what is in it, after the last.
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
    /// An inode without a name yet.
    fn new(meta: Meta, content: Content) -> Inode {
        Inode {
            meta,
            content,
            names: 0,
        }
    }

    /// What stands for a parent that no layer describes: 0755 0:0, mtime 0.
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
