//! Docker archives: the `manifest.json` of `docker save`.

use super::index::{Choice, is_same_name, listed};
use super::{read_json, read_texts};
use crate::base::error::{Error, Result};
use crate::base::json::Node;

/// One image of an archive. Its fields name members of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Member that contains the image config.
    pub config: String,
    /// Names of the image, `NAME:TAG`.
    pub tags: Vec<String>,
    /// Members that contain the layers, lowest first.
    pub layers: Vec<String>,
}

/// Reads all images of an archive; `what` names the archive.
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

/// Returns a name inside the archive, without a leading `/` or `./`.
fn read_member(node: &Node) -> Result<String> {
    let name = node.text()?;
    let parts = || name.split('/').filter(|part| !matches!(*part, "" | "."));
    if name.contains('\0') || parts().next().is_none() || parts().any(|part| part == "..") {
        return Err(node.error(format_args!(
            "is {name:?}, which cannot name a member of the archive"
        )));
    }
    Ok(parts().collect::<Vec<_>>().join("/"))
}

/// Returns the chosen image. A digest is that of the config, which the member's name contains.
pub fn select<'a>(what: &str, entries: &'a [Entry], choice: &Choice) -> Result<&'a Entry> {
    let mut chosen = entries
        .iter()
        .enumerate()
        .filter(|(number, entry)| match choice {
            Choice::Only => true,
            Choice::Name(name) => entry.tags.iter().any(|tag| is_same_name(tag, name)),
            Choice::Digest(digest) => {
                let of_digest = |tag: &String| tag.ends_with(&format!("@{digest}"));
                entry.config.contains(&digest.hex()) || entry.tags.iter().any(of_digest)
            }
            Choice::Number(wanted) => number == wanted,
        });
    let error = |why: std::fmt::Arguments<'_>| Err(Error::digest(what, why));
    match (chosen.next(), chosen.next()) {
        (Some((_, entry)), None) => Ok(entry),
        (Some(_), Some(_)) => {
            let names = names(entries);
            let error = match choice {
                Choice::Only => error(format_args!("has several images: {names}")),
                _ => error(format_args!("the {choice} names several images: {names}")),
            };
            error.map_err(|e: Error| e.hint(CHOOSE))
        }
        (None, _) if *choice == Choice::Only => error(format_args!("has no image")),
        (None, _) => error(format_args!("has no {choice}, only {}", names(entries))),
    }
}

const CHOOSE: &str =
    "append :NAME:TAG to the file, or :@NUMBER, its position in manifest.json from 0";

fn names(entries: &[Entry]) -> String {
    listed(entries.iter().enumerate().flat_map(|(number, entry)| {
        if entry.tags.is_empty() {
            vec![format!("@{number} ({})", entry.config)]
        } else {
            entry.tags.clone()
        }
    }))
}
