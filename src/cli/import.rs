//! The commands that put images into the store: import, bake, and the demonstration of both.

use super::{Global, print};
use crate::error::{Error, Result};
use crate::manifest::Platform;
use crate::parallel::processors;
use crate::store::import::{Found, Options, Step};
use crate::store::rootfs;
use crate::store::source::{Location, Source};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::str::FromStr;

/// What a build without `import` has not.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Put an image into the store; prints its manifest digest
    Import(Import),
    /// Make an image from a definition; prints its manifest digest
    Bake(Bake),
    /// Show the whole way on this machine: bake, launch, ship, refuse
    Demo,
}

impl Command {
    /// Whether it works on unpacked images. The demonstration starts others that do.
    pub fn reaches_files(&self) -> bool {
        matches!(self, Command::Import(_) | Command::Bake(_))
    }

    /// Runs it; the exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
        match self {
            Command::Import(import) => import.execute(global),
            Command::Bake(bake) => bake.execute(global),
            Command::Demo => crate::demo::run(),
        }
    }
}

/// Put an image into the store
#[derive(Args)]
pub struct Import {
    /// oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:TAG], rootfs:FILE|- (a root
    /// filesystem's tar), or - for an archive on standard input
    source: Typed,
    /// What the image is called
    #[arg(long)]
    name: Option<String>,
    /// OS/ARCH[/VARIANT] of an index; this host's by default
    #[arg(long)]
    platform: Option<Platform>,
    /// Keep the compressed layers, for a later push
    #[arg(long)]
    keep_blobs: bool,
}

/// A source as it is typed: images, or the tar of a root filesystem.
#[derive(Clone)]
enum Typed {
    Images(Location),
    Rootfs(PathBuf),
}

impl FromStr for Typed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Typed> {
        match text.strip_prefix("rootfs:").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Typed::Rootfs(path.into())),
            None => text.parse().map(Typed::Images),
        }
    }
}

impl Import {
    /// Prints the manifest digest.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let store = global.store();
        store.create()?;
        let platform = self.platform.unwrap_or_else(Platform::host);
        let name = self.name.map(check_name).transpose()?;
        let location = match self.source {
            Typed::Images(location) => location,
            Typed::Rootfs(path) => {
                let digest = rootfs::import(&store, &path, &platform, name)?;
                return print(&format!("{digest}\n"));
            }
        };
        let source = Source::open(&location, || Ok(store.new_file()?.file))?;
        let found = Found::read(&source, &platform)?;
        let bar = progress_bar(found.size());
        let options = Options {
            keep_blobs: self.keep_blobs,
            name,
            threads: processors(),
            progress: &|_, step| match step {
                Step::Read(bytes) | Step::There(bytes) => bar.inc(bytes),
                Step::Stored => {}
            },
        };
        let imported = found.store(&store, &options);
        bar.finish_and_clear();
        print(&format!("{}\n", imported?))
    }
}

/// A name must fit a line of the log.
fn check_name(name: String) -> Result<String> {
    match name.is_empty()
        || name.len() > 4096
        || name.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        true => Err(Error::usage(
            format_args!("--name {name:?}"),
            "is empty, longer than 4096 bytes or has white space",
        )),
        false => Ok(name),
    }
}

/// Drawn on a terminal alone.
fn progress_bar(bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("import [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}");
    ProgressBar::new(bytes).with_style(style.expect("the template is a constant"))
}

/// Make an image from a definition
#[derive(Args)]
pub struct Bake {
    /// A TOML file
    file: PathBuf,
    /// What the image is called
    #[arg(long)]
    name: Option<String>,
    /// Put fs-verity's digests of the image's files into its manifest: where the store's file system
    /// has fs-verity, no launch hashes them
    #[arg(long)]
    seal: bool,
}

impl Bake {
    /// Prints the manifest digest.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let name = self.name.map(check_name).transpose()?;
        let digest = crate::bake::into_store(&global.store(), &self.file, name, self.seal)?;
        print(&format!("{digest}\n"))
    }
}
