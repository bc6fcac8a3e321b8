//! Commands for images in the store: list, inspect, verify, mount, remove.

use super::names::find;
use super::run::Root;
use super::table::table;
use super::{Global, print, report, values};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::sys;
use crate::image::verity;
use crate::runtime::container;
use crate::runtime::integrity;
use crate::runtime::integrity::Level;
use crate::runtime::state::{Runtime, Status};
use crate::store::collect::{self, Collection};
use crate::store::image::Image;
use crate::store::{Store, refs};
use clap::Args;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::OVERLAYFS_SUPER_MAGIC;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// List the store's images
#[derive(Args)]
pub struct Images {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// table or json
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Show only the digests
    #[arg(short, long)]
    quiet: bool,
}

/// A name of an image, or an image without a name.
struct Row {
    /// `None` if the image has no name.
    name: Option<String>,
    digest: String,
    /// Bytes of its layers, uncompressed; `None` if its documents cannot be read.
    size: Option<u64>,
    /// Ids of the containers that run it.
    containers: Vec<String>,
    /// Time since when the name refers to it.
    since: String,
}

impl Images {
    /// Prints names, digests, sizes, containers and times.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let store = global.store();
        let names = refs::current(store.refs()?);
        if self.quiet {
            let digests: BTreeSet<_> = names.values().map(|(digest, _)| *digest).collect();
            let lines = digests.iter().map(|digest| format!("{digest}\n"));
            return print(&lines.collect::<String>());
        }
        let running = running(global)?;
        let rows = names.into_iter().map(|(name, (digest, since))| {
            let size = size(&store, &digest).ok();
            let digest = digest.to_string();
            let its = running.iter().filter(|one| one.image == digest);
            Row {
                // An image without a name is listed by its digest, and by the digests of its indexes.
                name: Some(name).filter(|name| *name != digest),
                containers: its.map(|one| one.id.clone()).collect(),
                digest,
                size,
                since,
            }
        });
        let rows: Vec<_> = rows.collect();
        if self.json || self.format == "json" {
            let rows: Vec<_> = rows.iter().map(Row::json).collect();
            return print(&format!("{:#}\n", Value::from(rows)));
        }
        let cells: Vec<_> = rows.into_iter().map(Row::cells).collect();
        print(&table(["NAME", "DIGEST", "SIZE", "RUNS", "SINCE"], &cells))
    }
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "name": self.name.as_deref().unwrap_or("-"),
            "digest": self.digest,
            "time": self.since,
            "size": self.size,
            "containers": self.containers,
        })
    }

    fn cells(self) -> [String; 5] {
        [
            self.name.unwrap_or_else(|| "-".into()),
            self.digest,
            self.size.map_or("-".into(), values::show_size),
            self.containers.len().to_string(),
            self.since,
        ]
    }
}

/// Returns the bytes of an image's layers as they are in the store.
fn size(store: &Store, digest: &Digest) -> Result<u64> {
    let image = Image::load(store, digest)?;
    let length = |diff_id: &Digest| {
        let path = store.blob_path(diff_id);
        let found = path.metadata().context(|| format!("stat({path:?})"))?;
        Ok(found.len())
    };
    image.config.diff_ids.iter().map(length).sum()
}

/// Show the details of an image, after hashing its layers again
#[derive(Args)]
pub struct Inspect {
    /// Digest, its first digits, or name
    image: String,
}

impl Inspect {
    /// Prints one JSON object.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let store = global.store();
        let image = Image::load(&store, &find(&store, &self.image)?)?;
        let sources = image.open(&store)?;
        let (verified, memo) = integrity::verify(&image, &store, &sources)?;
        let tars = sources.tars.iter().map(verity::measure);
        let tars = tars.collect::<Result<Vec<_>>>()?;
        let names = refs::current(store.refs()?).into_iter();
        let names: Vec<_> = names
            .filter(|(_, (d, _))| *d == image.digest)
            .map(|(name, _)| name)
            .collect();
        let config = &image.config;
        let layers = image
            .manifest
            .layers
            .iter()
            .zip(&config.diff_ids)
            .zip(&verified.layers)
            .zip(tars);
        let layers: Vec<_> = layers
            .map(|(((descriptor, diff_id), layer), measured)| {
                json!({
                    "digest": descriptor.digest,
                    "mediaType": descriptor.media_type,
                    "size": descriptor.size,
                    "diffId": diff_id,
                    "tarSize": layer.size,
                    "fsVerity": measured,
                    "dropped": {
                        "devices": layer.dropped.devices,
                        "xattrs": layer.dropped.xattrs,
                        "examples": layer.dropped.examples,
                    },
                })
            })
            .collect();
        let shown = json!({
            "digest": image.digest,
            "names": names,
            "indexes": image.indexes,
            "integrity": Level::Hashed.as_str(),
            "memo": memo.to_string(),
            "platform": config.platform.to_string(),
            "created": config.created,
            "config": {
                "digest": image.manifest.config.digest,
                "entrypoint": config.entrypoint,
                "cmd": config.cmd,
                "env": config.env,
                "user": config.user,
                "workingDir": config.working_dir,
                "stopSignal": config.stop_signal,
                "labels": config.labels,
                "exposedPorts": config.exposed_ports,
                "volumes": config.volumes,
                "healthcheck": config.healthcheck,
            },
            "layers": layers,
            "tree": {
                "digest": verified.tree_digest,
                "fsVerity": verity::measure(&sources.tree)?,
                "path": store.tree_path(&image.tree_identity()),
                "droppedLinks": verified.merged.dropped_links(),
            },
        });
        print(&format!("{shown:#}\n"))
    }
}

/// Hash all content again
#[derive(Args)]
pub struct Verify {
    /// Digests, their first digits, or names; all images and blobs without one
    images: Vec<String>,
    /// Mend the log of names first: remove its damaged lines, and name the images that no line names
    /// by their digests
    #[arg(long)]
    repair: bool,
}

impl Verify {
    /// Prints a line for each image. Returns 1 if anything differs.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let store = global.store();
        if self.repair {
            let done = store.repair()?;
            print(
                &done
                    .iter()
                    .map(|line| format!("{line}\n"))
                    .collect::<String>(),
            )?;
        }
        let digests = self
            .images
            .iter()
            .map(|image| find(&store, image))
            .collect::<Result<Vec<_>>>()?;
        let (mut code, mut printed) = (0, Ok(0));
        let check = |image: &Image| integrity::verify_all(image, &store);
        // One line as soon as one is known: many images take minutes.
        store.verify(&digests, check, |finding| {
            let line = match finding.error {
                None => format!("{}  ok\n", finding.what),
                Some(error) => {
                    code = 1;
                    format!("{}  DIFFERS  {error}\n", finding.what)
                }
            };
            if printed.is_ok() {
                printed = print(&line);
            }
        })?;
        printed.map(|_| code)
    }
}

/// Mount the root that an app would see, read-only
#[derive(Args)]
pub struct Mount {
    /// Digest, its first digits, or name
    image: String,
    /// Existing directory
    directory: PathBuf,
    #[command(flatten)]
    root: Root,
}

impl Mount {
    /// Mounts the verified root read-only.
    pub fn execute(self, global: &Global) -> Result<u8> {
        if !geteuid().is_root() {
            return Err(Error::unsupported("imrun mount", "needs root"));
        }
        let store = global.store();
        let image = Image::load(&store, &find(&store, &self.image)?)?;
        let directory =
            std::path::absolute(&self.directory).context(|| format!("{:?}", self.directory))?;
        let root = container::standalone_root(&image, &store, self.root.driver, &directory)?;
        let path = CString::new(directory.as_os_str().as_bytes())
            .map_err(|_| Error::usage(format_args!("{directory:?}"), "has a NUL byte"))?;
        sys::mount::move_mount(root.as_fd(), libc::AT_FDCWD, &path)
            .context(|| format!("move_mount({directory:?})"))?;
        Ok(0)
    }
}

/// Unmount a directory of `imrun mount`
#[derive(Args)]
pub struct Umount {
    /// Mount point
    directory: PathBuf,
}

impl Umount {
    /// Unmounts the directory, if its file system is EROFS or overlay.
    pub fn execute(self) -> Result<u8> {
        const EROFS_MAGIC: i64 = 0xE0F5_E1E2; // linux/magic.h
        let directory = &self.directory;
        let fs =
            nix::sys::statfs::statfs(directory).context(|| format!("statfs({directory:?})"))?;
        let kind = fs.filesystem_type();
        if kind.0 as i64 != EROFS_MAGIC && kind != OVERLAYFS_SUPER_MAGIC {
            return Err(Error::usage(
                format_args!("{directory:?}"),
                "is not the mount of an image",
            ));
        }
        umount2(directory, MntFlags::UMOUNT_NOFOLLOW)
            .context(|| format!("umount2({directory:?})"))?;
        Ok(0)
    }
}

/// Remove images and the data that nothing else needs
#[derive(Args)]
pub struct Rm {
    /// Digests, their first digits, or names
    #[arg(required = true)]
    images: Vec<String>,
}

impl Rm {
    /// Removes the images with all their names, and the data that no meaning of a name needs.
    pub fn execute(self, global: &Global) -> Result<u8> {
        let store = global.store();
        // All before the first one goes: several may stand for one image.
        let found: Vec<_> = self
            .images
            .iter()
            .map(|image| find(&store, image))
            .collect();
        let mut outcome = Ok(());
        let mut fail = |error| {
            if let Err(before) = std::mem::replace(&mut outcome, Err(error)) {
                report(&before);
            }
        };
        let (mut digests, mut removes) = (BTreeSet::new(), false);
        for found in found {
            match found {
                Ok(digest) if !digests.insert(digest) => {}
                Ok(digest) => match remove(global, &store, digest) {
                    Ok(()) => removes = true,
                    Err(error) => fail(error),
                },
                Err(error) => fail(error),
            }
        }
        let freed = if removes {
            free(global, &store, usize::MAX, false)
        } else {
            Ok(0)
        };
        outcome.and(freed)
    }
}

/// Removes all names of an image, and warns if something keeps it all the same.
fn remove(global: &Global, store: &Store, digest: Digest) -> Result<()> {
    let forgotten = store.remove_names(&digest)?;
    let earlier = store.earlier_names(&digest)?.join(", ");
    match (forgotten, earlier.is_empty()) {
        (false, true) => return Err(collect::unknown(store, &digest)),
        (false, false) => {
            let why = format_args!("is an earlier meaning of {earlier}, kept for imrun rollback");
            return Err(Error::policy(format_args!("image {digest}"), why).hint(KEEP_LESS));
        }
        (true, false) => {
            log::warn!("image {digest}: stays, an earlier meaning of {earlier}; {KEEP_LESS}")
        }
        (true, true) => {}
    }
    for container in running(global)? {
        if container.image == digest.to_string() {
            let name = container.name.unwrap_or(container.id);
            log::warn!("image {digest}: runs as {name}: imrun gc frees it when that has ended");
        }
    }
    Ok(())
}

const KEEP_LESS: &str = "imrun gc --keep 1 frees the earlier meanings of every name";

/// Free what no name, rollback or running container needs
#[derive(Args)]
pub struct Gc {
    /// Meanings of each name to keep for rollback, the present one included
    #[arg(long, value_name = "N", default_value_t = collect::KEEP, value_parser = at_least_one)]
    keep: usize,
    /// Print the bytes that would be freed; remove nothing
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    /// Prints the bytes freed.
    pub fn execute(self, global: &Global) -> Result<u8> {
        free(global, &global.store(), self.keep, self.dry_run)
    }
}

fn at_least_one(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(0) | Err(_) => Err(Error::usage(
            format_args!("--keep {text:?}"),
            "must be a number, at least 1: what a name means now always stays",
        )),
        Ok(number) => Ok(number),
    }
}

fn running(global: &Global) -> Result<Vec<Status>> {
    let runtime = Runtime::open(&global.root)?;
    runtime.sweep()?;
    let mut running = runtime.list()?;
    // Containers of a directory use no image of the store.
    running.retain(|container| !container.image.starts_with('/'));
    Ok(running)
}

fn free(global: &Global, store: &Store, keep: usize, dry_run: bool) -> Result<u8> {
    let running = running(global)?;
    let running = running.iter().map(|container| container.image.parse());
    let collection = Collection {
        running: &running.collect::<Result<Vec<_>>>()?,
        keep,
        dry_run,
    };
    print(&format!("{}\n", store.collect(&collection)?))
}
