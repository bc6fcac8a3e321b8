//! The commands about registries and what names mean: pull, push, history, rollback.

use super::progress::Progress;
use super::{Global, print, run, values};
use crate::digest::Digest;
use crate::error::{Error, Reason, Result};
use crate::manifest::Platform;
use crate::reference::Reference;
use crate::registry::pull::{Remote, THREADS};
use crate::registry::{Settings, push};
use crate::store::Store;
use crate::store::image::Image;
use crate::store::import::{Found, Options};
use crate::store::refs::Change;
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

const PULL_EXAMPLES: &str = "Examples:
  imrun pull redis:7                          what the tag means now; prints the digest to run
  imrun pull --platform linux/arm64 redis:7
  imrun pull localhost:5000/app@sha256:…";

/// How the registry is spoken to
#[derive(Args)]
struct Connection {
    /// Speak to the registry without TLS; on loopback that is found out
    #[arg(long)]
    plain_http: bool,
    /// How long the registry may say nothing, or less than 64 KiB
    #[arg(long, default_value = "30s", value_parser = values::duration, value_name = "TIME")]
    timeout: Duration,
    /// How long all of it may take
    #[arg(long, default_value = "1h", value_parser = values::duration, value_name = "TIME")]
    deadline: Duration,
}

impl Connection {
    fn settings(&self) -> Settings {
        Settings {
            plain_http: self.plain_http,
            timeout: self.timeout,
            deadline: self.deadline,
        }
    }
}

/// Bring an image into the store
#[derive(Args)]
#[command(after_help = PULL_EXAMPLES)]
pub struct Pull {
    /// [REGISTRY/]NAME[:TAG|@DIGEST], as Docker reads it
    name: Reference,
    /// OS/ARCH[/VARIANT] of an index; this host's by default
    #[arg(long)]
    platform: Option<Platform>,
    /// Keep the compressed layers, for a later push
    #[arg(long)]
    keep_blobs: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Pull {
    /// Prints the manifest digest.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let platform = self.platform.unwrap_or_else(Platform::host);
        let settings = self.connection.settings();
        let pulled = pull(
            &global.store(),
            &self.name,
            &platform,
            self.keep_blobs,
            &settings,
        )?;
        print(&format!("{pulled}\n"))
    }
}

/// The image of a name in the store: what is missing of it is pulled.
pub fn present(store: &Store, name: &Reference, digest: &Digest) -> Result<()> {
    if Image::is_there(store, digest)? {
        return Ok(());
    }
    let pulled = pull(store, name, &Platform::host(), false, &Settings::default());
    match pulled {
        Ok(_) => Ok(()),
        // It is not the registry that is missed, but the image.
        Err(error) if error.reason == Reason::System => {
            let place = store.path().display();
            let why = format_args!(
                "is not all in the store {place}, and a pull fails: {}",
                error.why
            );
            let missing = Error::digest(name, why);
            Err(match error.hint {
                Some(hint) => missing.hint(hint),
                None => missing,
            })
        }
        Err(error) => Err(error),
    }
}

fn pull(
    store: &Store,
    name: &Reference,
    platform: &Platform,
    keep_blobs: bool,
    settings: &Settings,
) -> Result<Digest> {
    store.create()?;
    let remote = Remote::new(store, name, settings)?;
    let found = Found::follow(&remote, remote.root(name)?, platform)?;
    let progress = Progress::new(&found);
    let options = Options {
        keep_blobs,
        // What was asked for by its digest was given no meaning: it is known by that.
        name: name.digest.is_none().then(|| name.tagged()),
        threads: THREADS,
        progress: &|layer, step| progress.tell(layer, step),
    };
    found.store(store, &options)
}

/// Send an image of the store to a registry
#[derive(Args)]
pub struct Push {
    /// sha256:… of a manifest
    digest: Digest,
    /// [REGISTRY/]NAME[:TAG]; the tag is `latest` without
    name: Reference,
    #[command(flatten)]
    connection: Connection,
}

impl Push {
    /// Prints the manifest digest.
    pub fn execute(self, global: &Global) -> Result<u8> {
        if self.name.digest.is_some() {
            return Err(Error::usage(
                self.name,
                "a push is to a name or a tag, not to a digest",
            ));
        }
        push::push(
            &global.store(),
            &self.digest,
            &self.name,
            &self.connection.settings(),
            |blob, sent| {
                let how = if sent { "sent" } else { "there already" };
                eprintln!("{}  {how}", blob.digest);
            },
        )?;
        print(&format!("{}\n", self.digest))
    }
}

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
        let current = changes.last().and_then(|change| change.digest);
        let mut older = changes.iter().rev().filter_map(|change| change.digest);
        let target = match self.to {
            Some(to) => older.find(|digest| *digest == to),
            None => older.find(|digest| Some(*digest) != current),
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
