//! Layers: from a compressed stream to what a layer's tar says, without unpacking anything.
//!
//! [`decoder`] decompresses, [`Tee`] hashes (and keeps) the tar as it passes, [`scan`] reads it.
//!
//! Source: OCI image specification 1.1, layer.md; POSIX.1-2024, pax, "Extended Interchange Format";
//! the GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".

#[cfg(feature = "import")]
mod decompress;
mod header;
mod path;
mod pax;
#[cfg(test)]
pub(crate) mod sample;
mod scan;
mod sparse;
mod stream;
mod tee;

#[cfg(feature = "import")]
pub use decompress::{Compression, decoder, is_zstd};
pub(crate) use path::split;
pub use scan::scan;
pub(crate) use sparse::whole_bits;
pub use sparse::{Extent, Source, Sparse};
pub use tee::Tee;

/// `PATH_MAX` without its NUL (linux/limits.h): the longest path, and the longest symlink target.
pub const PATH_LIMIT: usize = 4095;
/// `NAME_MAX` (linux/limits.h): the longest component of a path.
pub const NAME_LIMIT: usize = 255;
/// The unit of a tar, and of the tree image: 512 bytes.
pub const BLOCK: u64 = 512;

/// What one tar says, in its order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Entries and whiteouts, in the order of the tar.
    pub entries: Vec<Entry>,
    /// What is not taken over from the image.
    pub dropped: Dropped,
    /// Bytes of the whole tar, padding and what follows the end blocks included.
    pub size: u64,
}

/// One name in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// No leading slash, no `.` or `..`, no empty component; empty for the root.
    /// For a whiteout what it hides, for an opaque marker its directory.
    pub path: Box<[u8]>,
    /// Meaningless for whiteouts, opaque markers, devices and hard links.
    pub meta: Meta,
    /// What the name stands for.
    pub kind: Kind,
}

/// An inode's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, `07777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Nanoseconds after `mtime`, below 10^9.
    pub nanoseconds: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Sorted by name, each name once.
    pub xattrs: Box<[Xattr]>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// With its namespace: `user.…`, or `security.capability`.
    pub name: Box<[u8]>,
    /// At most 65,535 bytes.
    pub value: Box<[u8]>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file whose bytes are one piece of the tar.
    File {
        /// In bytes.
        size: u64,
        /// Where they start in the tar, a multiple of 512.
        offset: u64,
    },
    /// A file with holes.
    Sparse(Box<Sparse>),
    /// A symbolic link and its target, as written: 1 to 4,095 bytes.
    Symlink(Box<[u8]>),
    /// Another name of the path, normalised as [`Entry::path`] is.
    HardLink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A device node. It will not be in the tree, but a hard link may name it.
    Device,
    /// The path is hidden in the layers below.
    Whiteout,
    /// The directory's contents are hidden in the layers below.
    Opaque,
}

/// What an image has and the tree will not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Device nodes.
    pub devices: u64,
    /// Extended attributes outside `user.*` and `security.capability`.
    pub xattrs: u64,
    /// The first few: `device dev/sda`, `xattr trusted.overlay.opaque of etc`.
    pub examples: Vec<String>,
}

impl Dropped {
    const EXAMPLES: usize = 8;

    pub(crate) fn note(&mut self, example: impl FnOnce() -> String) {
        if self.examples.len() < Self::EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// Budgets for one layer: what a hostile tar can cost at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed tar. The tree image's addresses end at 2 TiB.
    pub bytes: u64,
    /// Entries, whiteouts included.
    pub entries: usize,
    /// Bytes of one PAX or GNU long-name header.
    pub header: u64,
    /// Bytes kept in memory for the whole layer: names, targets, xattrs, sparse maps.
    pub memory: usize,
    /// Chunk indexes (8 bytes each) that the layer's sparse files need in the tree image.
    pub chunks: u64,
    /// Whether the end blocks must be there: where no digest proves that nothing is missing.
    pub end_blocks: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes: 64 << 30,
            entries: 1 << 20,
            header: 1 << 20,
            memory: 256 << 20,
            chunks: 1 << 22,
            end_blocks: false,
        }
    }
}

/// A refusal of the entry at hand, which [`scan`] names.
fn refuse(why: impl std::fmt::Display) -> crate::error::Error {
    crate::error::Error::digest("", why)
}

/// A budget that the entry at hand exceeds.
fn too_much(why: impl std::fmt::Display) -> crate::error::Error {
    crate::error::Error::policy("", why)
}

#[cfg(test)]
mod tests;
