//! Layers: reads a compressed stream as a list of the tar's entries, without unpacking anything.
//!
//! [`decoder`] decompresses, [`Tee`] hashes (and copies) the tar as it passes, [`scan`] lists its entries.
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

/// Maximum bytes of a path or a symlink's target: `PATH_MAX` without its NUL (linux/limits.h).
pub const PATH_LIMIT: usize = 4095;
/// Maximum bytes of a path component: `NAME_MAX` (linux/limits.h).
pub const NAME_LIMIT: usize = 255;
/// Block size of a tar and of the tree image, in bytes.
pub const BLOCK: u64 = 512;

/// Contents of one tar, in its order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Entries and whiteouts, in the order of the tar.
    pub entries: Vec<Entry>,
    /// Contents of the tar that the tree leaves out.
    pub dropped: Dropped,
    /// Size of the whole tar in bytes, including padding and data after the end blocks.
    pub size: u64,
}

/// One name in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path without leading slash, `.`, `..` or empty components; empty for the root. For a whiteout,
    /// the path it hides; for an opaque marker, its directory.
    pub path: Box<[u8]>,
    /// Attributes; meaningless for whiteouts, opaque markers, devices and hard links.
    pub meta: Meta,
    /// Type of the entry.
    pub kind: Kind,
}

/// An inode's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, `07777`.
    pub mode: u16,
    /// Owner's user ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Nanoseconds after `mtime`, below 10^9.
    pub nanoseconds: u32,
    /// Modification time in seconds since the epoch.
    pub mtime: i64,
    /// Extended attributes, sorted by name, each name once.
    pub xattrs: Box<[Xattr]>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name with its namespace: `user.…` or `security.capability`.
    pub name: Box<[u8]>,
    /// Value: at most 65,535 bytes.
    pub value: Box<[u8]>,
}

/// Type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file stored contiguously in the tar.
    File {
        /// Size in bytes.
        size: u64,
        /// Offset of the data in the tar, a multiple of 512.
        offset: u64,
    },
    /// A file with holes.
    Sparse(Box<Sparse>),
    /// A symbolic link with its target as written: 1 to 4,095 bytes.
    Symlink(Box<[u8]>),
    /// A hard link to this path, normalised like [`Entry::path`].
    HardLink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A device node. The tree leaves it out, but a hard link may name it.
    Device,
    /// Hides the path in the layers below.
    Whiteout,
    /// Hides the directory's contents in the layers below.
    Opaque,
}

/// Contents of an image that the tree leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Device nodes.
    pub devices: u64,
    /// Extended attributes outside `user.*` and `security.capability`.
    pub xattrs: u64,
    /// The first few, e.g. `device dev/sda` or `xattr trusted.overlay.opaque of etc`.
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

/// Limits for one layer, which bound the cost of a hostile tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes of the uncompressed tar. The tree image's addresses end at 2 TiB.
    pub bytes: u64,
    /// Maximum number of entries, whiteouts included.
    pub entries: usize,
    /// Maximum bytes of one PAX or GNU long-name header.
    pub header: u64,
    /// Maximum bytes kept in memory for the whole layer: names, targets, xattrs, sparse maps.
    pub memory: usize,
    /// Maximum number of chunk indexes (8 bytes each) that the layer's sparse files need in the tree image.
    pub chunks: u64,
    /// Requires the end blocks: set for a tar without a digest to prove that it is complete.
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

/// Returns an error for the current entry; [`scan`] adds its name.
fn refuse(why: impl std::fmt::Display) -> crate::base::error::Error {
    crate::base::error::Error::digest("", why)
}

/// Returns an error for a limit that the current entry exceeds.
fn too_much(why: impl std::fmt::Display) -> crate::base::error::Error {
    crate::base::error::Error::policy("", why)
}

#[cfg(test)]
mod tests;
