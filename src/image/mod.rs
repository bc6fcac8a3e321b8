//! An image as data: its documents, its layers, the tree they make, and that tree in the forms that a kernel mounts.
//!
//! Nothing here knows the store.

pub mod erofs;
pub mod layer;
pub mod manifest;
pub mod reference;
pub mod tree;
pub mod unpacked;
pub mod verity;
