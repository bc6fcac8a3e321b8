//! Merges layers into one tree.
//!
//! Source: OCI image specification 1.1, layer.md, "Applying Changesets"; for cases it does not
//! cover, the behaviour of containerd and Docker.

use super::resolve::{Resolution, Stop};
use super::{Content, Dirent, Inode, InodeId, Tree};
use crate::base::error::{Error, Result};
use crate::image::layer::{Entry, Kind, Layer, Meta, split};

/// Maximum depth of directories. Through symlinks, a tree could otherwise be deeper than the longest path.
const DEPTH: usize = 2048;
/// Maximum number of entries in all layers, and of inodes in a tree: one long name creates two
/// thousand parents.
const INODES: usize = 1 << 22;

/// Merges an image's layers, lowest first. Errors name the layer, from 0, and the path.
pub fn merge(layers: impl IntoIterator<Item = Layer>) -> Result<Tree> {
    let mut merger = Merger {
        tree: Tree::new(),
        layer: 0,
        recent: None,
    };
    let (mut devices, mut entries) = (0, 0);
    for (index, layer) in layers.into_iter().enumerate() {
        merger.layer = u16::try_from(index)
            .map_err(|_| Error::policy("image", "it has more than 65,536 layers"))?;
        devices += layer.dropped.devices;
        entries += layer.entries.len();
        if entries > INODES {
            return Err(Error::policy(
                "image",
                format_args!("it has more than {INODES} entries"),
            ));
        }
        merger.apply(layer)?;
    }
    let mut tree = merger.tree;
    tree.check_mount_points()?;
    if devices > 0 {
        tree.drop_devices();
    }
    Ok(tree)
}

struct Merger {
    tree: Tree,
    layer: u16,
    /// Last resolved parent: most entries have the same parent as the one before. Added names cannot
    /// change its meaning; a replaced or removed name clears it.
    recent: Option<(Box<[u8]>, InodeId)>,
}

impl Merger {
    fn apply(&mut self, layer: Layer) -> Result<()> {
        self.hide(&layer.entries)
            .map_err(|e| e.about(format_args!("layer {}", self.layer)))?;
        self.recent = None;
        for entry in layer.entries {
            let Entry { path, meta, kind } = entry;
            self.insert(&path, meta, kind).map_err(|mut error| {
                error.what = format!("layer {}: {}", self.layer, String::from_utf8_lossy(&path));
                error
            })?;
        }
        Ok(())
    }

    /// Applies whiteouts and opaque markers before any entry: they affect only the layers below.
    fn hide(&mut self, entries: &[Entry]) -> Result<()> {
        for Entry { path, kind, .. } in entries {
            match kind {
                Kind::Opaque => {
                    if let Some(directory) = self.hiding(path)? {
                        self.tree.clear(directory);
                    }
                }
                Kind::Whiteout => {
                    let (parent, name) = split(path);
                    if let Some(directory) = self.hiding(parent)? {
                        self.tree.remove(directory, name);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the lower directory that contains a marker. As for any entry, a file or symlink of a lower
    /// layer in its path is replaced with a directory.
    fn hiding(&mut self, path: &[u8]) -> Result<Option<InodeId>> {
        let mut directory = InodeId::ROOT;
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            let Some(entry) = self.tree.child(directory, name) else {
                return Ok(None);
            };
            if self.tree.children(entry.inode).is_none() {
                self.recent = None;
                self.parent(path)?;
                return Ok(None);
            }
            directory = entry.inode;
        }
        Ok(Some(directory))
    }

    fn insert(&mut self, path: &[u8], meta: Meta, kind: Kind) -> Result<()> {
        let layer = self.layer;
        let content = match kind {
            Kind::Whiteout | Kind::Opaque => return Ok(()),
            Kind::Directory => return self.insert_directory(path, meta),
            Kind::HardLink(target) => return self.insert_link(path, &target),
            Kind::File { size, offset } => Content::File {
                layer,
                size,
                offset,
            },
            Kind::Sparse(file) => Content::Sparse { layer, file },
            Kind::Symlink(target) => Content::Symlink(target),
            Kind::Fifo => Content::Fifo,
            Kind::Device => Content::Dropped,
        };
        let (parent, name) = split(path);
        let parent = self.parent(parent)?;
        self.insert_inode(parent, name, Inode::new(meta, content))?;
        Ok(())
    }

    /// Inserts a directory. Over a directory, it replaces only the attributes; over anything else, the inode.
    fn insert_directory(&mut self, path: &[u8], meta: Meta) -> Result<()> {
        let layer = Some(self.layer);
        if path.is_empty() {
            self.tree.root.layer = layer;
            self.tree.inodes[InodeId::ROOT.index()].meta = meta;
            return Ok(());
        }
        let (parent, name) = split(path);
        let parent = self.parent(parent)?;
        let inode = match self.tree.child(parent, name) {
            Some(entry) if self.tree.children(entry.inode).is_some() => {
                if let Content::Directory(children) = &mut self.tree.inodes[parent.index()].content
                    && let Some(entry) = children.get_mut(name)
                {
                    entry.layer = layer;
                }
                entry.inode
            }
            _ => self.insert_inode(parent, name, Inode::directory())?.inode,
        };
        self.tree.inodes[inode.index()].meta = meta;
        Ok(())
    }

    /// Adds a name for an inode of the merged tree. The link's own attributes are ignored: the inode's
    /// first entry has set them.
    fn insert_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let (parent, name) = split(path);
        let parent = self.parent(parent)?;
        let shown = String::from_utf8_lossy(target);
        let Some(entry) = self.tree.lookup(target, false) else {
            return Err(refuse(format_args!(
                "a hard link to {shown}, which does not exist"
            )));
        };
        match self.tree.inode(entry.inode).content {
            Content::Directory(_) => {
                return Err(refuse(format_args!("a hard link to {shown}, a directory")));
            }
            Content::Dropped => self.tree.dropped_links += 1,
            _ => {}
        }
        self.put(parent, name, entry.inode);
        Ok(())
    }

    fn insert_inode(&mut self, parent: InodeId, name: &[u8], inode: Inode) -> Result<Dirent> {
        if self.tree.capacity() >= INODES {
            return Err(Error::policy(
                "",
                format_args!("the image has more than {INODES} inodes"),
            ));
        }
        let inode = self.tree.add(inode);
        Ok(self.put(parent, name, inode))
    }

    fn put(&mut self, parent: InodeId, name: &[u8], inode: InodeId) -> Dirent {
        if self.tree.child(parent, name).is_some() {
            self.recent = None;
        }
        let entry = Dirent {
            inode,
            layer: Some(self.layer),
        };
        self.tree.put(parent, name, entry);
        entry
    }

    /// Returns the directory of an entry. It follows the layer's own symlinks inside the root, creates
    /// missing directories, and replaces files and symlinks of lower layers, as under overlayfs.
    fn parent(&mut self, path: &[u8]) -> Result<InodeId> {
        if let Some((recent, inode)) = &self.recent
            && **recent == *path
        {
            return Ok(*inode);
        }
        let mut way = Resolution::of_layer(&self.tree, path, self.layer);
        loop {
            let name = match way.advance(&self.tree) {
                Stop::End => break,
                Stop::Missing(name) => name,
                Stop::Blocked(_, entry) if entry.layer == Some(self.layer) => {
                    return Err(refuse("its parent is a file of the same layer"));
                }
                Stop::Blocked(name, _) => name,
                Stop::Loop => return Err(refuse("more than 40 symlinks lead to its parent")),
            };
            if way.depth() > DEPTH {
                return Err(Error::policy(
                    "",
                    format_args!("more than {DEPTH} directories deep"),
                ));
            }
            let directory = way.directory().inode;
            way.enter(self.insert_inode(directory, way.name(name), Inode::directory())?);
        }
        let inode = way.directory().inode;
        self.recent = Some((path.into(), inode));
        Ok(inode)
    }
}

impl Tree {
    /// Checks the directories that the runtime mounts over; a symlink would redirect the mount.
    fn check_mount_points(&self) -> Result<()> {
        for name in ["dev", "proc", "sys"] {
            if let Some(entry) = self.child(InodeId::ROOT, name.as_bytes())
                && self.children(entry.inode).is_none()
            {
                return Err(Error::policy(
                    format_args!("/{name}"),
                    "it is not a directory in the image",
                ));
            }
        }
        Ok(())
    }

    /// Removes all names of devices.
    fn drop_devices(&mut self) {
        let dropped: Vec<bool> = self
            .inodes
            .iter()
            .map(|inode| matches!(inode.content, Content::Dropped))
            .collect();
        for inode in &mut self.inodes {
            if let Content::Directory(children) = &mut inode.content {
                children.retain(|_, entry| !dropped[entry.inode.index()]);
            }
        }
    }
}

fn refuse(why: impl std::fmt::Display) -> Error {
    Error::digest("", why)
}
