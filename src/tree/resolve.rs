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
    /// The layer whose own symlinks alone are followed, if any.
    layer: Option<u16>,
}

/// Why a resolution stopped. A name is a range of [`Resolution::name`].
pub(super) enum Stop {
    /// At the end, in a directory.
    End,
    /// The directory does not have the name.
    Missing(Range<usize>),
    /// The name is neither a directory nor a symlink that is followed.
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
            layer: None,
        }
    }

    /// The way to what a layer adds: to the layer's unpacker, which sees nothing of the layers below,
    /// their symlinks are not there.
    pub(super) fn of_layer(tree: &Tree, path: &'p [u8], layer: u16) -> Self {
        Resolution {
            layer: Some(layer),
            ..Resolution::new(tree, path)
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
                        Content::Symlink(_)
                            if self.layer.is_some_and(|own| entry.layer != Some(own)) =>
                        {
                            return Stop::Blocked(name, entry);
                        }
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
    /// The path itself, its parents' symlinks followed as far as the tree has them; `None` where
    /// more than 40 are in the way. A path for which `stop` holds is not followed.
    pub fn real_path(&self, path: &[u8], stop: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let (parent, name) = crate::layer::split(path);
        let words = |path: &[u8]| -> Vec<Vec<u8>> {
            path.rsplit(|byte| *byte == b'/')
                .map(<[u8]>::to_vec)
                .collect()
        };
        let (mut here, mut pending, mut links) = (Vec::<Vec<u8>>::new(), words(parent), 0);
        while let Some(word) = pending.pop() {
            match &word[..] {
                b"" | b"." => continue,
                b".." => drop(here.pop()),
                _ => here.push(word),
            }
            let at = here.join(&b'/');
            let entry = self
                .lookup(&at, false)
                .filter(|_| !at.is_empty() && !stop(&at));
            if let Some(Content::Symlink(target)) = entry.map(|e| &self.inode(e.inode).content) {
                links += 1;
                if links > LINKS {
                    return None;
                }
                here.pop();
                if target.starts_with(b"/") {
                    here.clear();
                }
                pending.extend(words(target));
            }
        }
        here.push(name.to_vec());
        Some(here.join(&b'/'))
    }

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
