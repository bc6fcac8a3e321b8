//! Pushes an image of the store, byte for byte, to a repository.

use super::Settings;
use super::client::{Client, Content, Exchange, Failure, header_of};
use super::mirrors;
use super::retry::Retries;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::image::manifest::{DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, OCI_MANIFEST};
use crate::image::reference::Reference;
use crate::store::Store;
use crate::store::image::Image;
use std::fs::File;
use ureq::ResponseExt as _;
use ureq::http::{Method, Uri, header};

/// Statuses that mean success. The specification has 201 and 202; Quay, GitLab and other registries use
/// the others.
const SUCCESS: &[u16] = &[200, 201, 202, 204];

/// Pushes a manifest with its blobs and sets `name`'s tag. Calls `tell` for each blob, with true if it was
/// sent.
///
/// # Errors
/// Neither the repository nor the store has a blob. Nothing is sent then.
pub fn push(
    store: &Store,
    digest: &Digest,
    name: &Reference,
    settings: &Settings,
    tell: impl Fn(&Descriptor, bool),
) -> Result<()> {
    let image = Image::load(store, digest)?;
    if image.digest != *digest {
        let why = "is an index, but push sends exactly one manifest";
        return Err(Error::policy(digest, why)
            .hint(format_args!("its image for this host is {}", image.digest)));
    }
    let bytes = store.read_document("manifest", digest)?;
    let client = Client::new(mirrors::to_push(name)?, "pull,push", settings)?;
    let missing = missing(store, &client, &image, &tell)?;
    for (descriptor, file) in &missing {
        upload(&client, descriptor, file)?;
        tell(descriptor, true);
    }
    put_manifest(&client, &image, &bytes, name.tag())
}

/// Returns the blobs that the repository lacks, with their verified files.
fn missing<'a>(
    store: &Store,
    client: &Client,
    image: &'a Image,
    tell: &impl Fn(&Descriptor, bool),
) -> Result<Vec<(&'a Descriptor, File)>> {
    let mut blobs: Vec<&Descriptor> = Vec::new();
    for descriptor in image.manifest.layers.iter().chain([&image.manifest.config]) {
        if !blobs.iter().any(|seen| seen.digest == descriptor.digest) {
            blobs.push(descriptor);
        }
    }
    let mut missing = Vec::new();
    for descriptor in blobs {
        if has(store, client, descriptor)? {
            tell(descriptor, false)
        } else {
            missing.push((descriptor, open(store, descriptor)?))
        }
    }
    Ok(missing)
}

/// Returns true if the repository has a blob. Some registries refuse HEAD: then a blob in the store is
/// sent, and for any other one GET is tried, whose answer has an explanation.
fn has(store: &Store, client: &Client, descriptor: &Descriptor) -> Result<bool> {
    let what = format!("blob {}", descriptor.digest);
    let url = client.url(&format!("blobs/{}", descriptor.digest))?;
    let expected = &[200, 400, 401, 403, 404, 405, 406, 501];
    let asked = client.send(&Exchange::new(&what, Method::HEAD, url.clone(), expected))?;
    match asked.status().as_u16() {
        200 => Ok(true),
        404 => Ok(false),
        _ if store.has(&descriptor.digest) => Ok(false),
        _ => {
            let asked = client.send(&Exchange::new(&what, Method::GET, url, &[200, 404]))?;
            Ok(asked.status() == 200)
        }
    }
}

/// Opens a blob's file and verifies it.
fn open(store: &Store, descriptor: &Descriptor) -> Result<File> {
    let Descriptor { digest, .. } = descriptor;
    if !store.has(digest) {
        let why = "neither the store nor the repository has this compressed layer: the store keeps layers uncompressed";
        return Err(Error::policy(format_args!("layer {digest}"), why)
            .hint("pull or import the image again with --keep-blobs, then push"));
    }
    let file = store.open_blob("blob", digest)?;
    store.verify_blob(digest)?;
    Ok(file)
}

/// Uploads a blob with POST and one PUT (OCI distribution specification, "Pushing a blob monolithically").
fn upload(client: &Client, descriptor: &Descriptor, file: &File) -> Result<()> {
    let what = format!("blob {}", descriptor.digest);
    let mut retries = Retries::default();
    loop {
        let sent = begin(client, &what).and_then(|place| {
            let url = with_digest(&what, &place, &descriptor.digest).map_err(Failure::last)?;
            client.attempt(&Exchange {
                headers: vec![(header::CONTENT_TYPE, "application/octet-stream".into())],
                body: Content::File(file),
                ..Exchange::new(&what, Method::PUT, url, SUCCESS)
            })
        });
        match sent {
            Ok(_) => return Ok(()),
            Err(failure) => client.wait(failure, &mut retries)?,
        }
    }
}

/// Begins an upload; returns the URL for its bytes.
fn begin(client: &Client, what: &str) -> std::result::Result<Uri, Failure> {
    let url = client.url("blobs/uploads/").map_err(Failure::last)?;
    let response = client.attempt(&Exchange {
        body: Content::Bytes(&[]),
        ..Exchange::new(what, Method::POST, url, SUCCESS)
    })?;
    // The location is relative to the URL after redirects.
    let from = response.get_uri().clone();
    let place = client.place(what, &from, &response, "wants the upload at");
    place.map_err(Failure::last)
}

fn with_digest(what: &str, place: &Uri, digest: &Digest) -> Result<Uri> {
    let separator = if place.query().is_some() { '&' } else { '?' };
    let text = format!("{place}{separator}digest={digest}");
    text.parse().map_err(|error| Error::digest(what, error))
}

fn put_manifest(client: &Client, image: &Image, bytes: &[u8], tag: &str) -> Result<()> {
    let what = format!("manifest {}", image.digest);
    let own = json::parse(&what, bytes)?;
    let usual = match image.manifest.config.media_type.as_str() {
        DOCKER_CONFIG => DOCKER_MANIFEST,
        _ => OCI_MANIFEST,
    };
    let media_type = own["mediaType"].as_str().unwrap_or(usual);
    let url = client.url(&format!("manifests/{tag}"))?;
    let response = client.send(&Exchange {
        headers: vec![(header::CONTENT_TYPE, media_type.into())],
        body: Content::Bytes(bytes),
        ..Exchange::new(&what, Method::PUT, url, SUCCESS)
    })?;
    match header_of(&response, "docker-content-digest") {
        Some(stored) if stored != image.digest.to_string() => Err(Error::digest(
            what,
            format_args!("{} reports that it stored {stored:?}", client.server_name()),
        )),
        _ => Ok(()),
    }
}
