//! The commands about registries: pull, push.

use super::progress::Progress;
use super::{Global, print, values};
use crate::digest::Digest;
use crate::error::{Error, Reason, Result, say};
use crate::manifest::Platform;
use crate::reference::Reference;
use crate::registry::pull::{Remote, THREADS};
use crate::registry::{Settings, push};
use crate::store::Store;
use crate::store::image::Image;
use crate::store::import::{Found, Options};
use clap::{Args, Subcommand};
use std::time::Duration;

const PULL_EXAMPLES: &str = "Examples:
  imrun pull redis:7                          what the tag means now; prints the digest to run
  imrun pull --platform linux/arm64 redis:7
  imrun pull localhost:5000/app@sha256:…";

/// What a build without `registry` has not.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Bring an image from a registry into the store; prints its manifest digest
    Pull(Pull),
    /// Send an image of the store to a registry; prints its manifest digest
    Push(Push),
}

impl Command {
    /// Whether it works on unpacked images.
    pub fn reaches_files(&self) -> bool {
        matches!(self, Command::Pull(_))
    }

    /// Runs it; the exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
        match self {
            Command::Pull(pull) => pull.execute(global),
            Command::Push(push) => push.execute(global),
        }
    }
}

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
    match pull_from(&remote, store, name, platform, keep_blobs) {
        Err(error) if error.reason == Reason::Digest => {
            // What a mirror sent was wrong: the registry itself may have it right.
            let Some(registry) = remote.without_mirrors(name, settings)? else {
                return Err(error);
            };
            log::warn!("the mirrors are passed over: {error}");
            pull_from(&registry, store, name, platform, keep_blobs)
        }
        outcome => outcome,
    }
}

fn pull_from(
    remote: &Remote,
    store: &Store,
    name: &Reference,
    platform: &Platform,
    keep_blobs: bool,
) -> Result<Digest> {
    let found = Found::follow(remote, remote.root(name)?, platform)?;
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
                say(&format!("{}  {how}\n", blob.digest));
            },
        )?;
        print(&format!("{}\n", self.digest))
    }
}
