//! Commands for names of images: history, rollback.

use super::{Global, print, run};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::store::Store;
use crate::store::image::Image;
use crate::store::refs::{self, Change};
use clap::Args;
use serde_json::{Value, json};

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
