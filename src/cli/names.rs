//! The commands about what names mean: history, rollback.

use super::{Global, print, run};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::image::Image;
use crate::store::refs::{self, Change};
use clap::Args;
use serde_json::{Value, json};

/// Show what a name meant, when
#[derive(Args)]
pub struct History {
    /// As it was pulled, imported or baked
    name: String,
    /// As a JSON array
    #[arg(long)]
    json: bool,
}

impl History {
    /// Prints a line for each change, the latest first.
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

/// Let a name mean an older image again
#[derive(Args)]
pub struct Rollback {
    /// As it was pulled, imported or baked
    name: String,
    /// One that it meant before; the last other one without
    #[arg(long, value_name = "DIGEST")]
    to: Option<Digest>,
}

impl Rollback {
    /// Prints the digest that the name means from now on.
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
        if !Image::is_there(&store, &target)? {
            return Err(Error::policy(
                format_args!("image {target}"),
                "is not in the store any more",
            )
            .hint(format_args!(
                "imrun pull NAME@{target}, or import or bake it again"
            )));
        }
        store.name(&name, &target)?;
        print(&format!("{target}\n"))
    }
}

/// The changes of a name, as it is typed or as Docker would read it; at least one, the oldest first.
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
