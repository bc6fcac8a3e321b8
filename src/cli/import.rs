//! Commands that add images to the store: import, bake and the demonstration.

use super::{Global, print};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::parallel::processors;
use crate::image::manifest::Platform;
use crate::store::import::{FoundImage, Options, Step};
use crate::store::rootfs;
use crate::store::source::{Location, Source};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::str::FromStr;

/// Commands of the feature `import`.
#[derive(Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Add an image to the store; prints its manifest digest
    Import(Import),
    /// Bake an image from a definition; prints its manifest digest
    Bake(Bake),
    /// Demonstrate imrun on this machine: bake, launch, ship, refuse
    Demo,
}

impl Command {
    /// Returns true if the command accesses files of images. The demonstration starts other commands for this.
    pub fn reaches_files(&self) -> bool {
        matches!(self, Command::Import(_) | Command::Bake(_))
    }

    /// Runs the command. Returns its exit code.
    pub fn execute(self, global: &Global) -> Result<u8> {
        match self {
            Command::Import(import) => import.execute(global),
            Command::Bake(bake) => bake.execute(global),
            Command::Demo => crate::cli::demo::run(),
        }
    }
}

/// Add an image to the store
#[derive(Args)]
pub struct Import {
    /// oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:TAG], rootfs:FILE|- (the tar of a
    /// root filesystem), or - for an archive on standard input
    source: Typed,
    /// Name for the image
    #[arg(long)]
    name: Option<String>,
    /// OS/ARCH[/VARIANT] to select from an index [default: this host's]
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
        let found = FoundImage::read(&source, &platform)?;
        let bar = progress_bar(found.size());
        let options = Options {
            keep_blobs: self.keep_blobs,
            name,
            threads: processors(),
            progress: &|_, step| match step {
                Step::Read(bytes) | Step::Present(bytes) => bar.inc(bytes),
                Step::Stored => {}
            },
        };
        let imported = found.store(&store, &options);
        bar.finish_and_clear();
        print(&format!("{}\n", imported?))
    }
}

/// Checks a name, which must fit a line of the log.
fn check_name(name: String) -> Result<String> {
    if name.is_empty()
        || name.len() > 4096
        || name.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        Err(Error::usage(
            format_args!("--name {name:?}"),
            "is empty, longer than 4096 bytes or has white space",
        ))
    } else if name == "-" || name.contains("@-") || name.parse::<Digest>().is_ok() {
        Err(Error::usage(
            format_args!("--name {name:?}"),
            "stands for something else: a digest, an earlier meaning (NAME@-1) or no name",
        ))
    } else {
        Ok(name)
    }
}

/// Returns a progress bar, which is drawn on a terminal only.
fn progress_bar(bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("import [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}");
    ProgressBar::new(bytes).with_style(style.expect("the template is a constant"))
}

/// Bake an image from a definition
#[derive(Args)]
pub struct Bake {
    /// Definition, a TOML file
    file: PathBuf,
    /// Name for the image
    #[arg(long)]
    name: Option<String>,
    /// Add fs-verity digests of the image's files to its manifest, so that launches need not hash the
    /// files if the store's file system supports fs-verity
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
