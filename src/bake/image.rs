//! The config and the manifest of a definition, in canonical JSON.

use super::Definition;
use crate::digest::Digest;
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::json;
use crate::manifest::{Config, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Platform};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Says which manifest an image was made from (OCI annotations.md).
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// An uncompressed layer tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The tar's digest, which is its diff_id.
    pub digest: Digest,
    /// The tar's length in bytes.
    pub size: u64,
}

/// What the image stands on.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// The base's config.
    pub config: &'a Config,
    /// The lengths of the base's uncompressed layer tars, lowest first.
    pub sizes: &'a [u64],
}

/// An image's documents; the manifest's digest is the image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image config, JSON.
    pub config: Vec<u8>,
    /// The image manifest, JSON.
    pub manifest: Vec<u8>,
}

/// The image of `definition` with its own `layer` on top of the base's.
///
/// `platform` is what an image without a base runs on; one with a base runs on the base's.
/// Health checks and histories of a base are not taken over.
pub fn image(
    definition: &Definition,
    base: Option<Base>,
    platform: &Platform,
    layer: Layer,
) -> Result<Image> {
    let mut layers = match base {
        Some(base) => base.layers()?,
        None => Vec::new(),
    };
    layers.push(layer);
    let config = config(definition, base.map(|base| base.config), platform, &layers)?;
    let config = json::canonical(&config).into_bytes();
    let manifest = manifest(definition, &config, &layers);
    Ok(Image {
        config,
        manifest: json::canonical(&manifest).into_bytes(),
    })
}

impl Base<'_> {
    fn layers(&self) -> Result<Vec<Layer>> {
        let diff_ids = &self.config.diff_ids;
        if diff_ids.len() != self.sizes.len() {
            let why = format_args!(
                "has {} diff_ids and {} layer sizes",
                diff_ids.len(),
                self.sizes.len()
            );
            return Err(Error::digest("base", why));
        }
        let layers = diff_ids.iter().zip(self.sizes);
        Ok(layers
            .map(|(&digest, &size)| Layer { digest, size })
            .collect())
    }
}

fn config(
    definition: &Definition,
    base: Option<&Config>,
    platform: &Platform,
    layers: &[Layer],
) -> Result<Value> {
    let platform = base.map_or(platform, |base| &base.platform);
    let mut config = json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "config": execution(definition, base)?,
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| layer.digest).collect::<Vec<_>>()},
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = variant.as_str().into();
    }
    Ok(config)
}

/// The member `config` of the config: the base's, and the definition's over it.
fn execution(definition: &Definition, base: Option<&Config>) -> Result<Map<String, Value>> {
    let base_cmd = match definition.entrypoint {
        // As Docker has it: arguments meant for another program are of no use.
        Some(_) => None,
        None => base.map(|base| &base.cmd),
    };
    let base_text =
        |pick: fn(&Config) -> &Option<String>| base.and_then(|base| pick(base).as_ref());
    let workdir = definition.workdir.as_ref().map(|path| path.as_str());
    let mut labels = base.map(|base| base.labels.clone()).unwrap_or_default();
    labels.extend(definition.labels.clone());
    let members = [
        ("Env", json!(environment(definition, base)?)),
        (
            "Entrypoint",
            json!(
                definition
                    .entrypoint
                    .as_ref()
                    .or(base.map(|base| &base.entrypoint))
            ),
        ),
        ("Cmd", json!(definition.cmd.as_ref().or(base_cmd))),
        ("Labels", json!(labels)),
        (
            "User",
            json!(definition.user.as_ref().or(base_text(|base| &base.user))),
        ),
        (
            "WorkingDir",
            json!(workdir.or(base_text(|base| &base.working_dir).map(String::as_str))),
        ),
        (
            "StopSignal",
            json!(
                definition
                    .stop_signal
                    .as_ref()
                    .or(base_text(|base| &base.stop_signal))
            ),
        ),
        (
            "ExposedPorts",
            base.map_or(Value::Null, |base| set(&base.exposed_ports)),
        ),
        (
            "Volumes",
            base.map_or(Value::Null, |base| set(&base.volumes)),
        ),
    ];
    let said = members.into_iter().filter(|(_, value)| !is_empty(value));
    Ok(said.map(|(key, value)| (key.to_string(), value)).collect())
}

fn environment(definition: &Definition, base: Option<&Config>) -> Result<Vec<String>> {
    let mut environment = Environment::new();
    environment.add_image(base.map_or(&[], |base| &base.env))?;
    for (name, value) in &definition.env {
        environment.set("definition", name.as_ref(), value.as_ref())?;
    }
    let entries = environment.to_strings().into_iter();
    Ok(entries
        .map(|entry| entry.into_string().expect("all of it came from strings"))
        .collect())
}

/// A set as Go writes it: an object of empty objects.
fn set(keys: &[String]) -> Value {
    json!(
        keys.iter()
            .map(|key| (key, json!({})))
            .collect::<BTreeMap<_, _>>()
    )
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

fn manifest(definition: &Definition, config: &[u8], layers: &[Layer]) -> Value {
    let descriptor = |media_type: &str, digest: Digest, size: u64| json!({"mediaType": media_type, "digest": digest, "size": size});
    let layers = layers
        .iter()
        .map(|layer| descriptor(OCI_LAYER, layer.digest, layer.size));
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, Digest::sha256(config), config.len() as u64),
        "layers": layers.collect::<Vec<_>>(),
    });
    if let Some(base) = definition.base {
        manifest["annotations"] = json!({BASE_DIGEST: base});
    }
    manifest
}
