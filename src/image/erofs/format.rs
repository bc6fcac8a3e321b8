//! On-disk constants and records, little endian.
//!
//! Source: Linux, fs/erofs/erofs_fs.h; its names are in backquotes.

use crate::image::layer::{Meta, Xattr};

pub(super) use crate::image::layer::BLOCK;
pub(super) const BLOCK_BITS: u8 = 9;
/// `EROFS_SUPER_OFFSET`
pub(super) const SUPER_OFFSET: u64 = 1024;
/// `struct erofs_super_block`
pub(super) const SUPER_SIZE: u64 = 128;
/// `EROFS_SUPER_MAGIC_V1`, include/uapi/linux/magic.h
const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_COMPAT_MTIME`: inode times are modification times.
const COMPAT_MTIME: u32 = 0x2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`, `EROFS_FEATURE_INCOMPAT_DEVICE_TABLE`
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
const INCOMPAT_DEVICE_TABLE: u32 = 0x8;
/// `struct erofs_deviceslot`, `EROFS_DEVT_SLOT_SIZE`
pub(super) const SLOT_SIZE: u64 = 128;
/// Bytes for a device's digest in its slot.
const TAG: usize = 64;
/// Unit of inode numbers: an inode's number is its offset divided by this
/// (`struct erofs_inode_compact`, the smallest inode).
pub(super) const NID_UNIT: u64 = 32;
/// `struct erofs_inode_extended`
pub(super) const INODE_SIZE: u64 = 64;
/// `EROFS_INODE_LAYOUT_EXTENDED`, at `EROFS_I_VERSION_BIT`
const EXTENDED: u16 = 1;
/// `EROFS_I_DATALAYOUT_BIT`
const LAYOUT_BIT: u16 = 1;
/// `struct erofs_xattr_ibody_header`
const XATTR_HEADER: u64 = 12;
/// `struct erofs_xattr_entry`; entries are aligned to its size.
const XATTR_ENTRY: u64 = 4;
/// `EROFS_XATTR_INDEX_USER`, `EROFS_XATTR_INDEX_SECURITY`
const XATTR_PREFIXES: [(&[u8], u8); 2] = [(b"user.", 1), (b"security.", 6)];
/// `struct erofs_dirent`
pub(super) const DIRENT_SIZE: usize = 12;
/// `struct erofs_inode_chunk_index`
pub(super) const CHUNK_INDEX: u64 = 8;
/// `EROFS_CHUNK_FORMAT_INDEXES`
const CHUNK_INDEXES: u32 = 0x20;
/// `EROFS_NULL_ADDR`
pub(super) const HOLE: u32 = u32::MAX;

/// Data layout of an inode (`EROFS_INODE_FLAT_PLAIN` …).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Contents in blocks.
    Plain = 0,
    /// Contents in blocks, except for the last piece, which follows the inode.
    Inline = 2,
    /// Chunk indexes behind the inode.
    Chunks = 4,
}

/// File types of inodes (`S_IFMT`, include/uapi/linux/stat.h) and of directory entries (`FT_*`,
/// include/linux/fs_types.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Directory,
    Device,
    Fifo,
    Symlink,
}

impl Type {
    fn mode(self) -> u16 {
        match self {
            Type::Fifo => 0o010_000,
            Type::Device => 0o020_000,
            Type::Directory => 0o040_000,
            Type::File => 0o100_000,
            Type::Symlink => 0o120_000,
        }
    }

    pub(super) fn in_directory(self) -> u8 {
        match self {
            Type::File => 1,
            Type::Directory => 2,
            Type::Device => 3,
            Type::Fifo => 5,
            Type::Symlink => 7,
        }
    }
}

/// Values of the superblock.
pub(super) struct Super {
    pub root: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub uuid: [u8; 16],
    pub devices: u16,
}

impl Super {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let has_devices = if self.devices > 0 {
            INCOMPAT_DEVICE_TABLE
        } else {
            0
        };
        let slot = ((SUPER_OFFSET + SUPER_SIZE) / SLOT_SIZE) as u16;
        let mut out = Vec::with_capacity(SUPER_SIZE as usize);
        out.extend(MAGIC.to_le_bytes());
        out.extend(0u32.to_le_bytes()); // checksum: none, the whole image has a digest
        out.extend(COMPAT_MTIME.to_le_bytes());
        out.extend([BLOCK_BITS, 0]); // and sb_extslots
        out.extend(self.root.to_le_bytes());
        out.extend(self.inodes.to_le_bytes());
        out.extend([0; 12]); // build_time and its nanoseconds: for compact inodes only
        out.extend(self.blocks.to_le_bytes());
        out.extend([0; 8]); // meta_blkaddr, xattr_blkaddr
        out.extend(self.uuid);
        out.extend([0; 16]); // volume_name
        out.extend((INCOMPAT_CHUNKED_FILE | has_devices).to_le_bytes());
        out.extend(0u16.to_le_bytes()); // available_compr_algs
        out.extend(self.devices.to_le_bytes());
        out.extend(if self.devices > 0 { slot } else { 0 }.to_le_bytes());
        out.resize(SUPER_SIZE as usize, 0);
        out
    }
}

/// Returns a device's slot: the first 64 hex digits of its digest (a whole SHA-256), and its blocks.
pub(super) fn slot(hex: &str, blocks: u32) -> Vec<u8> {
    let mut out: Vec<u8> = hex.bytes().take(TAG).collect();
    out.resize(TAG, 0);
    out.extend(blocks.to_le_bytes());
    out.resize(SLOT_SIZE as usize, 0);
    out
}

/// An extended inode, without its xattrs.
pub(super) struct Inode<'t> {
    pub layout: Layout,
    pub file_type: Type,
    pub meta: &'t Meta,
    pub size: u64,
    /// `i_u`: block address, device number or chunk format.
    pub address: u32,
    pub number: u32,
    pub links: u32,
}

impl Inode<'_> {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let xattrs = xattrs_size(&self.meta.xattrs);
        let count = if xattrs == 0 {
            0
        } else {
            (xattrs - XATTR_HEADER) / XATTR_ENTRY + 1
        };
        let mut out = Vec::with_capacity(INODE_SIZE as usize);
        out.extend((EXTENDED | (self.layout as u16) << LAYOUT_BIT).to_le_bytes());
        out.extend((count as u16).to_le_bytes());
        out.extend((self.file_type.mode() | self.meta.mode).to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.size.to_le_bytes());
        out.extend(self.address.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.meta.uid.to_le_bytes());
        out.extend(self.meta.gid.to_le_bytes());
        out.extend(self.meta.mtime.to_le_bytes());
        out.extend(self.meta.nanoseconds.to_le_bytes());
        out.extend(self.links.to_le_bytes());
        out.resize(INODE_SIZE as usize, 0);
        out
    }
}

/// Returns the `i_u` of a chunk-based file with chunks of 2^bits bytes.
pub(super) fn chunk_format(bits: u32) -> u32 {
    (bits - u32::from(BLOCK_BITS)) | CHUNK_INDEXES
}

/// Returns a chunk index; device 0 is the image itself.
pub(super) fn chunk_index(device: u16, block: u32) -> [u8; CHUNK_INDEX as usize] {
    let [d0, d1] = device.to_le_bytes();
    let [b0, b1, b2, b3] = block.to_le_bytes();
    [0, 0, d0, d1, b0, b1, b2, b3]
}

/// Returns the `i_u` of a device node (`new_encode_dev`, include/linux/kdev_t.h).
pub(super) fn device_number(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// Returns the size in bytes of the inline xattrs, header included.
pub(super) fn xattrs_size(xattrs: &[Xattr]) -> u64 {
    if xattrs.is_empty() {
        return 0;
    }
    let sizes = xattrs.iter().map(|xattr| {
        let (_, name) = xattr_name(&xattr.name);
        (XATTR_ENTRY + (name.len() + xattr.value.len()) as u64).next_multiple_of(XATTR_ENTRY)
    });
    XATTR_HEADER + sizes.sum::<u64>()
}

/// Returns the inline xattrs, header included.
pub(super) fn xattrs_bytes(xattrs: &[Xattr]) -> Vec<u8> {
    let mut out = Vec::new();
    if xattrs.is_empty() {
        return out;
    }
    out.resize(XATTR_HEADER as usize, 0);
    for xattr in xattrs {
        let (index, name) = xattr_name(&xattr.name);
        out.extend([name.len() as u8, index]);
        out.extend((xattr.value.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(&xattr.value);
        out.resize(out.len().next_multiple_of(XATTR_ENTRY as usize), 0);
    }
    out
}

/// Splits a name into its prefix's number and the rest.
fn xattr_name(name: &[u8]) -> (u8, &[u8]) {
    XATTR_PREFIXES
        .iter()
        .find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)))
        .unwrap_or((0, name))
}
