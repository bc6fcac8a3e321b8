//! The config and the manifest of a definition, in canonical JSON.

use super::Definition;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::image::manifest::{self, Config, Platform, VerityAnnotations};
use crate::runtime::env::Environment;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ffi::CString;

/// An uncompressed layer tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The tar's digest, which is its diff_id.
    pub digest: Digest,
    /// The tar's length in bytes.
    pub size: u64,
}

/// The base of an image.
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

/// Returns the image of `definition`: the layers of the base and its own `layer`.
///
/// `platform` applies to an image without a base; others have the base's platform. Health check and
/// history of the base are not copied. `base` must be given if the definition names one, and only then.
/// `annotations` cover the base's layers and the own one.
pub fn image(
    definition: &Definition,
    base: Option<Base>,
    platform: &Platform,
    layer: Layer,
    annotations: Option<&VerityAnnotations>,
) -> Result<Image> {
    if definition.base.is_some() != base.is_some() {
        return Err(Error::usage(
            "definition",
            "needs a base exactly if it names one",
        ));
    }
    let mut config = match base {
        Some(base) => base.config.clone(),
        None => Config::new(platform.clone(), Vec::new()),
    };
    let mut layers = base.map_or(Ok(Vec::new()), |base| base.layers())?;
    layers.push(layer);
    config.diff_ids.push(layer.digest);
    definition.apply(&mut config)?;
    let config = json::canonical(&config_json(&config)).into_bytes();
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| (layer.digest, layer.size))
        .collect();
    let described = (Digest::sha256(&config), config.len() as u64);
    let manifest = manifest::write(described, &layers, definition.base, annotations);
    Ok(Image { config, manifest })
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

impl Definition {
    /// Applies the definition's settings to the base's config.
    fn apply(&self, config: &mut Config) -> Result<()> {
        let mut environment = Environment::new();
        environment.add_image(&config.env)?;
        for (name, value) in &self.env {
            environment.set("definition", name.as_ref(), value.as_ref())?;
        }
        let entries = environment.to_strings().into_iter();
        let text = |entry: CString| entry.into_string().expect("all of it came from strings");
        config.env = entries.map(text).collect();
        config.labels.extend(self.labels.clone());
        if let Some(entrypoint) = &self.entrypoint {
            config.entrypoint.clone_from(entrypoint);
            // As in Docker: the base's arguments belong to another program.
            config.cmd.clear();
        }
        if let Some(cmd) = &self.cmd {
            config.cmd.clone_from(cmd);
        }
        let workdir = self.workdir.as_ref().map(|path| path.as_str().to_string());
        config.user = self.user.clone().or(config.user.take());
        config.working_dir = workdir.or(config.working_dir.take());
        config.stop_signal = self.stop_signal.clone().or(config.stop_signal.take());
        Ok(())
    }
}

/// Encodes the config in the form of the OCI specification, without empty members.
fn config_json(config: &Config) -> Value {
    let members = [
        ("Env", json!(config.env)),
        ("Entrypoint", json!(config.entrypoint)),
        ("Cmd", json!(config.cmd)),
        ("Labels", json!(config.labels)),
        ("User", json!(config.user)),
        ("WorkingDir", json!(config.working_dir)),
        ("StopSignal", json!(config.stop_signal)),
        ("ExposedPorts", set(&config.exposed_ports)),
        ("Volumes", set(&config.volumes)),
    ];
    let said = members.into_iter().filter(|(_, value)| !is_empty(value));
    let execution: Map<_, _> = said.map(|(key, value)| (key.to_string(), value)).collect();
    let mut document = json!({
        "os": config.platform.os,
        "architecture": config.platform.architecture,
        "config": execution,
        "rootfs": {"type": "layers", "diff_ids": config.diff_ids},
    });
    if let Some(variant) = &config.platform.variant {
        document["variant"] = variant.as_str().into();
    }
    document
}

/// Encodes a set as Go does: an object of empty objects.
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
