//! Resolution of paths inside a tree.

use super::{Content, Dirent, Tree};
use std::borrow::Cow;
use std::ops::Range;

/// Symlinks followed for one path (`MAXSYMLINKS`, linux/namei.h).
const LINKS: u32 = 40;

/// A path on its way through the tree.
pub(super) struct Resolution<'p> {
    /// The directories entered, the root first.
    stack: Vec<Dirent>,
    path: Cow<'p, [u8]>,
    at: usize,
    links: u32,
}

/// Why a resolution stopped. A name is a range of [`Resolution::name`].
pub(super) enum Stop {
    /// At the end, in a directory.
    End,
    /// The directory does not have the name.
    Missing(Range<usize>),
    /// The name is neither a directory nor a symlink.
    Blocked(Range<usize>, Dirent),
    /// More than 40 symlinks.
    Loop,
}

impl<'p> Resolution<'p> {
    pub(super) fn new(tree: &Tree, path: &'p [u8]) -> Self {
        Resolution {
            stack: vec![tree.root],
            path: Cow::Borrowed(path),
            at: 0,
            links: 0,
        }
    }

    /// The directory reached.
    pub(super) fn directory(&self) -> Dirent {
        self.stack[self.stack.len() - 1]
    }

    /// Directories from the root to there.
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    pub(super) fn name(&self, range: Range<usize>) -> &[u8] {
        &self.path[range]
    }

    /// Goes on into a directory that was made where one was missing.
    pub(super) fn enter(&mut self, directory: Dirent) {
        self.stack.push(directory);
    }

    fn is_last(&self) -> bool {
        self.path[self.at..].iter().all(|byte| *byte == b'/')
    }

    /// Follows the path, symlinks included, never above the root, until it stops.
    pub(super) fn advance(&mut self, tree: &Tree) -> Stop {
        while let Some(name) = self.next() {
            match &self.path[name.clone()] {
                b"." => {}
                b".." if self.stack.len() == 1 => {}
                b".." => drop(self.stack.pop()),
                component => {
                    let Some(entry) = tree.child(self.directory().inode, component) else {
                        return Stop::Missing(name);
                    };
                    match &tree.inode(entry.inode).content {
                        Content::Directory(_) => self.stack.push(entry),
                        Content::Symlink(_) if self.links == LINKS => return Stop::Loop,
                        Content::Symlink(target) => self.follow(target),
                        _ => return Stop::Blocked(name, entry),
                    }
                }
            }
        }
        Stop::End
    }

    fn next(&mut self) -> Option<Range<usize>> {
        let rest = &self.path[self.at..];
        let start = self.at + rest.iter().position(|byte| *byte != b'/')?;
        let rest = &self.path[start..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'/')
            .unwrap_or(rest.len());
        self.at = start + length;
        Some(start..self.at)
    }

    fn follow(&mut self, target: &[u8]) {
        self.links += 1;
        if target.starts_with(b"/") {
            self.stack.truncate(1);
        }
        self.path = Cow::Owned([target, b"/", &self.path[self.at..]].concat());
        self.at = 0;
    }
}

impl Tree {
    /// What a path stands for, resolved inside the tree; a symlink in its last place is
    /// followed where `follow` says so.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Option<Dirent> {
        let trimmed = path
            .iter()
            .rposition(|byte| *byte != b'/')
            .map_or(0, |last| last + 1);
        let path = &path[..trimmed];
        let slash = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(slash);
        if follow || matches!(name, b"" | b"." | b"..") {
            return self.follow(path);
        }
        self.child(self.follow(parent)?.inode, name)
    }

    fn follow(&self, path: &[u8]) -> Option<Dirent> {
        let mut resolution = Resolution::new(self, path);
        match resolution.advance(self) {
            Stop::End => Some(resolution.directory()),
            Stop::Blocked(_, entry) if resolution.is_last() => Some(entry),
            _ => None,
        }
    }
}
