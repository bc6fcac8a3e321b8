//! OCI image layouts: the documents of a directory or archive that contains images.
//!
//! Source: OCI image-layout.md.

use super::{Document, Index, OCI_INDEX, read_json};
use crate::base::error::{Error, Result};
use crate::base::json::Node;

/// The only version of the layout format.
const VERSION: &str = "1.0.0";

/// Checks the file `oci-layout`; `what` names the layout.
pub fn check(what: &str, bytes: &[u8]) -> Result<()> {
    let value = read_json(what, bytes)?;
    let root = Node::root(what, &value);
    match root.need("imageLayoutVersion")?.text()? {
        VERSION => Ok(()),
        other => Err(root.error(format_args!(
            "has the layout version {other:?}; imrun supports {VERSION}"
        ))),
    }
}

/// Reads the file `index.json`; `what` names the layout.
pub fn index(what: &str, bytes: &[u8]) -> Result<Index> {
    match Document::parse(what, bytes, Some(OCI_INDEX))? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err(Error::digest(what, "its index.json is not an index")),
    }
}
