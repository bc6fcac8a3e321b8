//! An image of the store: the chain from its digest to the bytes of its layers.

use super::Store;
use crate::base::digest::{Digest, Hasher};
use crate::base::error::{Context, Error, Reason, Result};
use crate::base::parallel::in_parallel;
use crate::image::erofs;
use crate::image::layer::{self, Dropped, Layer, Tee};
use crate::image::manifest::{
    Config, Document, MAX_INDEX_DEPTH, Manifest, Platform, VerityAnnotations,
};
use crate::image::tree;
use crate::image::tree::Tree;
use crate::image::verity::Measured;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};

const REPAIR: &str = "pull, import or bake the same image again: that repairs it";

/// An image whose documents were hashed and then parsed.
pub struct Image {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Manifest, which names the config and the layers.
    pub manifest: Manifest,
    /// Config of the image.
    pub config: Config,
    /// Indexes that led to the manifest, the outermost first.
    pub indexes: Vec<Digest>,
}

/// Open files of an image. Mounting these descriptors mounts the files that were read, even if their
/// names change.
pub struct Sources {
    /// Tree image.
    pub tree: File,
    /// Tars of the layers, in the order of the device table.
    pub tars: Vec<File>,
}

/// Results of hashing an image's layers and tree image.
pub struct Verified {
    /// Digest of the tree image.
    pub tree_digest: Digest,
    /// Results of the layers' scans, in the order of the layers.
    pub layers: Vec<Scanned>,
    /// Merged tree.
    pub merged: Tree,
    /// fs-verity digests of the hashed bytes, the tree image's first; empty unless requested.
    pub measures: Vec<Digest>,
}

/// Results of scanning a layer.
pub struct Scanned {
    /// Size of its tar in bytes.
    pub size: u64,
    /// Contents of the layer that the tree leaves out.
    pub dropped: Dropped,
}

impl Image {
    /// Loads the image with this digest; from an index, the image for this host's platform.
    pub fn load(store: &Store, digest: &Digest) -> Result<Image> {
        Self::load_by(digest, &|what, digest| store.read_document(what, digest))
    }

    /// Returns true if the store has all files of an image, whatever their contents.
    pub fn is_complete(store: &Store, digest: &Digest) -> Result<bool> {
        let missing = Cell::new(false);
        let loaded = Self::load_by(digest, &|what, digest| {
            missing.set(missing.get() || !store.has(digest));
            store.read_document(what, digest)
        });
        match loaded {
            _ if missing.get() => Ok(false),
            Ok(image) => Ok(image.config.diff_ids.iter().all(|id| store.has(id))
                && store.tree_path(&image.tree_identity()).exists()),
            // The files exist, but are damaged: the launch reports it.
            Err(error) if error.reason == Reason::Digest => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn load_by(digest: &Digest, read: Read<'_>) -> Result<Image> {
        let mut indexes = Vec::new();
        let mut next = (*digest, None);
        while indexes.len() <= MAX_INDEX_DEPTH {
            let (digest, media_type) = next;
            let bytes = read("manifest", &digest)?;
            let what = format!("manifest {digest}");
            match Document::parse(&what, &bytes, media_type.as_deref())? {
                Document::Manifest(manifest) => {
                    let config = load_config(read, &manifest)?;
                    return Ok(Image {
                        digest,
                        manifest,
                        config,
                        indexes,
                    });
                }
                Document::Index(index) => {
                    let chosen = index.select(&Platform::host())?;
                    next = (chosen.digest, Some(chosen.media_type.clone()));
                    indexes.push(digest);
                }
            }
        }
        Err(Error::digest(
            format_args!("index {digest}"),
            format_args!("leads through more than {MAX_INDEX_DEPTH} nested indexes"),
        ))
    }

    /// Refuses an image for another platform than this host's. The store can keep it, but not run it.
    pub fn expect_host(&self) -> Result<()> {
        let what = format!("config {}", self.manifest.config.digest);
        self.config.expect_platform(&what, &Platform::host())
    }

    /// Returns the digest that names the image's tree image in the store.
    pub fn tree_identity(&self) -> Digest {
        erofs::identity(&self.config.diff_ids)
    }

    /// Returns the manifest's verity annotations, if they apply to this image.
    pub fn verity_annotations(&self) -> Result<Option<VerityAnnotations>> {
        // An image with a digest of another algorithm has its tree image hashed with that algorithm.
        let algorithm = self.digest.algorithm();
        let annotations = self.manifest.verity_annotations()?;
        Ok(annotations.filter(|annotations| annotations.tree.algorithm() == algorithm))
    }

    /// Opens the tars of the layers, without verifying their bytes.
    pub fn open_layers(&self, store: &Store) -> Result<Vec<File>> {
        let diff_ids = self.config.diff_ids.iter();
        diff_ids.map(|id| store.open_blob("layer", id)).collect()
    }

    /// Opens the tars of the layers and the tree image, without verifying their bytes.
    pub fn open(&self, store: &Store) -> Result<Sources> {
        let tars = self.open_layers(store)?;
        let tree = super::open_regular(&store.tree_path(&self.tree_identity()))?;
        let missing = || Error::digest(self.tree_name(store), "is not in the store").hint(REPAIR);
        Ok(Sources {
            tree: tree.ok_or_else(missing)?,
            tars,
        })
    }

    fn tree_name(&self, store: &Store) -> String {
        let path = store.tree_path(&self.tree_identity());
        format!("tree image {}", path.display())
    }

    /// Hashes every layer and reads its entries, in parallel. The files' positions are at their start.
    ///
    /// With `measure`, also returns the fs-verity digests of the hashed bytes.
    pub fn scan(&self, tars: &[File], measure: bool) -> Result<(Vec<Layer>, Vec<Digest>)> {
        let files: Vec<_> = self.config.diff_ids.iter().zip(tars).collect();
        let scanned = in_parallel(&files, |(diff_id, file)| {
            let mut measured = Measured::new(io::sink(), measure);
            let layer = scan_stored(file, diff_id, Some(&mut measured))?;
            Ok((layer, measured.finish()))
        })?;
        let (layers, measures): (_, Vec<_>) = scanned.into_iter().unzip();
        Ok((layers, measures.into_iter().flatten().collect()))
    }

    /// Hashes every layer, rebuilds the tree image from them, and compares it with that of `sources`.
    ///
    /// With `measure`, fs-verity's digests are computed from the same bytes, and compared with the manifest's
    /// verity annotations. This takes twice as long.
    pub fn verify(&self, store: &Store, sources: &Sources, measure: bool) -> Result<Verified> {
        let (layers, mut measures) = self.scan(&sources.tars, measure)?;
        let devices = devices(&self.config.diff_ids, &layers);
        let scanned = layers.iter().map(|l| Scanned {
            size: l.size,
            dropped: l.dropped.clone(),
        });
        let scanned = scanned.collect();
        let merged = merge(layers)?;
        let mut hasher = HashWriter(Hasher::new(self.digest.algorithm()));
        let mut made = Measured::new(&mut hasher, measure);
        erofs::write(&merged, &devices, &mut made)?;
        let measure = made.finish();
        let tree_digest = hasher.0.finish();
        self.expect_tree(store, &sources.tree, tree_digest)?;
        if let Some(measure) = measure {
            measures.insert(0, measure);
            self.expect_annotations(tree_digest, &measures)?;
        }
        Ok(Verified {
            tree_digest,
            layers: scanned,
            merged,
            measures,
        })
    }

    /// Refuses a manifest whose verity annotations differ from the computed digests.
    fn expect_annotations(&self, tree: Digest, measures: &[Digest]) -> Result<()> {
        let Some(annotations) = self.verity_annotations()? else {
            return Ok(());
        };
        expect("tree image", annotations.tree, tree)?;
        let layers = self.config.diff_ids.iter().map(|id| format!("layer {id}"));
        let names = std::iter::once("tree image".to_string()).chain(layers);
        let pairs = annotations.measures.into_iter().zip(measures);
        names
            .zip(pairs)
            .try_for_each(|(name, (annotated, computed))| {
                expect(&format!("{name}, fs-verity"), annotated, *computed)
            })
    }

    fn expect_tree(&self, store: &Store, tree: &File, made: Digest) -> Result<()> {
        let what = self.tree_name(store);
        let stored = super::digest_of(tree, made.algorithm());
        match stored.context(|| format!("read({what})"))? {
            stored if stored == made => Ok(()),
            stored => Err(Error::digest(
                what,
                format_args!("hashes to {stored}; its layers give {made}"),
            )
            .hint(REPAIR)),
        }
    }
}

/// Function that returns the bytes of the document with a digest; the text names it in errors.
type Read<'a> = &'a dyn Fn(&str, &Digest) -> Result<Vec<u8>>;

fn load_config(read: Read<'_>, manifest: &Manifest) -> Result<Config> {
    let descriptor = &manifest.config;
    let bytes = read("config", &descriptor.digest)?;
    descriptor.expect_size("config", bytes.len() as u64)?;
    let what = format!("config {}", descriptor.digest);
    Config::parse(&what, &bytes, manifest.layers.len())
}

/// Reads a stored tar to its end and copies it to `copy`; fails unless it hashes to `diff_id`.
pub(super) fn scan_stored(
    file: &File,
    diff_id: &Digest,
    copy: Option<&mut dyn Write>,
) -> Result<Layer> {
    let what = format!("layer {diff_id}");
    let mut tee = Tee::new(file, diff_id.algorithm(), copy);
    let scanned = layer::scan(&mut tee, &layer::Limits::default());
    // Bytes with a wrong digest need not be a tar; the error names the digest, not the format.
    io::copy(&mut tee, &mut io::sink()).context(|| format!("read({what})"))?;
    diff_id
        .expect("layer", tee.finish().0)
        .map_err(|e| e.hint(REPAIR))?;
    scanned.map_err(|e| Error {
        what: format!("{what}: {}", e.what),
        ..e
    })
}

/// Refuses a manifest whose annotation differs from the digest of the bytes.
pub(super) fn expect(what: &str, annotated: Digest, computed: Digest) -> Result<()> {
    if annotated == computed {
        return Ok(());
    }
    let why = format_args!(
        "its verity annotation in the manifest is {annotated}, but its bytes give {computed}"
    );
    Err(Error::digest(what, why).hint("the annotation is wrong: bake the image again"))
}

/// Returns the entries of the tree image's device table, one per layer.
pub(super) fn devices(diff_ids: &[Digest], layers: &[Layer]) -> Vec<erofs::Device> {
    diff_ids
        .iter()
        .zip(layers)
        .map(|(digest, layer)| erofs::Device {
            digest: *digest,
            size: layer.size,
        })
        .collect()
}

/// Merges the layers and adds the runtime's own files.
pub(super) fn merge(layers: Vec<Layer>) -> Result<Tree> {
    let mut merged = tree::merge(layers)?;
    tree::synthesise(&mut merged)?;
    Ok(merged)
}

/// Writer that hashes the bytes.
struct HashWriter(Hasher);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
