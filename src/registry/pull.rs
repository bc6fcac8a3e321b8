//! Pull: a repository as the origin of an import.

use super::Settings;
use super::client::{Client, Exchange, header_of};
use super::endpoint::Endpoint;
use super::mirrors;
use super::transfer::Transfer;
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Error, Result};
use crate::image::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST,
};
use crate::image::reference::Reference;
use crate::store::Store;
use crate::store::import::{Origin, Root, SourceLayer};
use std::io::Read;
use ureq::http::{Method, Response, header};

/// What a name may lead to.
const DOCUMENTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// Layers that are transferred at once. While one waits for the network another is decompressed;
/// each takes memory, for its zstd window most of all.
pub const THREADS: usize = 3;

/// A repository, and the store that its images go to: what is there already is not asked for.
pub struct Remote<'a> {
    /// The mirrors that the host names, and the registry itself: each is asked where those before it fail.
    clients: Vec<Client>,
    store: &'a Store,
}

impl<'a> Remote<'a> {
    /// The repository that `name` is in, and its mirrors.
    pub fn new(store: &'a Store, name: &Reference, settings: &Settings) -> Result<Remote<'a>> {
        Self::at(store, mirrors::to_pull(name)?, settings)
    }

    /// The repository without its mirrors; `None` where it has none.
    pub fn without_mirrors(self, name: &Reference, settings: &Settings) -> Result<Option<Self>> {
        let mut endpoints = mirrors::to_pull(name)?;
        endpoints.retain(|endpoint| !endpoint.is_mirror);
        if endpoints.is_empty() || endpoints.len() == self.clients.len() {
            Ok(None)
        } else {
            Self::at(self.store, endpoints, settings).map(Some)
        }
    }

    fn at(store: &'a Store, endpoints: Vec<Endpoint>, settings: &Settings) -> Result<Remote<'a>> {
        let client = |endpoint| Client::new(endpoint, "pull", settings);
        let clients = endpoints.into_iter().map(client).collect::<Result<_>>()?;
        Ok(Remote { clients, store })
    }

    /// What a name means: the manifest or index of its digest, or else of its tag.
    pub fn root(&self, name: &Reference) -> Result<Root> {
        let what = format!("image {name}");
        match name.digest {
            Some(digest) => self.by_digest(&what, digest),
            None => self.first(
                |endpoint| endpoint.knows_tags,
                |client| self.by_tag(client, &what, name.tag()),
            ),
        }
    }

    /// The answer of the first server of some that has one, or the last one's error.
    fn first<T>(
        &self,
        fits: impl Fn(&Endpoint) -> bool,
        ask: impl Fn(&Client) -> Result<T>,
    ) -> Result<T> {
        let mut left = self.clients.iter().filter(|client| fits(&client.endpoint));
        let mut client = left.next();
        while let Some(present) = client {
            client = left.next();
            match ask(present) {
                Err(error) if client.is_some() => present.pass_over(&error),
                outcome => return outcome,
            }
        }
        Err(Error::policy(
            "registry",
            "no mirror of this name may be asked, says the host",
        ))
    }

    fn by_digest(&self, what: &str, digest: Digest) -> Result<Root> {
        if let Ok(bytes) = self.store.read_document("manifest", &digest) {
            return Ok(Root {
                digest,
                media_type: None,
                bytes,
            });
        }
        self.first(
            |_| true,
            |client| {
                let exchange = manifest(client, what, Method::GET, &digest.to_string(), &[200])?;
                let (head, bytes) = client.fetch(&exchange, MAX_DOCUMENT)?;
                digest.verify("manifest", &bytes)?;
                Ok(Root {
                    digest,
                    media_type: media_type(&head),
                    bytes,
                })
            },
        )
    }

    /// Asks what the tag means first: often it is there.
    fn by_tag(&self, client: &Client, what: &str, tag: &str) -> Result<Root> {
        // A registry may be without HEAD, and has its words in the answer to GET alone.
        const EXPECTED: &[u16] = &[200, 400, 401, 403, 404, 405, 406, 501];
        let asked = client.send(&manifest(client, what, Method::HEAD, tag, EXPECTED)?)?;
        if let (200, Some(digest)) = (asked.status().as_u16(), digest_of(client, what, &asked)?) {
            return self.by_digest(what, digest);
        }
        let exchange = manifest(client, what, Method::GET, tag, &[200])?;
        let (head, bytes) = client.fetch(&exchange, MAX_DOCUMENT)?;
        let digest = match digest_of(client, what, &head)? {
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
}

/// A request for a manifest.
fn manifest<'e>(
    client: &Client,
    what: &'e str,
    method: Method,
    reference: &str,
    expected: &'e [u16],
) -> Result<Exchange<'e>> {
    let url = client.url(&format!("manifests/{reference}"))?;
    Ok(Exchange {
        headers: vec![(header::ACCEPT, DOCUMENTS.join(", "))],
        ..Exchange::new(what, method, url, expected)
    })
}

/// What the registry says the digest is.
fn digest_of<B>(client: &Client, what: &str, head: &Response<B>) -> Result<Option<Digest>> {
    let text = header_of(head, "docker-content-digest");
    let who = client.who();
    let wrong = |error: Error| Error::digest(what, format_args!("{who} promises the {error}"));
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

/// What the registry says the document is, where it says one of those that are known. Others say that it is JSON, or
/// text, or a web page: then the document itself says it.
fn media_type<B>(head: &Response<B>) -> Option<String> {
    let text = header_of(head, header::CONTENT_TYPE)?;
    let media_type = text.split(';').next()?.trim().to_ascii_lowercase();
    Some(media_type).filter(|text| DOCUMENTS.contains(&text.as_str()))
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
        let digest = descriptor.digest;
        self.first(
            |_| true,
            |client| {
                let mut exchange =
                    manifest(client, &what, Method::GET, &digest.to_string(), &[200])?;
                if !DOCUMENTS.contains(&descriptor.media_type.as_str()) {
                    exchange.url = client.url(&format!("blobs/{digest}"))?;
                    exchange.headers.clear();
                }
                let (_, bytes) = client.fetch(&exchange, limit)?;
                // What a mirror sends is checked as long as there is another one.
                if client.endpoint.is_mirror {
                    digest.verify(&what, &bytes)?;
                }
                Ok(bytes)
            },
        )
    }

    fn layer(&self, layer: &SourceLayer) -> Result<Box<dyn Read + '_>> {
        let descriptor = layer.descriptor.as_ref();
        let descriptor =
            descriptor.expect("a registry's manifests have a descriptor for each layer");
        Ok(Box::new(Transfer::new(
            &self.clients,
            layer.what(),
            descriptor,
        )))
    }
}
