//! Imports an image from any source into the store, each layer in one streaming pass.

use super::commit::{NewImage, add_tree, commit, open_stored};
use super::image::{expect, scan_stored};
use super::source::{Format, Magic, Source, sniff};
use super::{NewFile, Store};
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Context, Error, Reason, Result, reason_of};
use crate::base::parallel::on_threads;
use crate::image::layer::{self, Compression, Layer, Tee};
use crate::image::manifest::{
    self, Choice, Config, Descriptor, Document, LayerKind, MAX_INDEX_DEPTH, Manifest, Platform,
    VerityAnnotations, archive, layout,
};
use crate::image::verity::Measured;
use std::io::{self, Read, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Settings of an import.
pub struct Options<'a> {
    /// Keeps the compressed layers for a later push.
    pub keep_blobs: bool,
    /// Name of the image; `None` names it by its own digest.
    pub name: Option<String>,
    /// Maximum number of layers read at the same time.
    pub threads: usize,
    /// Callback for each layer's progress.
    pub progress: &'a (dyn Fn(usize, Step) + Sync),
}

/// Progress of a layer, which is identified by its position in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This many more bytes of its blob were read.
    Read(u64),
    /// The store already has the layer; its blob of this many bytes is not read.
    Present(u64),
    /// The layer was read and is in the store.
    Stored,
}

/// Source of an image's blobs.
pub trait Origin: Sync {
    /// Returns the bytes of a document; the caller checks size and digest. `what` names it in errors.
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// Returns a reader of a layer's blob, from its beginning.
    fn layer(&self, layer: &SourceLayer) -> Result<Box<dyn Read + '_>>;
}

impl Origin for Source {
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let file = self.open_file(&blob_file(&descriptor.digest))?;
        descriptor.expect_size(what, file.len())?;
        super::read_document(&format!("{what} {}", descriptor.digest), file)
    }

    fn layer(&self, layer: &SourceLayer) -> Result<Box<dyn Read + '_>> {
        let extent = self.open_file(&layer.file)?;
        if let Some(descriptor) = &layer.descriptor {
            descriptor.expect_size("layer", extent.len())?;
        }
        Ok(Box::new(extent))
    }
}

/// An image found by an import, before its layers are read.
pub struct FoundImage<'a> {
    origin: &'a dyn Origin,
    documents: Vec<(Digest, Vec<u8>)>,
    indexes: Vec<Digest>,
    /// Digest of the manifest; `None` if the source has none and imrun makes one from the layers' sizes.
    manifest: Option<Digest>,
    config: (Digest, Vec<u8>),
    diff_ids: Vec<Digest>,
    layers: Vec<SourceLayer>,
    /// Verity annotations of the manifest.
    annotations: Option<VerityAnnotations>,
}

/// A layer in its source.
pub struct SourceLayer {
    /// Position in the image.
    number: usize,
    file: String,
    diff_id: Digest,
    /// Descriptor of the blob, if the source has one.
    pub descriptor: Option<Descriptor>,
    compression: Compression,
    size: u64,
    /// fs-verity digest of the tar from the manifest's annotations.
    measure: Option<Digest>,
}

impl SourceLayer {
    /// Returns its name for errors.
    pub fn what(&self) -> String {
        match &self.descriptor {
            Some(descriptor) => format!("layer {}", descriptor.digest),
            None => format!("layer {}", self.file),
        }
    }

    /// Returns the size of its blob in bytes.
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

/// An index or a manifest whose bytes were hashed.
pub struct Root {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Media type that the source announced.
    pub media_type: Option<String>,
    /// Bytes as they were received.
    pub bytes: Vec<u8>,
}

impl<'a> FoundImage<'a> {
    /// Reads the source's documents. Each is hashed before it is parsed.
    pub fn read(source: &'a Source, platform: &Platform) -> Result<FoundImage<'a>> {
        match source.format {
            Format::Oci => read_oci(source, platform),
            // In an archive with both formats, only the index has the digests of manifests.
            Format::Docker => match (read_docker(source, platform), &source.choice) {
                (Err(_), Choice::Digest(_)) if source.has("index.json") => {
                    read_oci(source, platform)
                }
                (found, _) => found,
            },
        }
    }

    /// Reads the documents from `root` on, through indexes to the image for `platform`.
    pub fn follow(
        origin: &'a dyn Origin,
        root: Root,
        platform: &Platform,
    ) -> Result<FoundImage<'a>> {
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
            format_args!("leads through more than {MAX_INDEX_DEPTH} nested indexes"),
        ))
    }

    /// Returns the layers, lowest first.
    pub fn layers(&self) -> &[SourceLayer] {
        &self.layers
    }

    /// Returns the digest of the image's config.
    pub fn config(&self) -> &Digest {
        &self.config.0
    }

    /// Returns the digests of the layers' tars, lowest first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// Returns the size of all blobs of layers in bytes.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Stores layers, documents and tree image, and sets the names. Returns the manifest's digest.
    ///
    /// If the process is killed, only whole blobs under their own digests remain. If the source has wrong
    /// bytes, nothing remains.
    pub fn store(self, store: &Store, options: &Options<'_>) -> Result<Digest> {
        let lock = store.lock_shared()?;
        let import = LayerImport {
            store,
            origin: self.origin,
            options,
            added: Mutex::default(),
            failure: OnceLock::new(),
        };
        let layers = on_threads(options.threads, &self.layers, |source| import.add(source));
        let sizes = match layers.and_then(|layers| {
            let sizes = layers.iter().map(|layer| layer.size).collect::<Vec<_>>();
            let tree = add_tree(store, &self.diff_ids, layers)?;
            if let Some(annotations) = &self.annotations {
                expect("tree image", annotations.tree, tree.digest)?;
                expect(
                    "tree image, fs-verity",
                    annotations.measures[0],
                    tree.measure,
                )?;
            }
            Ok(sizes)
        }) {
            Ok(sizes) => sizes,
            Err(error) => {
                drop(lock);
                return Err(import.end(error));
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
            NewImage {
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

/// Reads a document; checks its size and then its digest.
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

fn read_oci<'a>(source: &'a Source, platform: &Platform) -> Result<FoundImage<'a>> {
    layout::check(
        "oci-layout",
        &super::read_document("oci-layout", source.open_file("oci-layout")?)?,
    )?;
    let bytes = super::read_document("index.json", source.open_file("index.json")?)?;
    let index = layout::index("index.json", &bytes)?;
    // For an image without a tag, Docker 25 writes an empty index; the image is only in manifest.json.
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
    FoundImage::follow(source, read_root(source, entry)?, platform)
}

/// Returns the entries that lead to an image for the platform. A signature or an SBOM has its own
/// manifest next to the image's, sometimes under the same name.
fn suitable<'d>(
    source: &Source,
    entries: &[&'d Descriptor],
    platform: &Platform,
) -> Result<Vec<&'d Descriptor>> {
    let mut suitable = Vec::new();
    for entry in entries {
        let root = read_root(source, entry)?;
        match FoundImage::follow(source, root, platform) {
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
) -> Result<FoundImage<'a>> {
    let bytes = read_blob(origin, "config", &manifest.config)?;
    let what = format!("config {}", manifest.config.digest);
    let config = Config::parse(&what, &bytes, manifest.layers.len())?;
    expect_platform(&what, &config, platform)?;
    let annotations = manifest.verity_annotations()?;
    let layers = manifest
        .layers
        .iter()
        .zip(&config.diff_ids)
        .enumerate()
        .map(|(number, (descriptor, diff_id))| {
            Ok(SourceLayer {
                number,
                file: blob_file(&descriptor.digest),
                diff_id: *diff_id,
                compression: compression(descriptor, diff_id)?,
                size: descriptor.size,
                descriptor: Some(descriptor.clone()),
                measure: annotations
                    .as_ref()
                    .map(|annotations| annotations.measures[number + 1]),
            })
        });
    Ok(FoundImage {
        origin,
        documents,
        indexes,
        manifest: Some(digest),
        config: (manifest.config.digest, bytes),
        layers: layers.collect::<Result<_>>()?,
        diff_ids: config.diff_ids,
        annotations,
    })
}

/// Refuses an image for another platform. An image that names no platform is accepted as one for
/// `platform`.
fn expect_platform(what: &str, config: &Config, platform: &Platform) -> Result<()> {
    config.expect_platform(what, platform)?;
    if let Some(members) = config.unnamed() {
        log::warn!(
            "{what}: names no platform, its {members} is empty: assuming {platform}; set another one with --platform"
        );
    }
    Ok(())
}

/// Returns the compression of a layer's blob. A blob with the digest of the tar is the tar, whatever the
/// media type says: skopeo writes `+gzip` for layers that it does not compress. The digests alone decide, so
/// the outcome is the same whether or not the store already has the layer.
fn compression(descriptor: &Descriptor, diff_id: &Digest) -> Result<Compression> {
    let what = format_args!("layer {}", descriptor.digest);
    let media_type = &descriptor.media_type;
    let is_tar = descriptor.digest == *diff_id;
    let comparable = descriptor.digest.algorithm() == diff_id.algorithm();
    match LayerKind::of(media_type) {
        Some(LayerKind::Tar) if comparable && !is_tar => Err(Error::digest(
            what,
            format_args!("{media_type} is a plain tar, but its diff_id in the config is {diff_id}"),
        )),
        Some(LayerKind::Tar) => Ok(Compression::None),
        Some(LayerKind::Compressed) if is_tar => Ok(Compression::None),
        Some(LayerKind::Compressed) => Ok(Compression::GzipOrZstd),
        None => Err(Error::unsupported(
            what,
            format_args!("its media type {media_type:?} is not supported for layers"),
        )),
    }
}

fn read_docker<'a>(source: &'a Source, platform: &Platform) -> Result<FoundImage<'a>> {
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
                Ok(SourceLayer {
                    number,
                    file: file.clone(),
                    diff_id: *diff_id,
                    descriptor: None,
                    compression,
                    size: extent.len(),
                    measure: None,
                })
            });
    Ok(FoundImage {
        origin: source,
        documents: Vec::new(),
        indexes: Vec::new(),
        manifest: None,
        config: (Digest::sha256(&bytes), bytes),
        layers: layers.collect::<Result<_>>()?,
        diff_ids: config.diff_ids,
        annotations: None,
    })
}

/// Returns the manifest of an image that has none: its layers are plain tars of the store.
fn plain_manifest(config: &(Digest, Vec<u8>), diff_ids: &[Digest], sizes: &[u64]) -> Vec<u8> {
    let layers = diff_ids.iter().copied().zip(sizes.iter().copied());
    let layers: Vec<_> = layers.collect();
    manifest::write((config.0, config.1.len() as u64), &layers, None, None)
}

/// Import of an image's layers.
struct LayerImport<'a> {
    store: &'a Store,
    origin: &'a dyn Origin,
    options: &'a Options<'a>,
    /// Blobs that this import added.
    added: Mutex<Vec<Digest>>,
    /// Error of the first layer that failed; the other layers are aborted.
    failure: OnceLock<Error>,
}

impl LayerImport<'_> {
    /// Stores one layer, unless the store has its tar undamaged.
    fn add(&self, source: &SourceLayer) -> Result<Layer> {
        let outcome = self.add_missing(source);
        if let Err(error) = &outcome {
            // Only the first error counts.
            let _later = self.failure.set(error.clone());
        }
        outcome
    }

    /// Removes the added blobs if the source had wrong bytes. Returns the first error.
    fn end(self, error: Error) -> Error {
        let error = self.failure.into_inner().unwrap_or(error);
        if matches!(error.reason, Reason::Digest | Reason::Policy) {
            let added = self.added.into_inner();
            let added = added.unwrap_or_else(PoisonError::into_inner);
            self.store.discard(&added);
        }
        error
    }

    fn add_missing(&self, source: &SourceLayer) -> Result<Layer> {
        let LayerImport { store, options, .. } = self;
        if is_kept(store, source, options)?
            && let Some(file) = open_stored(&store.blob_path(&source.diff_id))?
            && let mut measured = Measured::new(io::sink(), source.measure.is_some())
            && let Ok(layer) = scan_stored(&file, &source.diff_id, Some(&mut measured))
        {
            source.expect_measure(measured)?;
            (options.progress)(source.number, Step::Present(source.size));
            return Ok(layer);
        }
        let layer = unpack(self, self.origin.layer(source)?, source)?;
        (options.progress)(source.number, Step::Stored);
        Ok(layer)
    }

    /// Links a blob under its name.
    fn link(&self, new: NewFile, digest: &Digest) -> Result<()> {
        let path = self.store.blob_path(digest);
        if !path.exists() {
            let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
            added.push(*digest);
        }
        new.link(&path)
    }
}

/// Returns true if the compressed blob is stored undamaged or is not wanted.
fn is_kept(store: &Store, source: &SourceLayer, options: &Options<'_>) -> Result<bool> {
    let Some(Descriptor { digest, .. }) = source.descriptor.as_ref().filter(|_| options.keep_blobs)
    else {
        return Ok(true);
    };
    let Some(file) = open_stored(&store.blob_path(digest))? else {
        return Ok(false);
    };
    let stored = super::digest_of(&file, digest.algorithm());
    Ok(stored.context(|| format!("read({digest})"))? == *digest)
}

/// Reads a layer in one pass: hashes the blob, decompresses it, hashes and writes the tar, reads its
/// entries.
fn unpack(
    import: &LayerImport<'_>,
    blob: Box<dyn Read + '_>,
    source: &SourceLayer,
) -> Result<Layer> {
    let LayerImport { store, options, .. } = import;
    let what = source.what();
    let promised = source.descriptor.as_ref();
    let algorithm = promised.map_or(Algorithm::Sha256, |descriptor| {
        descriptor.digest.algorithm()
    });
    let keep = promised.filter(|d| options.keep_blobs && d.digest != source.diff_id);
    let kept = keep.map(|_| store.new_file()).transpose()?;
    let mut kept_file = kept.as_ref().map(|new| &new.file);
    let copy = kept_file.as_mut().map(|file| file as &mut dyn Write);
    let blob = Watched {
        inner: blob,
        failure: &import.failure,
        progress: &|bytes| (options.progress)(source.number, Step::Read(bytes)),
    };
    let mut blob = Tee::new(blob, algorithm, copy);

    let tar = store.new_file()?;
    let mut measured = Measured::new(&tar.file, source.measure.is_some());
    let (scanned, diff_id) = {
        let decoder = layer::decoder(source.compression, &mut blob).map_err(|e| e.about(&what))?;
        let mut tee = Tee::new(decoder, source.diff_id.algorithm(), Some(&mut measured));
        (
            layer::scan(&mut tee, &layer::Limits::default()),
            tee.finish().0,
        )
    };
    // Bytes with a wrong digest need not be a tar; the error names the digest, not the format.
    if scanned
        .as_ref()
        .is_err_and(|error| error.reason == Reason::Digest)
    {
        io::copy(&mut blob, &mut io::sink()).map_err(|error| own_error(&what, error))?;
    }
    let layer = check_digests(source, blob.finish(), diff_id, scanned)?;
    source.expect_measure(measured)?;
    if let (Some(kept), Some(descriptor)) = (kept, keep) {
        import.link(kept, &descriptor.digest)?;
    }
    import.link(tar, &source.diff_id)?;
    Ok(layer)
}

/// Checks that the blob and its tar have the expected digests.
fn check_digests(
    source: &SourceLayer,
    (digest, size): (Digest, u64),
    diff_id: Digest,
    scanned: Result<Layer>,
) -> Result<Layer> {
    let (what, promised) = (source.what(), source.descriptor.as_ref());
    if let Some(descriptor) = promised.filter(|d| d.size == size) {
        descriptor.digest.expect("layer", digest)?;
    }
    let layer = scanned.map_err(|e| {
        if e.what == what {
            e
        } else {
            Error {
                what: format!("{what}: {}", e.what),
                ..e
            }
        }
    })?;
    if let Some(descriptor) = promised {
        descriptor.expect_size("layer", size)?;
    }
    let what = format!("{what}: diff_id");
    source.diff_id.expect(&what, diff_id)?;
    Ok(layer)
}

/// Returns the error of the source itself, or that of the system.
fn own_error(what: &str, error: io::Error) -> Error {
    let own = error.get_ref().and_then(|inner| inner.downcast_ref());
    own.cloned()
        .unwrap_or_else(|| Error::system(format_args!("read({what})"), reason_of(&error)))
}

/// Reader that reports the number of bytes read, and fails once another layer has failed.
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
