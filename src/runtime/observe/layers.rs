//! Lookup of the layer that a path comes from.

use crate::base::error::Result;
use crate::image::tree::{self, Tree};
use crate::store::Store;
use crate::store::image::Image;
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The merged tree of an image, built on first use.
pub struct PathLayers<'a> {
    image: Option<&'a Image>,
    store: &'a Store,
    tree: Option<Tree>,
}

impl<'a> PathLayers<'a> {
    /// Makes the lookup for an image; without an image, paths have no layer.
    pub fn new(image: Option<&'a Image>, store: &'a Store) -> PathLayers<'a> {
        PathLayers {
            image,
            store,
            tree: None,
        }
    }

    /// Returns the layer of `path`, which exists: its index, 0 for the lowest, and its diff_id. Null for
    /// the runtime's own files.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn of(&mut self, path: &Path) -> Result<Value> {
        let Some(image) = self.image else {
            return Ok(Value::Null);
        };
        let tree = match self.tree.take() {
            Some(tree) => tree,
            None => merge(image, self.store)?,
        };
        let tree = self.tree.insert(tree);
        let layer = tree
            .lookup(path.as_os_str().as_bytes(), false)
            .and_then(|entry| entry.layer);
        Ok(layer.map_or(Value::Null, |index| {
            let index = usize::from(index);
            json!({ "index": index, "diffId": image.config.diff_ids[index] })
        }))
    }

    /// Returns true if no tree is held.
    pub fn is_idle(&self) -> bool {
        self.tree.is_none()
    }

    /// Drops the tree until the next use.
    pub fn release(&mut self) {
        self.tree = None;
    }
}

fn merge(image: &Image, store: &Store) -> Result<Tree> {
    let tars = image.open_layers(store)?;
    tree::merge(image.scan(&tars, false)?.0)
}
