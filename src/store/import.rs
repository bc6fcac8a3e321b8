//! Import: an image into the store from wherever it is, each layer in one streaming pass.

use super::commit::{Parts, add_tree, commit, open_stored};
use super::image::{expect, scan_stored};
use super::source::{Format, Magic, Source, sniff};
use super::{NewFile, Store};
use crate::digest::{Algorithm, Digest};
use crate::error::{Context, Error, Reason, Result, reason_of};
use crate::layer::{self, Compression, Layer, Tee};
use crate::manifest::{
    self, Choice, Config, Descriptor, Document, LayerKind, MAX_INDEX_DEPTH, Manifest, Platform,
    Seal, archive, layout,
};
use crate::parallel::on_threads;
use crate::verity::Measured;
use std::io::{self, Read, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What an import is told.
pub struct Options<'a> {
    /// Keeps the compressed layers for a later push.
    pub keep_blobs: bool,
    /// What the image is called from now on; by its own digest without.
    pub name: Option<String>,
    /// How many layers are read at once, at the most.
    pub threads: usize,
    /// Told how the layers come along.
    pub progress: &'a (dyn Fn(usize, Step) + Sync),
}

/// What happened to a layer, which is named by its place in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of its blob were read.
    Read(u64),
    /// The store has all of it: its blob of so many bytes is not read.
    There(u64),
    /// It was read, and is in the store.
    Stored,
}

/// Where the blobs of an image come from.
pub trait Origin: Sync {
    /// The bytes of a document; neither size nor digest need be right. `what` names it in errors.
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// A layer's blob, from its beginning.
    fn layer(&self, layer: &Packed) -> Result<Box<dyn Read + '_>>;
}

impl Origin for Source {
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let file = self.open_file(&blob_file(&descriptor.digest))?;
        descriptor.expect_size(what, file.len())?;
        super::read_document(&format!("{what} {}", descriptor.digest), file)
    }

    fn layer(&self, layer: &Packed) -> Result<Box<dyn Read + '_>> {
        let extent = self.open_file(&layer.file)?;
        if let Some(descriptor) = &layer.descriptor {
            descriptor.expect_size("layer", extent.len())?;
        }
        Ok(Box::new(extent))
    }
}

/// What an import found, before the layers are read.
pub struct Found<'a> {
    origin: &'a dyn Origin,
    documents: Vec<(Digest, Vec<u8>)>,
    indexes: Vec<Digest>,
    /// None where the source has no manifest: it is made when the layers' sizes are known.
    manifest: Option<Digest>,
    config: (Digest, Vec<u8>),
    diff_ids: Vec<Digest>,
    layers: Vec<Packed>,
    /// What the manifest says of the files that are made of them.
    seal: Option<Seal>,
}

/// A layer as its origin has it.
pub struct Packed {
    /// Its place in the image.
    number: usize,
    file: String,
    diff_id: Digest,
    /// The blob's own digest and size, where the origin names them.
    pub descriptor: Option<Descriptor>,
    compression: Compression,
    size: u64,
    /// fs-verity's digest of the tar, where the manifest says it.
    measure: Option<Digest>,
}

impl Packed {
    /// Names it in errors.
    pub fn what(&self) -> String {
        match &self.descriptor {
            Some(descriptor) => format!("layer {}", descriptor.digest),
            None => format!("layer {}", self.file),
        }
    }

    /// Bytes of its blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn expect_measure<W>(&self, tar: Measured<W>) -> Result<()> {
        let pair = self.measure.zip(tar.finish());
        pair.map_or(Ok(()), |(sealed, computed)| {
            expect(&format!("{}, fs-verity", self.what()), sealed, computed)
        })
    }
}

/// An index or a manifest whose bytes have its digest.
pub struct Root {
    /// What they hash to.
    pub digest: Digest,
    /// What they are, where that was promised.
    pub media_type: Option<String>,
    /// As they came.
    pub bytes: Vec<u8>,
}

impl<'a> Found<'a> {
    /// Reads the source's documents: hashed first, then parsed.
    pub fn read(source: &'a Source, platform: &Platform) -> Result<Found<'a>> {
        match source.format {
            Format::Oci => read_oci(source, platform),
            // An archive in both formats has the digests of manifests in its index alone.
            Format::Docker => match (read_docker(source, platform), &source.choice) {
                (Err(_), Choice::Digest(_)) if source.has("index.json") => {
                    read_oci(source, platform)
                }
                (found, _) => found,
            },
        }
    }

    /// Reads the documents that `root` leads to, through indexes to the image for `platform`.
    pub fn follow(origin: &'a dyn Origin, root: Root, platform: &Platform) -> Result<Found<'a>> {
        let first = root.digest;
        let (mut documents, mut indexes, mut next) = (Vec::new(), Vec::new(), root);
        while indexes.len() <= MAX_INDEX_DEPTH {
            let Root {
                digest,
                media_type,
                bytes,
            } = next;
            let what = format!("manifest {digest}");
            let document = Document::parse(&what, &bytes, media_type.as_deref())?;
            documents.push((digest, bytes));
            match document {
                Document::Index(index) => {
                    indexes.push(digest);
                    next = read_root(origin, index.select(platform)?)?;
                }
                Document::Manifest(manifest) => {
                    return read_image(origin, platform, digest, &manifest, documents, indexes);
                }
            }
        }
        Err(Error::digest(
            format_args!("index {first}"),
            format_args!("leads through more than {MAX_INDEX_DEPTH} indexes"),
        ))
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Packed] {
        &self.layers
    }

    /// The digest of the image's config.
    pub fn config(&self) -> &Digest {
        &self.config.0
    }

    /// The digests of the layers' tars, lowest first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// Bytes of all layers, as the source has them.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Stores layers, documents and tree image, and names them; the manifest's digest.
    ///
    /// Killed at any moment, it leaves nothing but whole blobs under their own digests. Where the
    /// origin lies, it leaves nothing.
    pub fn store(self, store: &Store, options: &Options<'_>) -> Result<Digest> {
        let lock = store.lock_shared()?;
        let work = Work {
            store,
            origin: self.origin,
            options,
            added: Mutex::default(),
            failure: OnceLock::new(),
        };
        let layers = on_threads(options.threads, &self.layers, |packed| work.add(packed));
        let sizes = match layers.and_then(|layers| {
            let sizes = layers.iter().map(|layer| layer.size).collect::<Vec<_>>();
            let tree = add_tree(store, &self.diff_ids, layers)?;
            if let Some(seal) = &self.seal {
                expect("tree image", seal.tree, tree.digest)?;
                expect("tree image, fs-verity", seal.measures[0], tree.measure)?;
            }
            Ok(sizes)
        }) {
            Ok(sizes) => sizes,
            Err(error) => {
                drop(lock);
                return Err(work.end(error));
            }
        };
        let mut documents = self.documents;
        let digest = match self.manifest {
            Some(digest) => digest,
            None => {
                let bytes = plain_manifest(&self.config, &self.diff_ids, &sizes);
                let digest = Digest::sha256(&bytes);
                documents.push((digest, bytes));
                digest
            }
        };
        documents.push(self.config);
        let own_name = options.name.clone().unwrap_or_else(|| digest.to_string());
        let names = self
            .indexes
            .iter()
            .map(Digest::to_string)
            .chain([own_name])
            .collect();
        commit(
            store,
            Parts {
                digest,
                documents,
                diff_ids: self.diff_ids,
                names,
            },
        )?;
        Ok(digest)
    }
}

fn blob_file(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// A document, its size and then its digest checked.
fn read_blob(origin: &dyn Origin, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes = origin.document(what, descriptor)?;
    descriptor.expect_size(what, bytes.len() as u64)?;
    descriptor.digest.verify(what, &bytes)?;
    Ok(bytes)
}

fn read_root(origin: &dyn Origin, descriptor: &Descriptor) -> Result<Root> {
    Ok(Root {
        digest: descriptor.digest,
        media_type: Some(descriptor.media_type.clone()),
        bytes: read_blob(origin, "manifest", descriptor)?,
    })
}

fn read_oci<'a>(source: &'a Source, platform: &Platform) -> Result<Found<'a>> {
    layout::check(
        "oci-layout",
        &super::read_document("oci-layout", source.open_file("oci-layout")?)?,
    )?;
    let bytes = super::read_document("index.json", source.open_file("index.json")?)?;
    let index = layout::index("index.json", &bytes)?;
    // Docker 25 saves an image without a tag with an empty index, and names it here.
    if index.manifests.is_empty() && source.has("manifest.json") {
        return read_docker(source, platform);
    }
    let entries = index.chosen(&source.choice)?;
    let entry = match &entries[..] {
        [entry] => entry,
        several => match &suitable(source, several, platform)?[..] {
            [] => several[0],
            [entry] => entry,
            several => return Err(index.ambiguous(&source.choice, several)),
        },
    };
    Found::follow(source, read_root(source, entry)?, platform)
}

/// Those that lead to an image for the platform. A signature or an SBOM has a manifest of its own
/// beside the image's, perhaps under the same name.
fn suitable<'d>(
    source: &Source,
    entries: &[&'d Descriptor],
    platform: &Platform,
) -> Result<Vec<&'d Descriptor>> {
    let mut suitable = Vec::new();
    for entry in entries {
        let root = read_root(source, entry)?;
        match Found::follow(source, root, platform) {
            Err(error) if matches!(error.reason, Reason::Policy | Reason::Unsupported) => {}
            Err(error) => return Err(error),
            Ok(_) => suitable.push(*entry),
        }
    }
    Ok(suitable)
}

fn read_image<'a>(
    origin: &'a dyn Origin,
    platform: &Platform,
    digest: Digest,
    manifest: &Manifest,
    documents: Vec<(Digest, Vec<u8>)>,
    indexes: Vec<Digest>,
) -> Result<Found<'a>> {
    let bytes = read_blob(origin, "config", &manifest.config)?;
    let what = format!("config {}", manifest.config.digest);
    let config = Config::parse(&what, &bytes, manifest.layers.len())?;
    expect_platform(&what, &config, platform)?;
    let seal = manifest.seal()?;
    let layers = manifest
        .layers
        .iter()
        .zip(&config.diff_ids)
        .enumerate()
        .map(|(number, (descriptor, diff_id))| {
            Ok(Packed {
                number,
                file: blob_file(&descriptor.digest),
                diff_id: *diff_id,
                compression: compression(descriptor, diff_id)?,
                size: descriptor.size,
                descriptor: Some(descriptor.clone()),
                measure: seal.as_ref().map(|seal| seal.measures[number + 1]),
            })
        });
    Ok(Found {
        origin,
        documents,
        indexes,
        manifest: Some(digest),
        config: (manifest.config.digest, bytes),
        layers: layers.collect::<Result<_>>()?,
        diff_ids: config.diff_ids,
        seal,
    })
}

/// Refuses an image for another platform. One that does not say its own is taken at its word: who
/// imports it knows what it is.
fn expect_platform(what: &str, config: &Config, platform: &Platform) -> Result<()> {
    config.expect_platform(what, platform)?;
    if let Some(members) = config.unnamed() {
        log::warn!(
            "{what}: names no platform, its {members} is empty: taken for {platform}; --platform names another one"
        );
    }
    Ok(())
}

/// How a layer's blob is packed. Whether it is packed can be told by the digests alone, and is,
/// so that the same image is refused whether or not the store has the layer already.
fn compression(descriptor: &Descriptor, diff_id: &Digest) -> Result<Compression> {
    let what = format_args!("layer {}", descriptor.digest);
    let media_type = &descriptor.media_type;
    let is_tar = descriptor.digest == *diff_id;
    let comparable = descriptor.digest.algorithm() == diff_id.algorithm();
    match LayerKind::of(media_type) {
        Some(LayerKind::Tar) if comparable && !is_tar => Err(Error::digest(
            what,
            format_args!(
                "{media_type} is a plain tar, and its config has another diff_id, {diff_id}"
            ),
        )),
        Some(LayerKind::Packed) if is_tar => Err(Error::digest(
            what,
            format_args!(
                "{media_type} is compressed, and its config has the same digest as diff_id, that of a plain tar"
            ),
        )),
        Some(LayerKind::Tar) => Ok(Compression::None),
        Some(LayerKind::Packed) => Ok(Compression::GzipOrZstd),
        None => Err(Error::unsupported(
            what,
            format_args!("media type {media_type:?} is no layer that imrun reads"),
        )),
    }
}

fn read_docker<'a>(source: &'a Source, platform: &Platform) -> Result<Found<'a>> {
    let bytes = super::read_document("manifest.json", source.open_file("manifest.json")?)?;
    let entries = archive::parse("manifest.json", &bytes)?;
    let entry = archive::select("manifest.json", &entries, &source.choice)?;
    let bytes = super::read_document(&entry.config, source.open_file(&entry.config)?)?;
    let config = Config::parse(&entry.config, &bytes, entry.layers.len())?;
    expect_platform(&entry.config, &config, platform)?;
    let layers =
        entry
            .layers
            .iter()
            .zip(&config.diff_ids)
            .enumerate()
            .map(|(number, (file, diff_id))| {
                let extent = source.open_file(file)?;
                let magic: Magic = extent.peek().context(|| format!("read({file:?})"))?;
                let compression = sniff(file, &magic)?;
                Ok(Packed {
                    number,
                    file: file.clone(),
                    diff_id: *diff_id,
                    descriptor: None,
                    compression,
                    size: extent.len(),
                    measure: None,
                })
            });
    Ok(Found {
        origin: source,
        documents: Vec::new(),
        indexes: Vec::new(),
        manifest: None,
        config: (Digest::sha256(&bytes), bytes),
        layers: layers.collect::<Result<_>>()?,
        diff_ids: config.diff_ids,
        seal: None,
    })
}

/// The manifest of an image that came without one: its layers are the plain tars of the store.
fn plain_manifest(config: &(Digest, Vec<u8>), diff_ids: &[Digest], sizes: &[u64]) -> Vec<u8> {
    let layers = diff_ids.iter().copied().zip(sizes.iter().copied());
    let layers: Vec<_> = layers.collect();
    manifest::write((config.0, config.1.len() as u64), &layers, None, None)
}

/// The layers of one image on their way into the store.
struct Work<'a> {
    store: &'a Store,
    origin: &'a dyn Origin,
    options: &'a Options<'a>,
    /// The blobs that were not there before.
    added: Mutex<Vec<Digest>>,
    /// Why the first layer failed: the others are then given up.
    failure: OnceLock<Error>,
}

impl Work<'_> {
    /// Brings one layer into the store, unless its tar is there and whole.
    fn add(&self, packed: &Packed) -> Result<Layer> {
        let outcome = self.add_missing(packed);
        if let Err(error) = &outcome {
            // Only the first counts.
            let _later = self.failure.set(error.clone());
        }
        outcome
    }

    /// Removes what came from an origin that lies; the error that was the first.
    fn end(self, error: Error) -> Error {
        let error = self.failure.into_inner().unwrap_or(error);
        if matches!(error.reason, Reason::Digest | Reason::Policy) {
            let added = self.added.into_inner();
            let added = added.unwrap_or_else(PoisonError::into_inner);
            self.store.discard(&added);
        }
        error
    }

    fn add_missing(&self, packed: &Packed) -> Result<Layer> {
        let Work { store, options, .. } = self;
        if is_kept(store, packed, options)?
            && let Some(file) = open_stored(&store.blob_path(&packed.diff_id))?
            && let mut measured = Measured::new(io::sink(), packed.measure.is_some())
            && let Ok(layer) = scan_stored(&file, &packed.diff_id, Some(&mut measured))
        {
            packed.expect_measure(measured)?;
            (options.progress)(packed.number, Step::There(packed.size));
            return Ok(layer);
        }
        let layer = unpack(self, self.origin.layer(packed)?, packed)?;
        (options.progress)(packed.number, Step::Stored);
        Ok(layer)
    }

    /// Gives a blob its name.
    fn link(&self, new: NewFile, digest: &Digest) -> Result<()> {
        let path = self.store.blob_path(digest);
        if !path.exists() {
            let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
            added.push(*digest);
        }
        new.link(&path)
    }
}

/// Whether the compressed blob is there and whole, or need not be.
fn is_kept(store: &Store, packed: &Packed, options: &Options<'_>) -> Result<bool> {
    let Some(Descriptor { digest, .. }) = packed.descriptor.as_ref().filter(|_| options.keep_blobs)
    else {
        return Ok(true);
    };
    let Some(file) = open_stored(&store.blob_path(digest))? else {
        return Ok(false);
    };
    let stored = super::digest_of(&file, digest.algorithm());
    Ok(stored.context(|| format!("read({digest})"))? == *digest)
}

/// The one pass: hash the blob, decompress, hash and write the tar, read its entries.
fn unpack(work: &Work<'_>, blob: Box<dyn Read + '_>, packed: &Packed) -> Result<Layer> {
    let Work { store, options, .. } = work;
    let what = packed.what();
    let promised = packed.descriptor.as_ref();
    let algorithm = promised.map_or(Algorithm::Sha256, |descriptor| {
        descriptor.digest.algorithm()
    });
    let keep = promised.filter(|d| options.keep_blobs && d.digest != packed.diff_id);
    let kept = keep.map(|_| store.new_file()).transpose()?;
    let mut kept_file = kept.as_ref().map(|new| &new.file);
    let copy = kept_file.as_mut().map(|file| file as &mut dyn Write);
    let blob = Watched {
        inner: blob,
        failure: &work.failure,
        progress: &|bytes| (options.progress)(packed.number, Step::Read(bytes)),
    };
    let mut blob = Tee::new(blob, algorithm, copy);

    let tar = store.new_file()?;
    let mut measured = Measured::new(&tar.file, packed.measure.is_some());
    let (scanned, diff_id) = {
        let decoder = layer::decoder(packed.compression, &mut blob).map_err(|e| e.about(&what))?;
        let mut tee = Tee::new(decoder, packed.diff_id.algorithm(), Some(&mut measured));
        (
            layer::scan(&mut tee, &layer::Limits::default()),
            tee.finish().0,
        )
    };
    // What is wrong with bytes that are not the layer's is their digest, not their format.
    if scanned
        .as_ref()
        .is_err_and(|error| error.reason == Reason::Digest)
    {
        io::copy(&mut blob, &mut io::sink()).map_err(|error| own_error(&what, error))?;
    }
    let layer = judge(packed, blob.finish(), diff_id, scanned)?;
    packed.expect_measure(measured)?;
    if let (Some(kept), Some(descriptor)) = (kept, keep) {
        work.link(kept, &descriptor.digest)?;
    }
    work.link(tar, &packed.diff_id)?;
    Ok(layer)
}

/// Whether the blob and the tar in it have the digests that were promised.
fn judge(
    packed: &Packed,
    (digest, size): (Digest, u64),
    diff_id: Digest,
    scanned: Result<Layer>,
) -> Result<Layer> {
    let (what, promised) = (packed.what(), packed.descriptor.as_ref());
    if let Some(descriptor) = promised.filter(|d| d.size == size) {
        descriptor.digest.expect("layer", digest)?;
    }
    let layer = scanned.map_err(|e| match e.what == what {
        true => e,
        false => Error {
            what: format!("{what}: {}", e.what),
            ..e
        },
    })?;
    if let Some(descriptor) = promised {
        descriptor.expect_size("layer", size)?;
    }
    let what = format!("{what}: diff_id");
    packed.diff_id.expect(&what, diff_id)?;
    Ok(layer)
}

/// What an origin says of its own failure; else what the system says.
fn own_error(what: &str, error: io::Error) -> Error {
    let own = error.get_ref().and_then(|inner| inner.downcast_ref());
    own.cloned()
        .unwrap_or_else(|| Error::system(format_args!("read({what})"), reason_of(&error)))
}

/// Tells how many bytes were read; ends when another layer has failed.
struct Watched<'a, R> {
    inner: R,
    failure: &'a OnceLock<Error>,
    progress: &'a dyn Fn(u64),
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.failure.get() {
            return Err(io::Error::other(error.clone()));
        }
        let read = self.inner.read(buffer)?;
        (self.progress)(read as u64);
        Ok(read)
    }
}
