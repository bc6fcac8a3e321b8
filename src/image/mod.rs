//! Images as data: their documents, their layers, the merged tree, and its forms on disk.
//!
//! This module does not depend on the store.

pub mod erofs;
pub mod layer;
pub mod manifest;
pub mod reference;
pub mod tree;
pub mod unpacked;
pub mod verity;
