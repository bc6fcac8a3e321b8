//! Baking into the store: a definition's layer, documents and tree image.

use super::{Base, Definition, Layer, MAX_DEFINITION, image};
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::image::layer::{Limits, Tee, scan};
use crate::image::manifest::{Platform, VerityAnnotations};
use crate::image::tree::Tree;
use crate::image::verity::Measured;
use crate::store::Store;
use crate::store::commit::{NewImage, add_tree, commit};
use crate::store::image::Image;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;

/// Bakes the definition in `file`. Returns the manifest's digest.
///
/// The sources are read once, into the store; later changes have no effect. With `verity` the manifest
/// contains verity annotations: the fs-verity digests of the image's files, computed from the bytes that
/// are hashed here.
pub fn into_store(
    store: &Store,
    file: &Path,
    name: Option<String>,
    verity: bool,
) -> Result<Digest> {
    let definition = read(file)?;
    store.create()?;
    let _lock = store.lock_shared()?;
    let base = definition
        .base
        .map(|digest| Image::load(store, &digest))
        .transpose()?;
    let (mut diff_ids, mut layers, mut measures) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(base) = &base {
        (layers, measures) = base.scan(&base.open_layers(store)?, verity)?;
        diff_ids.clone_from(&base.config.diff_ids);
    }
    let sizes: Vec<_> = layers.iter().map(|layer| layer.size).collect();
    let base = base.as_ref().map(|base| Base {
        config: &base.config,
        sizes: &sizes,
    });

    let directory = file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let below = match &definition.base {
        Some(_) => Some(crate::image::tree::merge(layers.clone())?),
        None => None,
    };
    let (digest, layer, measure) =
        add_layer(store, &definition, directory, below.as_ref(), verity)?;
    let own = Layer {
        digest,
        size: layer.size,
    };
    diff_ids.push(digest);
    layers.push(layer);
    measures.extend(measure);
    let tree = add_tree(store, &diff_ids, layers)?;
    measures.insert(0, tree.measure);
    let verity = verity.then_some(VerityAnnotations {
        tree: tree.digest,
        measures,
    });
    let documents = image(&definition, base, &Platform::host(), own, verity.as_ref())?;

    let manifest = Digest::sha256(&documents.manifest);
    let documents = [documents.config, documents.manifest];
    let documents = documents
        .map(|bytes| (Digest::sha256(&bytes), bytes))
        .to_vec();
    let names = vec![name.unwrap_or_else(|| manifest.to_string())];
    commit(
        store,
        NewImage {
            digest: manifest,
            documents,
            diff_ids,
            names,
        },
    )?;
    Ok(manifest)
}

fn read(file: &Path) -> Result<Definition> {
    let bytes = files::read(file, MAX_DEFINITION as u64)?;
    let text =
        String::from_utf8(bytes).map_err(|_| Error::usage(file.display(), "is not UTF-8"))?;
    Definition::parse(&file.display().to_string(), &text)
}

fn add_layer(
    store: &Store,
    definition: &Definition,
    directory: &Path,
    base: Option<&Tree>,
    measure: bool,
) -> Result<(Digest, crate::image::layer::Layer, Option<Digest>)> {
    let mut new = store.new_file()?;
    let mut out = BufWriter::new(&new.file);
    definition.layer(directory, base, &mut out)?;
    out.flush().context(|| "write(layer)")?;
    drop(out);
    new.file.rewind().context(|| "lseek(layer)")?;
    let mut measured = Measured::new(std::io::sink(), measure);
    let mut tee = Tee::new(&mut new.file, Algorithm::Sha256, Some(&mut measured));
    let layer = scan(&mut tee, &Limits::default())?;
    let (digest, _) = tee.finish();
    new.link(&store.blob_path(&digest))?;
    Ok((digest, layer, measured.finish()))
}
