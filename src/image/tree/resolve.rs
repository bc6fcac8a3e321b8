//! Resolves paths inside a tree.

use super::{Content, Dirent, Tree};
use std::borrow::Cow;
use std::ops::Range;

/// Maximum number of symlinks followed for one path (`MAXSYMLINKS`, linux/namei.h).
const LINKS: u32 = 40;

/// State of a path's resolution.
pub(super) struct Resolution<'p> {
    /// Directories entered so far, the root first.
    stack: Vec<Dirent>,
    path: Cow<'p, [u8]>,
    at: usize,
    links: u32,
    /// Layer whose symlinks are followed; `None` follows all.
    layer: Option<u16>,
}

/// Reason why a resolution stopped. A name is a range of [`Resolution::name`].
pub(super) enum Stop {
    /// The path ended in a directory.
    End,
    /// The directory does not contain the name.
    Missing(Range<usize>),
    /// The name is neither a directory nor a symlink to follow.
    Blocked(Range<usize>, Dirent),
    /// The path leads through more than 40 symlinks.
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

    /// Resolves the path of an entry that a layer adds. As the layer is unpacked without the layers
    /// below, their symlinks are not followed.
    pub(super) fn of_layer(tree: &Tree, path: &'p [u8], layer: u16) -> Self {
        Resolution {
            layer: Some(layer),
            ..Resolution::new(tree, path)
        }
    }

    /// Returns the directory reached so far.
    pub(super) fn directory(&self) -> Dirent {
        self.stack[self.stack.len() - 1]
    }

    /// Returns the number of directories from the root to the current one.
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    pub(super) fn name(&self, range: Range<usize>) -> &[u8] {
        &self.path[range]
    }

    /// Enters a directory created for a missing one.
    pub(super) fn enter(&mut self, directory: Dirent) {
        self.stack.push(directory);
    }

    fn is_last(&self) -> bool {
        self.path[self.at..].iter().all(|byte| *byte == b'/')
    }

    /// Follows the path and its symlinks, never above the root, until it stops.
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
    /// Returns the path with its parents' symlinks resolved as far as the tree contains them, or `None`
    /// after more than 40 symlinks. A path that satisfies `stop` is not resolved.
    pub fn real_path(&self, path: &[u8], stop: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let (parent, name) = crate::image::layer::split(path);
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

    /// Looks up a path inside the tree. `follow` decides if a symlink at its end is followed.
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
