//! OCI layouts and `docker save` directories, made by hand: right, or wrong in one place.

use imrun::base::digest::{Algorithm, Digest};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A layout's directory.
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// A layout without images.
    pub fn new(path: PathBuf) -> Layout {
        for algorithm in ["sha256", "sha512"] {
            fs::create_dir_all(path.join("blobs").join(algorithm)).unwrap();
        }
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name for `imrun import`.
    pub fn source(&self) -> String {
        format!("oci:{}", self.path.display())
    }

    /// Where the blob of a descriptor is.
    pub fn blob(&self, descriptor: &Value) -> PathBuf {
        self.path
            .join("blobs")
            .join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
    }

    /// Adds a blob; its descriptor.
    pub fn add(&self, media_type: &str, bytes: &[u8]) -> Value {
        self.add_hashed(Algorithm::Sha256, media_type, bytes)
    }

    /// Adds a blob that is named by that algorithm; its descriptor.
    pub fn add_hashed(&self, algorithm: Algorithm, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(algorithm, bytes);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        fs::write(self.blob(&descriptor), bytes).unwrap();
        descriptor
    }

    /// Adds a document; its descriptor.
    pub fn add_json(&self, media_type: &str, document: &Value) -> Value {
        self.add(media_type, document.to_string().as_bytes())
    }

    /// Adds a layer; its descriptor.
    pub fn add_layer(&self, tar: &[u8], packing: Packing) -> Value {
        match packing {
            Packing::Plain => self.add(LAYER, tar),
            Packing::Gzip => self.add(&format!("{LAYER}+gzip"), &gzip(tar)),
            Packing::Zstd => self.add(&format!("{LAYER}+zstd"), &zstd::encode_all(tar, 1).unwrap()),
        }
    }

    /// Adds an image of these layers; its manifest's descriptor.
    pub fn add_image(&self, tars: &[&[u8]], packing: Packing) -> Value {
        let layers: Vec<_> = tars
            .iter()
            .map(|tar| self.add_layer(tar, packing))
            .collect();
        let config = self.add_json(CONFIG, &config(tars));
        self.add_manifest(&config, &layers)
    }

    /// Adds a manifest; its descriptor.
    pub fn add_manifest(&self, config: &Value, layers: &[Value]) -> Value {
        self.add_json(MANIFEST, &manifest(config, layers))
    }

    /// Adds an index; its descriptor.
    pub fn add_index(&self, entries: &[Value]) -> Value {
        self.add_json(INDEX, &index(entries))
    }

    /// Writes `index.json`.
    pub fn publish(&self, entries: &[Value]) {
        fs::write(self.path.join("index.json"), index(entries).to_string()).unwrap();
    }

    /// Adds an image and publishes it alone; its manifest's descriptor.
    pub fn publish_image(&self, tars: &[&[u8]], packing: Packing) -> Value {
        let manifest = self.add_image(tars, packing);
        self.publish(std::slice::from_ref(&manifest));
        manifest
    }

    /// All of it as a tar archive.
    pub fn archive(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_dir_all(".", &self.path).unwrap();
        tar.into_inner().unwrap()
    }
}

/// The config of an image of these layers, for this host.
pub fn config(tars: &[&[u8]]) -> Value {
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::sha256(tar)).collect();
    let host = imrun::image::manifest::Platform::host();
    json!({
        "os": host.os,
        "architecture": host.architecture,
        "config": { "Cmd": ["/busybox", "echo", "ran"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

pub fn manifest(config: &Value, layers: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers })
}

pub fn index(entries: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries })
}

/// A layer with a program in it: an image of it prints `ran`.
pub fn program() -> Vec<u8> {
    tar(&[("busybox", fs::read(super::host::BUSYBOX).unwrap())])
}

/// The descriptor with a ref's name.
pub fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

/// The descriptor with a platform.
pub fn on(mut descriptor: Value, os: &str, architecture: &str) -> Value {
    descriptor["platform"] = json!({ "os": os, "architecture": architecture });
    descriptor
}

/// A tar of files, by their paths and contents.
pub fn tar<T: AsRef<[u8]>>(files: &[(&str, T)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.as_ref().len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, bytes.as_ref()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
