//! Commands for names of images: history, rollback.

use super::{Global, print, run};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::image::reference::ImageArgument;
use crate::store::Store;
use crate::store::image::Image;
use crate::store::refs::{self, Change};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Show the images that a name referred to
#[derive(Args)]
pub struct History {
    /// Name of the pull, import or bake
    name: String,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl History {
    /// Prints a line for each change, latest first.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let changes = meanings(&global.store(), &self.name)?.into_iter().rev();
        if self.json {
            let changes: Vec<_> = changes
                .map(|change| json!({ "time": change.time, "digest": change.digest }))
                .collect();
            return print(&format!("{:#}\n", Value::from(changes)));
        }
        let line = |change: Change| {
            let digest = change
                .digest
                .map_or("-".into(), |digest| digest.to_string());
            format!("{}  {digest}\n", change.time)
        };
        print(&changes.map(line).collect::<String>())
    }
}

/// Set a name back to an older image
#[derive(Args)]
pub struct Rollback {
    /// Name of the pull, import or bake
    name: String,
    /// Older digest of the name [default: the last different one]
    #[arg(long, value_name = "DIGEST")]
    to: Option<Digest>,
}

impl Rollback {
    /// Prints the new digest of the name.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let store = global.store();
        if self.to.is_none() {
            // A damaged line may have been the one to go back to.
            store.whole_refs()?;
        }
        let changes = meanings(&store, &self.name)?;
        let name = changes[0].name.clone();
        let target = match self.to {
            Some(to) => Some(to).filter(|to| changes.iter().any(|c| c.digest == Some(*to))),
            None => refs::meanings(&changes)[&*name].earlier.first().copied(),
        };
        let target = target.ok_or_else(|| {
            let why = match self.to {
                Some(to) => format!("has never meant {to}"),
                None => "has never meant another image".to_string(),
            };
            Error::usage(format_args!("name {name:?}"), why)
                .hint(format_args!("imrun history {name}"))
        })?;
        let _lock = store.lock_shared()?;
        if !Image::is_complete(&store, &target)? {
            return Err(
                Error::policy(format_args!("image {target}"), "is no longer in the store").hint(
                    format_args!("imrun pull NAME@{target}, or import or bake it again"),
                ),
            );
        }
        store.name(&name, &target)?;
        print(&format!("{target}\n"))
    }
}

/// Returns the changes of a name, as typed or as Docker would expand it; at least one, oldest first.
fn meanings(store: &Store, name: &str) -> Result<Vec<Change>> {
    let all = store.refs()?;
    let known = run::spellings(name);
    let found = known
        .iter()
        .find(|name| all.iter().any(|change| change.name == **name));
    let found = found.ok_or_else(|| {
        Error::usage(
            format_args!("name {name:?}"),
            format_args!("is not known in the store {}", store.path().display()),
        )
        .hint("imrun images lists those that are")
    })?;
    Ok(all
        .into_iter()
        .filter(|change| change.name == *found)
        .collect())
}

/// Shortest start of a digest that stands for it, in hex digits.
const SHORTEST: usize = 6;

/// Returns the digest of an image of the store by a digest, the first digits of one, or a name; `NAME@-1` is the
/// meaning of the name before. Only for commands that run nothing: what these stand for can change.
pub fn find(store: &Store, text: &str) -> Result<Digest> {
    if let Some(digest) = text
        .parse::<ImageArgument>()
        .ok()
        .and_then(|named| named.digest())
    {
        return Ok(digest);
    }
    let changes = store.refs()?;
    if let Some(digest) = meaning(&changes, text) {
        return Ok(digest);
    }
    let known: BTreeSet<Digest> = changes.iter().filter_map(|change| change.digest).collect();
    let with_algorithm = text.contains(':');
    let fits = |digest: &&Digest| {
        if with_algorithm {
            digest.to_string().starts_with(text)
        } else {
            digest.hex().starts_with(text)
        }
    };
    let digits = text.rsplit(':').next().unwrap_or_default();
    let is_start = digits.len() >= SHORTEST && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let found: Vec<_> = known.iter().filter(fits).filter(|_| is_start).collect();
    match found[..] {
        [digest] => Ok(*digest),
        [] => Err(Error::usage(
            format_args!("image {text:?}"),
            format_args!(
                "no image in the store {} has this digest or name",
                store.path().display()
            ),
        )
        .hint("imrun images lists them; a digest may be cut to its first 6 digits or more")),
        _ => {
            let all: Vec<_> = found.iter().map(ToString::to_string).collect();
            let why = format_args!("is the start of several digests: {}", all.join(", "));
            Err(Error::usage(format_args!("image {text:?}"), why))
        }
    }
}

/// Returns the meaning of a name, or an earlier one (`NAME@-N`).
fn meaning(changes: &[Change], text: &str) -> Option<Digest> {
    let (name, back) = match text.rsplit_once("@-") {
        Some((name, back)) => (name, back.parse().ok()?),
        None => (text, 0),
    };
    let all = refs::meanings(changes);
    let known = run::spellings(name);
    let found = known.iter().find_map(|name| all.get(name.as_str()))?;
    match back {
        0 => found.now,
        back => found.earlier.get(back - 1).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_its_digest_its_first_digits_or_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        let digests = ["aaaaaa1", "aaaaaa2", "bbbbbb"].map(|start| {
            let hex = format!("{start:0<64}");
            format!("sha256:{hex}").parse::<Digest>().unwrap()
        });
        for digest in &digests[..2] {
            store.name("app", digest).unwrap();
        }
        store
            .name("docker.io/library/redis:7", &digests[2])
            .unwrap();
        let found = |text: &str| find(&store, text).map_err(|error| error.to_string());
        assert_eq!(found(&digests[0].to_string()), Ok(digests[0]));
        assert_eq!(found("app"), Ok(digests[1]));
        assert_eq!(found("app@-1"), Ok(digests[0]));
        assert_eq!(found("redis:7"), Ok(digests[2]));
        assert_eq!(found("sha256:bbbbbb"), Ok(digests[2]));
        assert_eq!(found("aaaaaa2"), Ok(digests[1]));
        assert!(found("aaaaaa").unwrap_err().contains("several digests"));
        for unknown in [
            "bbbbb",
            "sha256:bbbbb",
            "cccccc",
            "nosuch",
            "app@-2",
            "app@-x",
            "",
        ] {
            assert!(
                found(unknown).unwrap_err().contains("no image"),
                "{unknown}"
            );
        }
    }
}
