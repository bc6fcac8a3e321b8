//! The image of a container: containerd says which, its bytes come into imrun's store by digest.
//!
//! Nothing that containerd says of an image is believed but its digest: all bytes are hashed on their
//! way into the store, as those of a registry are. This is the work of a process of its own, which
//! ends with it.
//!
//! Source: containerd, api/services/{containers,images,content}/v1/*.proto.

use super::flags::Flags;
use super::grpc::{Answers, Peer};
use crate::cli::print;
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::manifest::{Descriptor, MAX_DOCUMENT, Platform};
use crate::reference::Reference;
use crate::registry::Settings;
use crate::registry::pull::{Remote, THREADS};
use crate::ship::protobuf::{Field, Value, bytes, fields};
use crate::store::image::Image;
use crate::store::import::{Found, Options, Origin, Packed, Root};
use crate::store::{self, Store};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;

const CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const IMAGE: &str = "/containerd.services.images.v1.Images/Get";
const READ: &str = "/containerd.services.content.v1.Content/Read";

/// Prints the digest of a container's image, which is in the store from then on.
pub fn main(flags: &Flags) -> Result<()> {
    let containerd = Containerd(Peer::new(&flags.address, &flags.namespace));
    let name = containerd.image_of(&flags.id)?;
    let target = containerd.target(&name)?;
    let place = std::env::var_os("IMRUN_STORE").unwrap_or_else(|| store::DEFAULT.into());
    let store = Store::new(place);
    present(&containerd, &store, &name, &target).map_err(|error| Error {
        what: format!("image {name}: {}", error.what),
        ..error
    })?;
    print(&format!("{}\n", target.digest)).map(drop)
}

/// Brings into the store what is missing of an image.
fn present(containerd: &Containerd, store: &Store, name: &str, target: &Descriptor) -> Result<()> {
    let is_there = || Image::is_there(store, &target.digest);
    if is_there()? {
        return Ok(());
    }
    store.create()?;
    // Others may be about to do the same, for the same image.
    let _alone = alone(store)?;
    if is_there()? {
        return Ok(());
    }
    let origin = Contents {
        containerd,
        store,
        name,
        remote: OnceLock::new(),
    };
    let root = origin.root(target)?;
    let found = Found::follow(&origin, root, &Platform::host())?;
    let options = Options {
        keep_blobs: false,
        name: None,
        threads: THREADS,
        progress: &|_, _| {},
    };
    found.store(store, &options).map(drop)
}

fn alone(store: &Store) -> Result<Flock<File>> {
    let path = store.path().join("containerd.lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .context(|| format!("open({path:?})"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context(|| format!("flock({path:?})"))
}

/// What containerd is asked.
struct Containerd(Peer);

impl Containerd {
    /// The name of a container's image.
    fn image_of(&self, id: &str) -> Result<String> {
        let what = format!("container {id}");
        let container = self.one(CONTAINER, id, &what)?;
        // GetContainerResponse.container, Container.image
        let name = string(&container, &[1, 3], &what)?;
        match name.is_empty() {
            false => Ok(name),
            true => Err(Error::digest(what, "containerd knows no image of it")
                .hint("a container is started from an image, never from a directory")),
        }
    }

    /// What a name means.
    fn target(&self, name: &str) -> Result<Descriptor> {
        let what = format!("image {name}");
        let image = self.one(IMAGE, name, &what)?;
        // GetImageResponse.image, Image.target; Descriptor.media_type, digest and size
        let target = part(&image, &[1, 3], &what)?;
        let size = fields(&target).find_map(|field| match field {
            Ok(Field {
                number: 3,
                value: Value::Number(size),
            }) => Some(size),
            _ => None,
        });
        Ok(Descriptor {
            media_type: string(&target, &[1], &what)?,
            digest: string(&target, &[2], &what)?.parse()?,
            size: size.unwrap_or(0),
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
        })
    }

    /// The one answer to a request that has a name alone.
    fn one(&self, method: &'static str, name: &str, what: &str) -> Result<Vec<u8>> {
        let missing = || Error::digest(what, "containerd does not have it");
        let mut request = Vec::new();
        bytes(&mut request, 1, name.as_bytes());
        let mut answers = self.0.call(method, request)?.ok_or_else(missing)?;
        answers.message()?.ok_or_else(missing)
    }

    /// The bytes of a digest; None where containerd has discarded them.
    fn read(&self, digest: &Digest) -> Result<Option<Content>> {
        let mut request = Vec::new();
        bytes(&mut request, 1, digest.to_string().as_bytes());
        let answers = self.0.call(READ, request)?;
        Ok(answers.map(|answers| Content {
            answers,
            piece: Vec::new(),
            at: 0,
        }))
    }
}

/// A part of a message, by the numbers of the fields that lead to it; empty where it is not set.
fn part(message: &[u8], path: &[u64], what: &str) -> Result<Vec<u8>> {
    let mut found = message;
    for wanted in path {
        let mut last: &[u8] = &[];
        for field in fields(found) {
            let field =
                field.map_err(|_| Error::system(what, "containerd's answer is malformed"))?;
            if let (true, Value::Bytes(value)) = (field.number == *wanted, field.value) {
                last = value;
            }
        }
        found = last;
    }
    Ok(found.to_vec())
}

fn string(message: &[u8], path: &[u64], what: &str) -> Result<String> {
    String::from_utf8(part(message, path, what)?).map_err(|error| Error::system(what, error))
}

/// The pieces of a blob, one behind another.
struct Content {
    answers: Answers,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.answers.message().map_err(io::Error::other)? {
                // ReadContentResponse.data
                Some(answer) => self.piece = part(&answer, &[2], READ).map_err(io::Error::other)?,
                None => return Ok(0),
            }
            self.at = 0;
        }
        let rest = &self.piece[self.at..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::protobuf::{message, number};

    #[test]
    fn parts_of_answers_are_found_by_their_fields() {
        let mut image = Vec::new();
        message(&mut image, 1, |to| {
            bytes(to, 1, b"docker.io/library/redis:7");
            message(to, 3, |to| {
                bytes(to, 2, b"sha256:00");
                number(to, 3, 7);
            });
        });
        assert_eq!(string(&image, &[1, 3, 2], "x").unwrap(), "sha256:00");
        assert_eq!(string(&image, &[1, 9], "x").unwrap(), "");
        assert!(part(b"\x0a\xff", &[1], "x").is_err());
    }
}
