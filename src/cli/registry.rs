//! Commands for registries: pull, push.

use super::progress::Progress;
use super::{Global, print, values};
use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result, say};
use crate::image::manifest::Platform;
use crate::image::reference::Reference;
use crate::registry::pull::{Remote, THREADS};
use crate::registry::{Settings, push};
use crate::store::Store;
use crate::store::image::Image;
use crate::store::import::{FoundImage, Options};
use clap::{Args, Subcommand};
use std::time::Duration;

const PULL_EXAMPLES: &str = "Examples:
  imrun pull redis:7                          pull the tag's image; prints the digest to run
  imrun pull --platform linux/arm64 redis:7
  imrun pull localhost:5000/app@sha256:…";

/// Commands of the feature `registry`.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Pull an image from a registry into the store; prints its manifest digest
    Pull(Pull),
    /// Push an image of the store to a registry; prints its manifest digest
    Push(Push),
}

impl Command {
    /// Returns true if the command accesses files of images.
    pub fn reaches_files(&self) -> bool {
        matches!(self, Command::Pull(_))
    }

    /// Runs the command. Returns its exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
        match self {
            Command::Pull(pull) => pull.execute(global),
            Command::Push(push) => push.execute(global),
        }
    }
}

/// Connection options
#[derive(Args)]
struct Connection {
    /// Connect without TLS; automatic for a registry on loopback
    #[arg(long)]
    plain_http: bool,
    /// Time limit for each answer, and for each 64 KiB of content
    #[arg(long, default_value = "30s", value_parser = values::duration, value_name = "TIME")]
    timeout: Duration,
    /// Time limit for the whole transfer
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

/// Pull an image into the store
#[derive(Args)]
#[command(after_help = PULL_EXAMPLES)]
pub struct Pull {
    /// [REGISTRY/]NAME[:TAG|@DIGEST], expanded as by Docker
    name: Reference,
    /// OS/ARCH[/VARIANT] to select from an index [default: this host's]
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

/// Pulls the missing parts of an image into the store.
pub fn present(store: &Store, name: &Reference, digest: &Digest) -> Result<()> {
    if Image::is_complete(store, digest)? {
        return Ok(());
    }
    let pulled = pull(store, name, &Platform::host(), false, &Settings::default());
    match pulled {
        Ok(_) => Ok(()),
        // The problem is the missing image, not the registry.
        Err(error) if error.reason == Reason::System => {
            let place = store.path().display();
            let why = format_args!(
                "is incomplete in the store {place}, and a pull fails: {}",
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
    let mut remote = Remote::new(store, name, settings)?;
    loop {
        match pull_from(&remote, store, name, platform, keep_blobs) {
            // A mirror sent wrong data: the next server may have it right.
            Err(error) if error.reason == Reason::Digest && remote.pass_over(&error) => {}
            outcome => return outcome,
        }
    }
}

fn pull_from(
    remote: &Remote,
    store: &Store,
    name: &Reference,
    platform: &Platform,
    keep_blobs: bool,
) -> Result<Digest> {
    let found = FoundImage::follow(remote, remote.root(name)?, platform)?;
    let progress = Progress::new(&found);
    let options = Options {
        keep_blobs,
        // A pull by digest sets no name.
        name: name.digest.is_none().then(|| name.tagged()),
        threads: THREADS,
        progress: &|layer, step| progress.update(layer, step),
    };
    found.store(store, &options)
}

/// Push an image of the store to a registry
#[derive(Args)]
pub struct Push {
    /// Digest of a manifest, sha256:…
    digest: Digest,
    /// [REGISTRY/]NAME[:TAG] [default tag: latest]
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
                "expected a name with or without a tag, not a digest",
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
