//! Which layer a path comes from.

use crate::error::Result;
use crate::store::Store;
use crate::store::image::Image;
use crate::tree::{self, Tree};
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The merged tree of an image, made when it is first asked.
pub struct Owners<'a> {
    image: &'a Image,
    store: &'a Store,
    tree: Option<Tree>,
}

impl<'a> Owners<'a> {
    /// Of that image.
    pub fn new(image: &'a Image, store: &'a Store) -> Owners<'a> {
        Owners {
            image,
            store,
            tree: None,
        }
    }

    /// The layer that has `path`, which exists: its place from 0 for the lowest, and its diff_id.
    /// Null for what the runtime owns.
    ///
    /// # Errors
    /// The layers cannot be read.
    pub fn of(&mut self, path: &Path) -> Result<Value> {
        let tree = match self.tree.take() {
            Some(tree) => tree,
            None => self.merge()?,
        };
        let tree = self.tree.insert(tree);
        let layer = tree
            .lookup(path.as_os_str().as_bytes(), false)
            .and_then(|entry| entry.layer);
        Ok(layer.map_or(Value::Null, |layer| self.layer(usize::from(layer))))
    }

    /// Whether there is nothing to forget.
    pub fn is_at_rest(&self) -> bool {
        self.tree.is_none()
    }

    /// Forgets the tree, until it is asked again.
    pub fn rest(&mut self) {
        self.tree = None;
    }

    fn merge(&self) -> Result<Tree> {
        let tars = self.image.open_layers(self.store)?;
        tree::merge(self.image.scan(&tars)?)
    }

    fn layer(&self, index: usize) -> Value {
        let config = &self.image.config;
        json!({ "index": index, "diffId": config.diff_ids[index] })
    }
}
