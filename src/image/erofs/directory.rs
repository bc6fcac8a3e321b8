//! Contents of a directory: blocks of entries, each block followed by the names of its entries.

use super::format::{BLOCK, DIRENT_SIZE, Type};
use crate::image::tree::InodeId;

/// A name in a directory.
pub(super) struct Name<'t> {
    pub name: &'t [u8],
    pub inode: InodeId,
    pub file_type: Type,
}

/// Lays out names sorted by their bytes, `.` and `..` included.
///
/// No entry crosses a block; the last block ends with its last name.
pub(super) fn contents(names: &[Name<'_>], nid: impl Fn(InodeId) -> u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        let block;
        (block, rest) = rest.split_at(fitting(rest));
        let mut offset = block.len() * DIRENT_SIZE;
        for name in block {
            out.extend(nid(name.inode).to_le_bytes());
            out.extend((offset as u16).to_le_bytes());
            out.extend([name.file_type.in_directory(), 0]);
            offset += name.name.len();
        }
        for name in block {
            out.extend_from_slice(name.name);
        }
        if !rest.is_empty() {
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        }
    }
    out
}

/// Returns the number of names that fit in one block: at least one, since a name has at most 255 bytes.
fn fitting(names: &[Name<'_>]) -> usize {
    let mut used = 0;
    let fits = |name: &&Name<'_>| {
        used += DIRENT_SIZE + name.name.len();
        used <= BLOCK as usize
    };
    names.iter().take_while(fits).count().max(1)
}
