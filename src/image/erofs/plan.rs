//! Layout of the image: inodes in the order of a breadth-first walk, each with its number.

use super::directory::{self, Name};
use super::format::{
    BLOCK, CHUNK_INDEX, INODE_SIZE, Layout, NID_UNIT, SLOT_SIZE, SUPER_OFFSET, SUPER_SIZE, Type,
    xattrs_size,
};
use crate::base::error::{Error, Result};
use crate::image::layer::{Source, whole_bits};
use crate::image::tree::{Content, InodeId, Tree};
use std::borrow::Cow;

/// Longest piece in bytes that is stored behind its inode. Wherever the inode's 64 bytes start in a
/// block, some step of 32 bytes lets the piece end in the block where it begins.
const INLINE: u64 = BLOCK - INODE_SIZE;

/// Layout of the image.
pub(super) struct Plan<'t> {
    pub tree: &'t Tree,
    /// Inodes in the order of the image, each with its (first) parent.
    pub order: Vec<(InodeId, InodeId)>,
    /// Inode numbers by [`InodeId::index`]; 0, the superblock's place, for an inode without a name.
    nids: Vec<u32>,
    /// First block behind the inodes.
    pub data: u64,
    /// Number of blocks of the image.
    pub blocks: u64,
}

/// Sizes that an inode's record contains or takes up.
pub(super) struct Shape {
    pub layout: Layout,
    /// `i_size`.
    pub size: u64,
    /// Bytes behind the inode and its xattrs, including the padding in front of them.
    pub behind: u64,
    /// Number of blocks outside the inode.
    pub blocks: u64,
}

impl<'t> Plan<'t> {
    pub(super) fn new(tree: &'t Tree, devices: usize) -> Result<Self> {
        let mut plan = Plan {
            tree,
            order: order(tree),
            nids: Vec::new(),
            data: 0,
            blocks: 0,
        };
        plan.nids = vec![0; tree.capacity()];
        let mut end = SUPER_OFFSET + SUPER_SIZE + SLOT_SIZE * devices as u64;
        for at in 0..plan.order.len() {
            let (inode, parent) = plan.order[at];
            if layer(tree, inode).is_some_and(|layer| usize::from(layer) >= devices) {
                return Err(Error::usage(
                    "tree image",
                    "a file is in a layer without a device",
                ));
            }
            let shape = plan.shape(inode, &plan.contents(inode, parent));
            let start = plan.start(inode, &shape, end);
            plan.nids[inode.index()] = u32::try_from(start / NID_UNIT).map_err(|_| too_large())?;
            end = start + plan.head(inode) + shape.behind;
            plan.blocks += shape.blocks;
        }
        plan.data = end.div_ceil(BLOCK);
        plan.blocks += plan.data;
        u32::try_from(plan.blocks).map_err(|_| too_large())?;
        Ok(plan)
    }

    /// Returns an inode's number: its offset in the image, in units of 32 bytes.
    pub(super) fn nid(&self, inode: InodeId) -> u64 {
        u64::from(self.nids[inode.index()])
    }

    /// Returns the size in bytes of the inode with its xattrs.
    pub(super) fn head(&self, inode: InodeId) -> u64 {
        INODE_SIZE + xattrs_size(&self.tree.inode(inode).meta.xattrs)
    }

    /// Returns the first offset from `end` on where the inode can start; its inline contents must not
    /// cross a block boundary.
    fn start(&self, inode: InodeId, shape: &Shape, end: u64) -> u64 {
        let mut start = end.next_multiple_of(NID_UNIT);
        if shape.layout == Layout::Inline {
            while (start + self.head(inode)) % BLOCK + shape.behind > BLOCK {
                start += NID_UNIT;
            }
        }
        start
    }

    /// Returns the shape of an inode with these contents.
    pub(super) fn shape(&self, inode: InodeId, contents: &[u8]) -> Shape {
        match &self.tree.inode(inode).content {
            Content::File { size, .. } if *size > 0 => {
                let chunks = size.div_ceil(1 << whole_bits(*size));
                self.chunked(inode, *size, chunks, 0)
            }
            Content::Sparse { file, .. } if file.size > 0 => {
                let copied = file.extents.iter().map(|extent| match &extent.source {
                    Source::Tar(_) => 0,
                    Source::Copy(bytes) => bytes.len() as u64 / BLOCK,
                });
                self.chunked(inode, file.size, file.chunks(), copied.sum())
            }
            _ => flat(contents.len() as u64),
        }
    }

    fn chunked(&self, inode: InodeId, size: u64, chunks: u64, blocks: u64) -> Shape {
        let head = self.head(inode);
        let behind = head.next_multiple_of(CHUNK_INDEX) - head + CHUNK_INDEX * chunks;
        Shape {
            layout: Layout::Chunks,
            size,
            behind,
            blocks,
        }
    }

    /// Returns the contents of a directory or a symlink; empty for everything else.
    pub(super) fn contents(&self, inode: InodeId, parent: InodeId) -> Cow<'t, [u8]> {
        match &self.tree.inode(inode).content {
            Content::Symlink(target) => Cow::Borrowed(target),
            Content::Directory(_) => {
                let names = self.names(inode, parent);
                Cow::Owned(directory::contents(&names, |inode| self.nid(inode)))
            }
            _ => Cow::Borrowed(b""),
        }
    }

    /// Returns a directory's names sorted by their bytes. Some names sort before `.`.
    fn names(&self, directory: InodeId, parent: InodeId) -> Vec<Name<'t>> {
        let children = self.tree.children(directory).into_iter().flatten();
        let mut names: Vec<Name<'t>> = children
            .map(|(name, entry)| Name {
                name,
                inode: entry.inode,
                file_type: file_type(&self.tree.inode(entry.inode).content),
            })
            .collect();
        for (name, inode) in [(&b"."[..], directory), (b"..", parent)] {
            let at = names.partition_point(|other| other.name < name);
            names.insert(
                at,
                Name {
                    name,
                    inode,
                    file_type: Type::Directory,
                },
            );
        }
        names
    }
}

/// Returns the shape of contents in blocks; a short enough last piece follows the inode.
fn flat(size: u64) -> Shape {
    let tail = size % BLOCK;
    if (1..=INLINE).contains(&tail) {
        return Shape {
            layout: Layout::Inline,
            size,
            behind: tail,
            blocks: size / BLOCK,
        };
    }
    Shape {
        layout: Layout::Plain,
        size,
        behind: 0,
        blocks: size.div_ceil(BLOCK),
    }
}

/// Returns each inode once: the root first, every directory before its entries.
fn order(tree: &Tree) -> Vec<(InodeId, InodeId)> {
    let mut order = vec![(InodeId::ROOT, InodeId::ROOT)];
    let mut seen = vec![false; tree.capacity()];
    let mut at = 0;
    while let Some((directory, _)) = order.get(at).copied() {
        at += 1;
        for entry in tree
            .children(directory)
            .into_iter()
            .flat_map(|names| names.values())
        {
            if !std::mem::replace(&mut seen[entry.inode.index()], true) {
                order.push((entry.inode, directory));
            }
        }
    }
    order
}

/// Returns the layer that contains an inode's data.
fn layer(tree: &Tree, inode: InodeId) -> Option<u16> {
    match &tree.inode(inode).content {
        Content::File { layer, size, .. } if *size > 0 => Some(*layer),
        Content::Sparse { layer, .. } => Some(*layer),
        _ => None,
    }
}

pub(super) fn file_type(content: &Content) -> Type {
    match content {
        Content::Directory(_) => Type::Directory,
        Content::File { .. } | Content::Sparse { .. } => Type::File,
        Content::Symlink(_) => Type::Symlink,
        Content::Fifo => Type::Fifo,
        Content::Device { .. } | Content::Dropped => Type::Device,
    }
}

fn too_large() -> Error {
    Error::policy("tree image", "it would be larger than EROFS can address")
}
