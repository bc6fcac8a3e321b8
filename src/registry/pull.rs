//! Pull: a repository as the origin of an import.

use super::Settings;
use super::client::{Client, Exchange, header_of};
use super::transfer::Transfer;
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Error, Result};
use crate::image::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST,
};
use crate::image::reference::Reference;
use crate::store::Store;
use crate::store::import::{Origin, Packed, Root};
use std::io::Read;
use ureq::http::{Method, Response, header};

/// What a name may lead to.
const DOCUMENTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// Layers that are transferred at once. While one waits for the network another is decompressed;
/// each takes memory, for its zstd window most of all.
pub const THREADS: usize = 3;

/// A repository, and the store that its images go to: what is there already is not asked for.
pub struct Remote<'a> {
    client: Client,
    store: &'a Store,
}

impl<'a> Remote<'a> {
    /// The repository that `name` is in.
    pub fn new(store: &'a Store, name: &Reference, settings: &Settings) -> Result<Remote<'a>> {
        let client = Client::new(name, "pull", settings)?;
        Ok(Remote { client, store })
    }

    /// What a name means: the manifest or index of its digest, or else of its tag.
    pub fn root(&self, name: &Reference) -> Result<Root> {
        let what = format!("image {name}");
        match name.digest {
            Some(digest) => self.by_digest(&what, digest),
            None => self.by_tag(&what, name.tag()),
        }
    }

    fn by_digest(&self, what: &str, digest: Digest) -> Result<Root> {
        if let Ok(bytes) = self.store.read_document("manifest", &digest) {
            return Ok(Root {
                digest,
                media_type: None,
                bytes,
            });
        }
        let (head, bytes) = self.client.fetch(
            &self.manifest(what, Method::GET, &digest.to_string(), &[200])?,
            MAX_DOCUMENT,
        )?;
        digest.verify("manifest", &bytes)?;
        Ok(Root {
            digest,
            media_type: media_type(&head),
            bytes,
        })
    }

    /// Asks what the tag means first: often it is there.
    fn by_tag(&self, what: &str, tag: &str) -> Result<Root> {
        // A registry may be without HEAD.
        const EXPECTED: &[u16] = &[200, 400, 404, 405, 406, 501];
        let asked = self
            .client
            .send(&self.manifest(what, Method::HEAD, tag, EXPECTED)?)?;
        if let (200, Some(digest)) = (asked.status().as_u16(), digest_of(what, &asked)?) {
            return self.by_digest(what, digest);
        }
        let (head, bytes) = self.client.fetch(
            &self.manifest(what, Method::GET, tag, &[200])?,
            MAX_DOCUMENT,
        )?;
        let digest = match digest_of(what, &head)? {
            Some(promised) => {
                promised.verify("manifest", &bytes)?;
                promised
            }
            None => Digest::of(Algorithm::Sha256, &bytes),
        };
        Ok(Root {
            digest,
            media_type: media_type(&head),
            bytes,
        })
    }

    fn manifest<'e>(
        &self,
        what: &'e str,
        method: Method,
        reference: &str,
        expected: &'e [u16],
    ) -> Result<Exchange<'e>> {
        let url = self.client.url(&format!("manifests/{reference}"))?;
        Ok(Exchange {
            headers: vec![(header::ACCEPT, DOCUMENTS.join(", "))],
            ..Exchange::new(what, method, url, expected)
        })
    }
}

/// What the registry says the digest is.
fn digest_of<B>(what: &str, head: &Response<B>) -> Result<Option<Digest>> {
    let text = header_of(head, "docker-content-digest");
    let wrong =
        |error: Error| Error::digest(what, format_args!("the registry promises the {error}"));
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

/// What the registry says the document is; many say no more than that it is JSON.
fn media_type<B>(head: &Response<B>) -> Option<String> {
    let text = header_of(head, header::CONTENT_TYPE)?;
    let media_type = text.split(';').next()?.trim();
    let says_nothing =
        ["application/json", "application/octet-stream", "text/plain"].contains(&media_type);
    Some(media_type.to_string()).filter(|text| !says_nothing && !text.is_empty())
}

impl Origin for Remote<'_> {
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Ok(bytes) = self.store.read_document(what, &descriptor.digest) {
            return Ok(bytes);
        }
        let what = format!("{what} {}", descriptor.digest);
        let limit = match usize::try_from(descriptor.size) {
            Ok(size @ 0..=MAX_DOCUMENT) => size,
            _ => {
                return Err(Error::digest(
                    what,
                    format_args!("is larger than {MAX_DOCUMENT} bytes"),
                ));
            }
        };
        let mut exchange =
            self.manifest(&what, Method::GET, &descriptor.digest.to_string(), &[200])?;
        if !DOCUMENTS.contains(&descriptor.media_type.as_str()) {
            exchange.url = self.client.url(&format!("blobs/{}", descriptor.digest))?;
            exchange.headers.clear();
        }
        let (_, bytes) = self.client.fetch(&exchange, limit)?;
        Ok(bytes)
    }

    fn layer(&self, layer: &Packed) -> Result<Box<dyn Read + '_>> {
        let descriptor = layer.descriptor.as_ref();
        let descriptor =
            descriptor.expect("a registry's manifests have a descriptor for each layer");
        Ok(Box::new(Transfer::new(
            &self.client,
            layer.what(),
            descriptor,
        )))
    }
}
