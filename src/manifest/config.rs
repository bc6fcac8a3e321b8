//! The image config: what the image is, and how it wants to be started.
//!
//! Source: OCI config.md; Docker writes the same members, and null for what is absent.

use super::{Platform, read_digest, read_json, read_text, read_texts};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::json::Node;
use std::collections::BTreeMap;

/// An image config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the image runs on; the operating system is `linux`. A text is empty where the config
    /// leaves it out.
    pub platform: Platform,
    /// The digests of the uncompressed layer tars, lowest first.
    pub diff_ids: Vec<Digest>,
    /// `NAME=VALUE`, unchecked.
    pub env: Vec<String>,
    /// What is executed, with its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments that the caller's replace.
    pub cmd: Vec<String>,
    /// `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// The directory to start in.
    pub working_dir: Option<String>,
    /// Notes, and what the image declares of itself.
    pub labels: BTreeMap<String, String>,
    /// What asks the app to end.
    pub stop_signal: Option<String>,
    /// `PORT/PROTOCOL`; shown, and changes nothing.
    pub exposed_ports: Vec<String>,
    /// Paths that the image would like to write; shown, and changes nothing.
    pub volumes: Vec<String>,
    /// Whether there is a health check; shown, and changes nothing.
    pub healthcheck: bool,
    /// When it was made, RFC 3339, unchecked.
    pub created: Option<String>,
}

impl Config {
    /// One that says nothing of how to start the image.
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

    /// Reads the config of an image whose manifest has that many `layers`.
    pub fn parse(what: &str, bytes: &[u8], layers: usize) -> Result<Config> {
        let value = read_json(what, bytes)?;
        let root = Node::root(what, &value);
        let platform = Platform::of_config(&root)?;
        if !matches!(platform.os.as_str(), "linux" | "") {
            let why = format_args!("is an image for {platform}; imrun runs linux images only");
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
        // `ENTRYPOINT [""]` takes the base image's entrypoint away, for Docker and Podman.
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
    /// The members that say what the image runs on, and that it lacks or has empty. Docker, Podman
    /// and containerd start such an image all the same.
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
        return Err(rootfs.error("has a `type` that is not \"layers\""));
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
            "has {} diff_ids for the {layers} layers of its manifest",
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
