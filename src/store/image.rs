//! One image of the store: the chain from its digest to the bytes of its layers.

use super::Store;
use crate::digest::{Digest, Hasher};
use crate::error::{Context, Error, Reason, Result};
use crate::layer::{self, Dropped, Layer, Tee};
use crate::manifest::{Config, Document, MAX_INDEX_DEPTH, Manifest, Platform, Seal};
use crate::parallel::in_parallel;
use crate::tree::Tree;
use crate::verity::Measured;
use crate::{erofs, tree};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};

const REPAIR: &str = "pull, import or bake the same image again: that repairs it";

/// An image whose documents were hashed and then parsed.
pub struct Image {
    /// The manifest's digest.
    pub digest: Digest,
    /// Which config and layers.
    pub manifest: Manifest,
    /// What the image says of itself.
    pub config: Config,
    /// The indexes that led to the manifest, the outermost first.
    pub indexes: Vec<Digest>,
}

/// An image's files, open for reading: mounted, they are what was read, whatever happens to their
/// names.
pub struct Sources {
    /// The tree image.
    pub tree: File,
    /// The layers' tars, in the order of the device table.
    pub tars: Vec<File>,
}

/// What is known of an image whose layers and tree image were hashed.
pub struct Verified {
    /// The digest of the tree image.
    pub tree_digest: Digest,
    /// What the layers' scan found, in their order.
    pub layers: Vec<Scanned>,
    /// The merged tree.
    pub merged: Tree,
    /// fs-verity's digests of the bytes that were hashed, the tree image's first; none unless they were
    /// asked for.
    pub measures: Vec<Digest>,
}

/// What is known of a layer once it was read.
pub struct Scanned {
    /// Bytes of its tar.
    pub size: u64,
    /// What it has and the tree has not.
    pub dropped: Dropped,
}

impl Image {
    /// Follows a digest to the image it names, on this host's platform if it names an index.
    pub fn load(store: &Store, digest: &Digest) -> Result<Image> {
        Self::load_by(digest, &|what, digest| store.read_document(what, digest))
    }

    /// Whether the store has all files of an image, whatever is in them.
    pub fn is_there(store: &Store, digest: &Digest) -> Result<bool> {
        let missing = Cell::new(false);
        let loaded = Self::load_by(digest, &|what, digest| {
            missing.set(missing.get() || !store.has(digest));
            store.read_document(what, digest)
        });
        match loaded {
            _ if missing.get() => Ok(false),
            Ok(image) => Ok(image.config.diff_ids.iter().all(|id| store.has(id))
                && store.tree_path(&image.tree_identity()).exists()),
            // It is there, and damaged: the launch says so.
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
            format_args!("leads through more than {MAX_INDEX_DEPTH} indexes"),
        ))
    }

    /// Refuses an image for another platform than this host's: it can be kept, but not run.
    pub fn expect_host(&self) -> Result<()> {
        let what = format!("config {}", self.manifest.config.digest);
        self.config.expect_platform(&what, &Platform::host())
    }

    /// The digest that names the image's tree image in the store.
    pub fn tree_identity(&self) -> Digest {
        erofs::identity(&self.config.diff_ids)
    }

    /// What the manifest is sealed with, where that is of any use here.
    pub fn seal(&self) -> Result<Option<Seal>> {
        // An image that is named by another algorithm has its tree image hashed by that.
        let algorithm = self.digest.algorithm();
        let seal = self.manifest.seal()?;
        Ok(seal.filter(|seal| seal.tree.algorithm() == algorithm))
    }

    /// Opens the layers' tars; their bytes are not verified yet.
    pub fn open_layers(&self, store: &Store) -> Result<Vec<File>> {
        let diff_ids = self.config.diff_ids.iter();
        diff_ids.map(|id| store.open_blob("layer", id)).collect()
    }

    /// Opens the layers' tars and the tree image; their bytes are not verified yet.
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

    /// Hashes every layer and reads its entries, in parallel; the files are at their beginning.
    ///
    /// With `measure`, fs-verity's digests of the bytes that were hashed are there, too.
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

    /// Hashes every layer, makes the tree image again from them, and compares it with `sources`'.
    ///
    /// With `measure`, fs-verity's digests are computed from the same bytes, and the manifest's seal
    /// must have the same; it takes as long again.
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
            self.expect_seal(tree_digest, &measures)?;
        }
        Ok(Verified {
            tree_digest,
            layers: scanned,
            merged,
            measures,
        })
    }

    /// Refuses a manifest whose seal is not what was computed of the bytes.
    fn expect_seal(&self, tree: Digest, measures: &[Digest]) -> Result<()> {
        let Some(seal) = self.seal()? else {
            return Ok(());
        };
        expect("tree image", seal.tree, tree)?;
        let layers = self.config.diff_ids.iter().map(|id| format!("layer {id}"));
        let names = std::iter::once("tree image".to_string()).chain(layers);
        let pairs = seal.measures.into_iter().zip(measures);
        names.zip(pairs).try_for_each(|(name, (sealed, computed))| {
            expect(&format!("{name}, fs-verity"), sealed, *computed)
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

/// The bytes of a document that have its digest; the text names it in errors.
type Read<'a> = &'a dyn Fn(&str, &Digest) -> Result<Vec<u8>>;

fn load_config(read: Read<'_>, manifest: &Manifest) -> Result<Config> {
    let descriptor = &manifest.config;
    let bytes = read("config", &descriptor.digest)?;
    descriptor.expect_size("config", bytes.len() as u64)?;
    let what = format!("config {}", descriptor.digest);
    Config::parse(&what, &bytes, manifest.layers.len())
}

/// Reads a stored tar to its end: refused unless it hashes to `diff_id`. `copy` is given its bytes.
pub(super) fn scan_stored(
    file: &File,
    diff_id: &Digest,
    copy: Option<&mut dyn Write>,
) -> Result<Layer> {
    let what = format!("layer {diff_id}");
    let mut tee = Tee::new(file, diff_id.algorithm(), copy);
    let scanned = layer::scan(&mut tee, &layer::Limits::default());
    // Bytes that are not the layer's need not be a tar: what is wrong with them is their digest.
    io::copy(&mut tee, &mut io::sink()).context(|| format!("read({what})"))?;
    diff_id
        .expect("layer", tee.finish().0)
        .map_err(|e| e.hint(REPAIR))?;
    scanned.map_err(|e| Error {
        what: format!("{what}: {}", e.what),
        ..e
    })
}

/// Refuses a manifest that is sealed with another digest than the one of the bytes themselves.
pub(super) fn expect(what: &str, sealed: Digest, computed: Digest) -> Result<()> {
    if sealed == computed {
        return Ok(());
    }
    let why = format_args!("the manifest is sealed with {sealed}, the bytes give {computed}");
    Err(Error::digest(what, why).hint("the seal is false: bake the image again"))
}

/// What the tree image's device table says of each layer.
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

/// The merged tree with what the runtime owns in it.
pub(super) fn merge(layers: Vec<Layer>) -> Result<Tree> {
    let mut merged = tree::merge(layers)?;
    tree::synthesise(&mut merged)?;
    Ok(merged)
}

/// Hashes what is written to it.
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
