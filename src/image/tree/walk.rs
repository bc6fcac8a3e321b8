//! Iterates over all names of a tree.

use super::{Children, Dirent, Tree};
use std::collections::btree_map;

type Names<'t> = btree_map::Iter<'t, Box<[u8]>, Dirent>;

/// Iterator over all paths with their entries: each directory before its entries, names sorted by
/// their bytes. The root comes first, with an empty path.
pub struct Walk<'t> {
    tree: &'t Tree,
    root: Option<Dirent>,
    path: Vec<u8>,
    /// Directories being listed, each with the length of its path.
    stack: Vec<(Names<'t>, usize)>,
}

impl Tree {
    /// Iterates over all names.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            tree: self,
            root: Some(self.root),
            path: Vec::new(),
            stack: Vec::new(),
        }
    }
}

impl<'t> Walk<'t> {
    fn enter(&mut self, children: Option<&'t Children>) {
        if let Some(children) = children {
            self.stack.push((children.iter(), self.path.len()));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, Dirent);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(root) = self.root.take() {
            self.enter(self.tree.children(root.inode));
            return Some((Vec::new(), root));
        }
        loop {
            let (children, length) = self.stack.last_mut()?;
            self.path.truncate(*length);
            let Some((name, entry)) = children.next() else {
                self.stack.pop();
                continue;
            };
            if *length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            self.enter(self.tree.children(entry.inode));
            return Some((self.path.clone(), *entry));
        }
    }
}
