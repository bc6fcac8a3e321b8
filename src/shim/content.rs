//! The image of a container: containerd says which, its bytes come into imrun's store by digest.
//!
//! Nothing that containerd says of an image is believed but its digest: all bytes are hashed on their
//! way into the store, as those of a registry are. This is the work of a process of its own, which
//! ends with it.
//!
//! A name that has got another meaning since the container was created is not followed
//! (`meant.rs`).

use super::containerd::{Containerd, missing};
use super::flags::Flags;
use super::grpc::Peer;
use super::meant::Meant;
use crate::cli::print;
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::manifest::{Descriptor, MAX_DOCUMENT, Platform};
use crate::paths;
use crate::reference::Reference;
use crate::registry::Settings;
use crate::registry::pull::{Remote, THREADS};
use crate::store::image::Image;
use crate::store::import::{Found, Options, Origin, Packed, Root};
use crate::store::{self, Store};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

/// Prints the digest of a container's image, which is in the store from then on.
pub fn main(flags: &Flags) -> Result<()> {
    let containerd = Containerd(Peer::new(&flags.address, &flags.namespace));
    let meant = Meant::of(&containerd, &flags.id)?;
    let place = std::env::var_os("IMRUN_STORE").unwrap_or_else(|| paths::STORE.into());
    let store = Store::new(place);
    let digest = find(&containerd, &store, &meant)?;
    print(&format!("{digest}\n")).map(drop)
}

/// The image that was meant, under whichever of its names containerd has it.
fn find(containerd: &Containerd, store: &Store, meant: &Meant) -> Result<Digest> {
    let what = format!("image {}", meant.name);
    let mut others = 0;
    for name in meant.names() {
        let Some(target) = containerd.target(&name)? else {
            continue;
        };
        let present = present(containerd, store, meant, &target);
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

/// Brings into the store what is missing of an image, if it is the one that was meant.
fn present(
    containerd: &Containerd,
    store: &Store,
    meant: &Meant,
    target: &Descriptor,
) -> Result<bool> {
    if let Some(is_it) = stored(store, meant, target)? {
        return Ok(is_it);
    }
    store.create()?;
    // Others may be about to do the same, for the same image.
    let _alone = alone(store)?;
    if let Some(is_it) = stored(store, meant, target)? {
        return Ok(is_it);
    }
    let origin = Contents {
        containerd,
        store,
        name: &meant.name,
        remote: OnceLock::new(),
    };
    let root = origin.root(target)?;
    let found = Found::follow(&origin, root, &Platform::host())?;
    if !meant.is(found.config(), found.diff_ids()) {
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

/// Whether what the store has is the image that was meant; None where it does not have it.
fn stored(store: &Store, meant: &Meant, target: &Descriptor) -> Result<Option<bool>> {
    if !Image::is_there(store, &target.digest)? {
        return Ok(None);
    }
    let image = Image::load(store, &target.digest)?;
    let config = &image.manifest.config.digest;
    Ok(Some(meant.is(config, &image.config.diff_ids)))
}

fn alone(store: &Store) -> Result<Flock<File>> {
    let path = store.path().join(store::SHIM_LOCK);
    Flock::lock(files::open_private(&path)?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context(|| format!("flock({path:?})"))
}

/// containerd's content store, and the registry that the image's name leads to.
struct Contents<'a> {
    containerd: &'a Containerd,
    store: &'a Store,
    name: &'a str,
    remote: OnceLock<Result<Remote<'a>>>,
}

impl<'a> Contents<'a> {
    /// What the image's name leads to, read and checked.
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

    /// Where a blob comes from that containerd has discarded.
    fn remote(&self, what: &str) -> Result<&Remote<'a>> {
        let opened = self.remote.get_or_init(|| {
            let name: Reference = self.name.parse()?;
            // containerd's names have their registry; another one was made by hand.
            match self.name.starts_with(&name.registry) {
                true => Remote::new(self.store, &name, &Settings::default()),
                false => Err(Error::digest(self.name, "names no registry")),
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

    fn layer(&self, layer: &Packed) -> Result<Box<dyn Read + '_>> {
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
