//! Imports a root filesystem: makes an image of one layer from a plain tar.

use super::Store;
use super::commit::{NewImage, add_tree, commit};
use super::source::{STDIN, decompress, open_archive, standard_input};
use crate::base::digest::{Algorithm, Digest};
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::image::layer::{self, Layer, Limits, Tee};
use crate::image::manifest::{self, Platform};
use serde_json::{Map, json};
use std::io::{Read, Write};
use std::path::Path;

/// Stores the image of a root filesystem's tar (`-` for standard input). Returns the manifest's digest.
///
/// The same tar has the same digest for a platform, regardless of the host.
pub fn import(
    store: &Store,
    path: &Path,
    platform: &Platform,
    name: Option<String>,
) -> Result<Digest> {
    let (what, file) = if path.as_os_str() == "-" {
        (STDIN.to_string(), standard_input()?)
    } else {
        (path.display().to_string(), open_archive(path)?)
    };
    if path.is_dir() {
        let hint = format!("tar -C {what} -c . | imrun import rootfs:-");
        return Err(Error::usage(what, "is a directory, not a tar").hint(hint));
    }
    let lock = store.lock_shared()?;
    let (diff_id, layer) = add_layer(store, &what, decompress(&what, file)?)?;
    let size = layer.size;
    if let Err(error) = add_tree(store, &[diff_id], vec![layer]) {
        drop(lock);
        store.discard(&[diff_id]);
        return Err(error);
    }
    let config = config(diff_id, platform);
    let config = (Digest::sha256(&config), config);
    let described = (config.0, config.1.len() as u64);
    let manifest = manifest::write(described, &[(diff_id, size)], None, None);
    let digest = Digest::sha256(&manifest);
    let image = NewImage {
        digest,
        documents: vec![(digest, manifest), config],
        diff_ids: vec![diff_id],
        names: vec![name.unwrap_or_else(|| digest.to_string())],
    };
    commit(store, image)?;
    Ok(digest)
}

/// Stores the tar while it is read. The tar must have its end blocks: without them, a program that
/// ended too early at the other end of a pipe would go unnoticed.
fn add_layer(store: &Store, what: &str, tar: impl Read) -> Result<(Digest, Layer)> {
    let new = store.new_file()?;
    let mut file = &new.file;
    let mut tee = Tee::new(tar, Algorithm::Sha256, Some(&mut file as &mut dyn Write));
    let limits = Limits {
        end_blocks: true,
        ..Limits::default()
    };
    let layer = layer::scan(&mut tee, &limits).map_err(|e| Error {
        what: format!("{what}: {}", e.what),
        ..e
    })?;
    let of_images = |path: &[u8]| matches!(path, b"oci-layout" | b"manifest.json");
    if layer.entries.iter().any(|entry| of_images(&entry.path)) {
        let why = "is an archive of images, not a root filesystem";
        return Err(
            Error::usage(what, why).hint("imrun import oci-archive:FILE or docker-archive:FILE")
        );
    }
    let (digest, _) = tee.finish();
    let path = store.blob_path(&digest);
    new.link(&path)?;
    Ok((digest, layer))
}

/// Returns the config: creator and platform, without defaults for the process.
fn config(diff_id: Digest, platform: &Platform) -> Vec<u8> {
    let mut config = Map::new();
    config.insert("os".into(), json!(platform.os));
    config.insert("architecture".into(), json!(platform.architecture));
    if let Some(variant) = &platform.variant {
        config.insert("variant".into(), json!(variant));
    }
    let labels = json!({ "dev.imrun.source": "root filesystem" });
    config.insert("config".into(), json!({ "Labels": labels }));
    config.insert(
        "rootfs".into(),
        json!({ "type": "layers", "diff_ids": [diff_id] }),
    );
    let history = json!([{ "created_by": "imrun import rootfs", "comment": "one layer, from a root filesystem's tar" }]);
    config.insert("history".into(), history);
    json::canonical(&config.into()).into_bytes()
}
