//! Docker archives: the `manifest.json` of `docker save`.

use super::index::listed;
use super::{read_json, read_texts};
use crate::base::error::{Error, Result};
use crate::base::json::Node;

/// One image of an archive. Its names are those of members of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The member that is the image config.
    pub config: String,
    /// What the image was called, `NAME:TAG`.
    pub tags: Vec<String>,
    /// The members that are the layers, lowest first.
    pub layers: Vec<String>,
}

/// All images of an archive; `what` names the archive.
pub fn parse(what: &str, bytes: &[u8]) -> Result<Vec<Entry>> {
    let value = read_json(what, bytes)?;
    Node::root(what, &value).list()?.iter().map(read).collect()
}

fn read(node: &Node) -> Result<Entry> {
    let layers = node.need("Layers")?.list()?;
    Ok(Entry {
        config: read_member(&node.need("Config")?)?,
        tags: read_texts(node, "RepoTags")?,
        layers: layers.iter().map(read_member).collect::<Result<_>>()?,
    })
}

/// A name that stays inside the archive.
fn read_member(node: &Node) -> Result<String> {
    let name = node.text()?;
    if name.contains('\0') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(node.error(format_args!("is {name:?}, not the name of a member")));
    }
    Ok(name.to_string())
}

/// The image with that tag, or the only one where no tag is given.
pub fn select<'a>(what: &str, entries: &'a [Entry], tag: Option<&str>) -> Result<&'a Entry> {
    let chosen = |entry: &&Entry| tag.is_none_or(|tag| entry.tags.iter().any(|t| t == tag));
    let mut chosen = entries.iter().filter(chosen);
    let tags = || listed(entries.iter().flat_map(|entry| &entry.tags));
    match (chosen.next(), chosen.next(), tag) {
        (Some(entry), None, _) => Ok(entry),
        (Some(_), Some(_), Some(tag)) => Err(Error::digest(
            what,
            format_args!("the tag {tag:?} names two images"),
        )),
        (Some(_), Some(_), None) => Err(Error::digest(
            what,
            format_args!("has several images: {}", tags()),
        )
        .hint("save the one you need into an archive of its own")),
        (None, _, Some(tag)) => Err(Error::digest(
            what,
            format_args!("has no image {tag:?}, only {}", tags()),
        )),
        (None, _, None) => Err(Error::digest(what, "has no image")),
    }
}
