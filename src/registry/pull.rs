//! Pulls images: a repository as the source of an import.

use super::Settings;
use super::client::{Client, Exchange, header_of};
use super::endpoint::Endpoint;
use super::mirrors;
use super::senders::Senders;
use super::transfer::Transfer;
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::image::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST,
};
use crate::image::reference::Reference;
use crate::store::Store;
use crate::store::import::{Origin, Root, SourceLayer};
use std::io::Read;
use ureq::http::{Method, Response, header};

/// Media types of documents that a name may lead to.
const DOCUMENTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

/// Number of layers transferred at the same time. While one waits for the network, another is
/// decompressed. Each needs memory, mainly for its zstd window.
pub const THREADS: usize = 3;

/// A repository, and the store for its images. Documents in the store are not requested again.
pub struct Remote<'a> {
    /// Clients of the host's mirrors and of the registry; each is asked if those before it fail.
    clients: Vec<Client>,
    senders: Senders,
    store: &'a Store,
}

impl<'a> Remote<'a> {
    /// Creates a remote for the repository of `name` and its mirrors.
    pub fn new(store: &'a Store, name: &Reference, settings: &Settings) -> Result<Remote<'a>> {
        let client = |endpoint| Client::new(endpoint, "pull", settings);
        let endpoints = mirrors::to_pull(name)?.into_iter();
        Ok(Remote {
            clients: endpoints.map(client).collect::<Result<_>>()?,
            senders: Senders::default(),
            store,
        })
    }

    /// Removes the mirror that sent the wrong data of `error`, or all mirrors if the error names no data of
    /// a mirror. Returns false if no other server is left to ask.
    pub fn pass_over(&mut self, error: &Error) -> bool {
        let sender = self.senders.of(error);
        let is_liar = |client: &Client| {
            client.endpoint.is_mirror && sender.as_ref() == Some(&client.endpoint)
        };
        let is_known = self.clients.iter().any(is_liar);
        let (passed, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.clients)
            .into_iter()
            .partition(|client| is_liar(client) || !is_known && client.endpoint.is_mirror);
        self.clients = left;
        self.senders = Senders::default();
        if passed.is_empty() || self.clients.is_empty() {
            return false;
        }
        for client in passed {
            client.log_failover(error);
        }
        true
    }

    /// Returns the manifest or index with the name's digest, or else of its tag.
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

    /// Returns the answer of the first server that has one, or the last error.
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
                Err(error) if client.is_some() => present.log_failover(&error),
                outcome => return outcome,
            }
        }
        Err(Error::policy(
            "registry",
            "the host's configuration allows no server for this name",
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
                self.senders.note(digest, &client.endpoint);
                Ok(Root {
                    digest,
                    media_type: media_type(&head, &bytes),
                    bytes,
                })
            },
        )
    }

    /// Resolves the tag first: the store often has its manifest.
    fn by_tag(&self, client: &Client, what: &str, tag: &str) -> Result<Root> {
        // A registry may not support HEAD, and only an answer to GET has an explanation.
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
        self.senders.note(digest, &client.endpoint);
        Ok(Root {
            digest,
            media_type: media_type(&head, &bytes),
            bytes,
        })
    }
}

/// Returns a request for a manifest.
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

/// Returns the digest that the registry announces.
fn digest_of<B>(client: &Client, what: &str, head: &Response<B>) -> Result<Option<Digest>> {
    let text = header_of(head, "docker-content-digest");
    let who = client.server_name();
    let wrong = |error: Error| Error::digest(what, format_args!("{who} announces the {error}"));
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

/// Returns the media type in the answer's head for a document that does not contain its own, if it is a
/// known one. Some registries answer JSON, text or a web page.
fn media_type<B>(head: &Response<B>, bytes: &[u8]) -> Option<String> {
    let document = json::parse("manifest", bytes).ok()?;
    if !document["mediaType"].is_null() {
        return None;
    }
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
                // A mirror's document is checked here, while another server can still be asked.
                if client.endpoint.is_mirror {
                    digest.verify(&what, &bytes)?;
                }
                self.senders.note(digest, &client.endpoint);
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
            &self.senders,
            layer.what(),
            descriptor,
        )))
    }
}
