//! Files of the runtime, which every tree gets regardless of the image.

use super::resolve::{Resolution, Stop};
use super::{Content, Dirent, Inode, InodeId, Tree};
use crate::base::error::{Error, Result};
use crate::image::layer::Meta;

/// Character devices: name, major, minor (Linux, Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Files in `/etc` that the host's files may be bind-mounted over.
const PLACEHOLDERS: [&str; 3] = ["resolv.conf", "hosts", "hostname"];

/// Adds the mount points `/proc`, `/sys` and `/sys/fs/cgroup`; a `/dev` with the devices of every
/// container and nothing else; and empty `/etc/resolv.conf`, `hosts` and `hostname` if the image lacks
/// the file. All of them belong to 0:0 and have mtime 0.
///
/// # Errors
/// `/etc` is a symlink loop.
pub fn synthesise(tree: &mut Tree) -> Result<()> {
    tree.mount_point(&["proc"]);
    tree.mount_point(&["sys", "fs", "cgroup"]);
    tree.devices();
    let etc = tree.own_directory("etc")?;
    for name in PLACEHOLDERS {
        let present = tree.lookup(&[b"etc/", name.as_bytes()].concat(), true);
        let is_file = |entry: Dirent| {
            matches!(
                tree.inode(entry.inode).content,
                Content::File { .. } | Content::Sparse { .. }
            )
        };
        if !present.is_some_and(is_file) {
            let empty = Content::File {
                layer: 0,
                size: 0,
                offset: 0,
            };
            tree.own(etc, name, 0o644, empty);
        }
    }
    Ok(())
}

impl Tree {
    /// Adds an inode of the runtime.
    fn own(&mut self, directory: InodeId, name: &str, mode: u16, content: Content) -> Dirent {
        let meta = Meta {
            mode,
            ..Meta::default()
        };
        let entry = Dirent {
            inode: self.add(Inode::new(meta, content)),
            layer: None,
        };
        self.put(directory, name.as_bytes(), entry);
        entry
    }

    /// Makes each component of the path a directory, without following symlinks.
    fn mount_point(&mut self, path: &[&str]) {
        let mut directory = InodeId::ROOT;
        for name in path {
            directory = match self.child(directory, name.as_bytes()) {
                Some(entry) if self.children(entry.inode).is_some() => entry.inode,
                _ => {
                    self.own(
                        directory,
                        name,
                        0o755,
                        Content::Directory(Default::default()),
                    )
                    .inode
                }
            };
        }
    }

    fn devices(&mut self) {
        let dev = self
            .own(
                InodeId::ROOT,
                "dev",
                0o755,
                Content::Directory(Default::default()),
            )
            .inode;
        for (name, major, minor) in DEVICES {
            self.own(dev, name, 0o666, Content::Device { major, minor });
        }
        for (name, target) in LINKS {
            self.own(dev, name, 0o777, Content::Symlink(target.as_bytes().into()));
        }
    }

    /// Returns a directory in the root, resolved through symlinks; creates it if it is missing.
    fn own_directory(&mut self, name: &str) -> Result<InodeId> {
        let mut way = Resolution::new(self, name.as_bytes());
        loop {
            let missing = match way.advance(self) {
                Stop::End => return Ok(way.directory().inode),
                Stop::Missing(name) | Stop::Blocked(name, _) => way.name(name).to_vec(),
                Stop::Loop => {
                    return Err(Error::policy(
                        format_args!("/{name}"),
                        "it is a symlink loop",
                    ));
                }
            };
            let entry = Dirent {
                inode: self.add(Inode::directory()),
                layer: None,
            };
            self.put(way.directory().inode, &missing, entry);
            way.enter(entry);
        }
    }
}
