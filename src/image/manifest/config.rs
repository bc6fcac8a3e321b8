//! Image config: platform, layers, and the defaults for the process.
//!
//! Source: OCI config.md. Docker writes the same members, with null for absent ones.

use super::{Platform, read_digest, read_json, read_text, read_texts};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::json::Node;
use std::collections::BTreeMap;

/// An image config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Platform of the image; the operating system is `linux`. A field is empty if the config omits
    /// it.
    pub platform: Platform,
    /// Digests of the uncompressed layer tars, lowest first.
    pub diff_ids: Vec<Digest>,
    /// Environment as `NAME=VALUE`, unchecked.
    pub env: Vec<String>,
    /// Executable and its first arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments, replaced by the caller's.
    pub cmd: Vec<String>,
    /// User as `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// Initial working directory.
    pub working_dir: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to end.
    pub stop_signal: Option<String>,
    /// Exposed ports as `PORT/PROTOCOL`; shown, but without effect.
    pub exposed_ports: Vec<String>,
    /// Volumes of the image; shown, but without effect.
    pub volumes: Vec<String>,
    /// True if there is a health check; shown, but without effect.
    pub healthcheck: bool,
    /// Creation time in RFC 3339, unchecked.
    pub created: Option<String>,
}

impl Config {
    /// Creates a config without any defaults for the process.
    pub(crate) fn new(platform: Platform, diff_ids: Vec<Digest>) -> Config {
        Config {
            platform,
            diff_ids,
            env: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            user: None,
            working_dir: None,
            labels: BTreeMap::new(),
            stop_signal: None,
            exposed_ports: Vec::new(),
            volumes: Vec::new(),
            healthcheck: false,
            created: None,
        }
    }

    /// Reads the config of an image whose manifest has this number of `layers`.
    pub fn parse(what: &str, bytes: &[u8], layers: usize) -> Result<Config> {
        let value = read_json(what, bytes)?;
        let root = Node::root(what, &value);
        let platform = Platform::of_config(&root)?;
        if !matches!(platform.os.as_str(), "linux" | "") {
            let why = format_args!("is an image for {platform}; imrun runs only linux images");
            return Err(Error::unsupported(what, why));
        }
        let mut config = Config::new(platform, read_diff_ids(&root, layers)?);
        config.created = read_text(&root, "created")?;
        if let Some(node) = root.get("config")? {
            config.read_execution(&node)?;
        }
        Ok(config)
    }

    /// Reads the member `config` of the config.
    fn read_execution(&mut self, node: &Node) -> Result<()> {
        self.env = read_texts(node, "Env")?;
        self.entrypoint = read_texts(node, "Entrypoint")?;
        // In Docker and Podman, `ENTRYPOINT [""]` removes the base image's entrypoint.
        if self.entrypoint == [""] {
            self.entrypoint.clear();
        }
        self.cmd = read_texts(node, "Cmd")?;
        self.user = read_text(node, "User")?;
        self.working_dir = read_text(node, "WorkingDir")?;
        self.labels = node
            .get("Labels")?
            .map_or(Ok(BTreeMap::new()), |node| node.text_map())?;
        self.stop_signal = read_text(node, "StopSignal")?;
        self.exposed_ports = read_keys(node, "ExposedPorts")?;
        self.volumes = read_keys(node, "Volumes")?;
        self.healthcheck = node.get("Healthcheck")?.is_some();
        Ok(())
    }

    /// Refuses an image that `platform` cannot run; `what` names the image.
    pub fn expect_platform(&self, what: &str, platform: &Platform) -> Result<()> {
        match platform.distance(&self.platform.or(platform)) {
            Some(_) => Ok(()),
            None => {
                let why = format_args!("is an image for {}, not for {platform}", self.platform);
                Err(Error::unsupported(what, why))
            }
        }
    }
}

impl Config {
    /// Returns the platform members that the config omits or leaves empty. Docker, Podman and
    /// containerd start such an image anyway.
    pub fn unnamed(&self) -> Option<&'static str> {
        match (
            self.platform.os.is_empty(),
            self.platform.architecture.is_empty(),
        ) {
            (true, true) => Some("`os` and `architecture`"),
            (true, false) => Some("`os`"),
            (false, true) => Some("`architecture`"),
            (false, false) => None,
        }
    }
}

fn read_diff_ids(root: &Node, layers: usize) -> Result<Vec<Digest>> {
    let rootfs = root.need("rootfs")?;
    if rootfs.need("type")?.text()? != "layers" {
        return Err(rootfs.error("has a `type` other than \"layers\""));
    }
    let diff_ids = match rootfs.get("diff_ids")? {
        Some(node) => node
            .list()?
            .iter()
            .map(read_digest)
            .collect::<Result<Vec<_>>>()?,
        None => Vec::new(),
    };
    if diff_ids.len() != layers {
        let why = format_args!(
            "has {} diff_ids, but its manifest has {layers} layers",
            diff_ids.len()
        );
        return Err(rootfs.error(why));
    }
    Ok(diff_ids)
}

fn read_keys(node: &Node, key: &str) -> Result<Vec<String>> {
    match node.get(key)? {
        Some(node) => Ok(node.object()?.keys().cloned().collect()),
        None => Ok(Vec::new()),
    }
}
