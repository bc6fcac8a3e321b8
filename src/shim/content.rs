//! Import of a container's image: containerd names it, and its content goes into imrun's store by digest.
//!
//! imrun trusts containerd for the image's digest only: all content is hashed on its way into the store, as that
//! of a registry is. A process of its own does this work, so that its memory is free afterwards.
//!
//! If the image's name was moved to another image since the container was created, the import fails
//! (`image_identity.rs`).

use super::containerd::{Containerd, missing};
use super::flags::Flags;
use super::grpc::Peer;
use super::image_identity::ImageIdentity;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::paths;
use crate::cli::print;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT, Platform};
use crate::image::reference::Reference;
use crate::registry::Settings;
use crate::registry::pull::{Remote, THREADS};
use crate::store::image::Image;
use crate::store::import::{FoundImage, Options, Origin, Root, SourceLayer};
use crate::store::{self, Store};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

/// Imports a container's image into the store, and prints its digest.
pub fn main(flags: &Flags) -> Result<()> {
    let containerd = Containerd(Peer::new(&flags.address, &flags.namespace));
    let identity = ImageIdentity::of(&containerd, &flags.id)?;
    let place = std::env::var_os("IMRUN_STORE").unwrap_or_else(|| paths::STORE.into());
    let store = Store::new(place);
    let digest = find(&containerd, &store, &identity)?;
    print(&format!("{digest}\n")).map(drop)
}

/// Finds the container's image under one of its names in containerd, and imports it.
fn find(containerd: &Containerd, store: &Store, identity: &ImageIdentity) -> Result<Digest> {
    let what = format!("image {}", identity.name);
    let mut others = 0;
    for name in identity.names() {
        let Some(target) = containerd.target(&name)? else {
            continue;
        };
        let present = present(containerd, store, identity, &target);
        let is_it = present.map_err(|error| Error {
            what: format!("{what}: {}", error.what),
            ..error
        })?;
        if is_it {
            return Ok(target.digest);
        }
        others += 1;
    }
    match others {
        0 => Err(missing(&what)),
        _ => {
            let why = "the name means another image now than when the container was created";
            Err(Error::digest(what, why).hint("create the container again"))
        }
    }
}

/// Imports the missing parts of `target`. Returns false if it is not the container's image.
fn present(
    containerd: &Containerd,
    store: &Store,
    identity: &ImageIdentity,
    target: &Descriptor,
) -> Result<bool> {
    if let Some(is_it) = stored(store, identity, target)? {
        return Ok(is_it);
    }
    store.create()?;
    // Another container's helper may be importing the same image.
    let _lock = lock_imports(store)?;
    if let Some(is_it) = stored(store, identity, target)? {
        return Ok(is_it);
    }
    let origin = Contents {
        containerd,
        store,
        name: &identity.name,
        remote: OnceLock::new(),
    };
    let root = origin.root(target)?;
    let found = FoundImage::follow(&origin, root, &Platform::host())?;
    if !identity.matches(found.config(), found.diff_ids()) {
        return Ok(false);
    }
    let options = Options {
        keep_blobs: false,
        name: None,
        threads: THREADS,
        progress: &|_, _| {},
    };
    found.store(store, &options)?;
    Ok(true)
}

/// Returns whether the stored image is the container's; `None` if the store does not have it.
fn stored(store: &Store, identity: &ImageIdentity, target: &Descriptor) -> Result<Option<bool>> {
    if !Image::is_complete(store, &target.digest)? {
        return Ok(None);
    }
    let image = Image::load(store, &target.digest)?;
    let config = &image.manifest.config.digest;
    Ok(Some(identity.matches(config, &image.config.diff_ids)))
}

fn lock_imports(store: &Store) -> Result<Flock<File>> {
    let path = store.path().join(store::SHIM_LOCK);
    Flock::lock(files::open_private(&path)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context(|| format!("flock({path:?})"))
}

/// Sources of blobs: containerd's content store, then the registry in the image's name.
struct Contents<'a> {
    containerd: &'a Containerd,
    store: &'a Store,
    name: &'a str,
    remote: OnceLock<Result<Remote<'a>>>,
}

impl<'a> Contents<'a> {
    /// Fetches and checks the manifest or index that the image's name refers to.
    fn root(&self, target: &Descriptor) -> Result<Root> {
        let bytes = self.document("manifest", target)?;
        target.expect_size("manifest", bytes.len() as u64)?;
        target.digest.verify("manifest", &bytes)?;
        Ok(Root {
            digest: target.digest,
            media_type: Some(target.media_type.clone()),
            bytes,
        })
    }

    /// Returns the registry for blobs that containerd has discarded.
    fn remote(&self, what: &str) -> Result<&Remote<'a>> {
        let opened = self.remote.get_or_init(|| {
            let name: Reference = self.name.parse()?;
            // Names in containerd contain their registry, except those made by hand.
            if self.name.starts_with(&name.registry) {
                Remote::new(self.store, &name, &Settings::default())
            } else {
                Err(Error::digest(self.name, "has no registry to pull from"))
            }
        });
        opened.as_ref().map_err(|error| discarded(what, error))
    }
}

fn discarded(what: &str, error: &Error) -> Error {
    let why = format_args!("containerd has discarded it, and a pull fails: {error}");
    Error::digest(what, why).hint("discard_unpacked_layers = false in containerd's configuration")
}

impl Origin for Contents<'_> {
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Ok(bytes) = self.store.read_document(what, &descriptor.digest) {
            return Ok(bytes);
        }
        let named = format!("{what} {}", descriptor.digest);
        let Some(content) = self.containerd.read(&descriptor.digest)? else {
            let fetched = self.remote(&named)?.document(what, descriptor);
            return fetched.map_err(|error| discarded(&named, &error));
        };
        let mut bytes = Vec::new();
        let read = content
            .take(MAX_DOCUMENT as u64 + 1)
            .read_to_end(&mut bytes);
        read.context(|| format!("read({named})"))?;
        match bytes.len() {
            ..=MAX_DOCUMENT => Ok(bytes),
            _ => Err(Error::digest(
                named,
                format_args!("is larger than {MAX_DOCUMENT} bytes"),
            )),
        }
    }

    fn layer(&self, layer: &SourceLayer) -> Result<Box<dyn Read + '_>> {
        let descriptor = layer.descriptor.as_ref();
        let descriptor = descriptor.expect("a manifest has a descriptor for each layer");
        match self.containerd.read(&descriptor.digest)? {
            Some(content) => Ok(Box::new(content)),
            None => {
                let what = layer.what();
                let fetched = self.remote(&what)?.layer(layer);
                fetched.map_err(|error| discarded(&what, &error))
            }
        }
    }
}
