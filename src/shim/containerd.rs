//! Client of containerd's services: containers, images, snapshots, and the content of blobs.
//!
//! Source: containerd, api/services/{containers,images,snapshots,content}/v1/*.proto.

use super::grpc::{Answers, Peer};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::protobuf::{Field, Value, bytes, fields};
use crate::image::manifest::Descriptor;
use std::collections::BTreeMap;
use std::io::{self, Read};

const CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const IMAGE: &str = "/containerd.services.images.v1.Images/Get";
const SNAPSHOT: &str = "/containerd.services.snapshots.v1.Snapshots/Stat";
const READ: &str = "/containerd.services.content.v1.Content/Read";
/// Key of the extension in which CRI stores its metadata of a container.
const CRI: &[u8] = b"io.cri-containerd.container.metadata";

/// Client of containerd in one of its namespaces.
pub struct Containerd(pub Peer);

/// A container in containerd.
pub struct Record {
    /// Name of the image; empty if there is none.
    pub image: String,
    /// Snapshotter of the snapshot.
    pub snapshotter: String,
    /// Name of the snapshot; empty if there is none.
    pub snapshot: String,
    /// CRI's metadata, JSON; empty for a container of another client.
    pub cri: Vec<u8>,
    /// OCI specification, JSON: the source of the bundle's config.json.
    pub spec: Vec<u8>,
}

impl Containerd {
    /// Fetches a container.
    pub fn container(&self, id: &str) -> Result<Record> {
        let what = format!("container {id}");
        let answer = self.about(CONTAINER, &[id], &what)?;
        let answer = answer.ok_or_else(|| missing(&what))?;
        // GetContainerResponse.container; Container.image, snapshotter, snapshot_key, spec (an Any)
        let container = part(&answer, &[1], &what)?;
        Ok(Record {
            image: string(&container, &[3], &what)?,
            snapshotter: string(&container, &[6], &what)?,
            snapshot: string(&container, &[7], &what)?,
            cri: extension(&container, CRI, &what)?,
            spec: part(&container, &[5, 2], &what)?,
        })
    }

    /// Resolves the name of an image; `None` if containerd does not have it.
    pub fn target(&self, name: &str) -> Result<Option<Descriptor>> {
        let what = format!("image {name}");
        let Some(image) = self.about(IMAGE, &[name], &what)? else {
            return Ok(None);
        };
        // GetImageResponse.image, Image.target; Descriptor.media_type, digest and size
        let target = part(&image, &[1, 3], &what)?;
        let size = fields(&target).find_map(|field| match field {
            Ok(Field {
                number: 3,
                value: Value::Number(size),
            }) => Some(size),
            _ => None,
        });
        Ok(Some(Descriptor {
            media_type: string(&target, &[1], &what)?,
            digest: string(&target, &[2], &what)?.parse()?,
            size: size.unwrap_or(0),
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
        }))
    }

    /// Returns the name of a snapshot's parent; empty if it has none.
    pub fn parent(&self, snapshotter: &str, snapshot: &str) -> Result<String> {
        let what = format!("snapshot {snapshot}");
        let answer = self.about(SNAPSHOT, &[snapshotter, snapshot], &what)?;
        // StatSnapshotResponse.info, Info.parent
        string(&answer.ok_or_else(|| missing(&what))?, &[1, 2], &what)
    }

    /// Opens the content of a blob; `None` if containerd has discarded it.
    pub fn read(&self, digest: &Digest) -> Result<Option<Content>> {
        let answers = self.0.call(READ, request(&[&digest.to_string()]))?;
        Ok(answers.map(|answers| Content {
            answers,
            piece: Vec::new(),
            at: 0,
        }))
    }

    /// Sends a request that consists of names and has one answer; `None` if the object does not exist.
    fn about(&self, method: &'static str, names: &[&str], what: &str) -> Result<Option<Vec<u8>>> {
        let Some(mut answers) = self.0.call(method, request(names))? else {
            return Ok(None);
        };
        let answer = answers.message()?;
        answer.map(Some).ok_or_else(|| missing(what))
    }
}

/// Returns the error for an object that containerd should have.
pub fn missing(what: &str) -> Error {
    Error::digest(what, "containerd does not have it")
}

/// Encodes names as the first fields of a message.
fn request(names: &[&str]) -> Vec<u8> {
    let mut request = Vec::new();
    for (number, name) in (1..).zip(names) {
        bytes(&mut request, number, name.as_bytes());
    }
    request
}

/// Returns an extension of a container (Container.extensions, a map of Any); empty if it is absent.
fn extension(container: &[u8], key: &[u8], what: &str) -> Result<Vec<u8>> {
    for field in fields(container) {
        let field = field.map_err(|_| malformed(what))?;
        if let (10, Value::Bytes(entry)) = (field.number, field.value)
            && part(entry, &[1], what)? == key
        {
            return part(entry, &[2, 2], what);
        }
    }
    Ok(Vec::new())
}

fn malformed(what: &str) -> Error {
    Error::system(what, "containerd's answer is malformed")
}

/// Returns a nested field of a message by the path of field numbers; empty if it is not set.
fn part(message: &[u8], path: &[u64], what: &str) -> Result<Vec<u8>> {
    let mut found = message;
    for wanted in path {
        let mut last: &[u8] = &[];
        for field in fields(found) {
            let field = field.map_err(|_| malformed(what))?;
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

/// Reader of a blob that containerd sends in pieces.
pub struct Content {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::protobuf::{message, number};

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

    #[test]
    fn an_extension_is_found_by_its_key() {
        let mut container = Vec::new();
        for (key, value) in [("a", "1"), ("b", "2")] {
            message(&mut container, 10, |to| {
                bytes(to, 1, key.as_bytes());
                message(to, 2, |to| bytes(to, 2, value.as_bytes()));
            });
        }
        assert_eq!(extension(&container, b"b", "x").unwrap(), b"2");
        assert_eq!(extension(&container, b"c", "x").unwrap(), b"");
    }
}
