//! The layer of a definition: a reproducible tar of its files.
//!
//! Sources are opened with openat2(2) and RESOLVE_BENEATH, relative to the definition's directory: no symlink, magic
//! link or `..` leads out of it.

use super::{Definition, File, Owner, WHITEOUT};
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::sys::open::openat2;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, readlinkat};
use nix::sys::stat::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Maximum size of a file: the eleven octal digits of a ustar header.
const MAX_SIZE: u64 = 0o77_777_777_777;
/// Maximum length of a name or a symlink's target in a ustar header; longer ones get a PAX record.
const MAX_NAME: usize = 100;
const DIRECTORY_MODE: u32 = 0o755;
/// Execute permission of the owner, `S_IXUSR`.
const EXECUTE: u32 = 0o100;

impl Definition {
    /// Writes the layer's tar; sources are relative to `directory`. What goes to a path that leads
    /// through a symlink of the `base` is written to where that leads: other engines would put a
    /// directory in the symlink's place.
    ///
    /// Entries are ordered by the bytes of their paths, and all times are 0. Symlinks are kept; hard links and xattrs
    /// are not, and modes come from the definition.
    pub fn layer(
        &self,
        directory: &Path,
        base: Option<&crate::image::tree::Tree>,
        out: impl Write,
    ) -> Result<()> {
        let sources = Sources::open(directory)?;
        let mut tree = Tree::default();
        for file in &self.files {
            tree.add(&sources, file)?;
        }
        tree.complete(self.base.is_some())?;
        if let Some(base) = base {
            tree = tree.onto(base)?;
        }
        let mut tar = Builder::new(out);
        for (path, node) in &tree.nodes {
            node.write(&sources, path, &mut tar)?;
        }
        tar.into_inner()
            .and_then(|mut out| out.flush())
            .context(|| "write the layer")
    }
}

/// Directory of the definition, in which sources are looked up.
struct Sources {
    directory: OwnedFd,
}

impl Sources {
    fn open(directory: &Path) -> Result<Sources> {
        let opened =
            fs::File::open(directory).context(|| format!("open({})", directory.display()))?;
        Ok(Sources {
            directory: opened.into(),
        })
    }

    /// Finds the object at `path`, without following a symlink at its end.
    fn locate(&self, path: &Path) -> Result<Located> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let what = || format!("source {}", path.display());
        let fd = openat2(&self.directory, path, how).map_err(|errno| match errno {
            nix::Error::EXDEV => Error::policy(what(), "leads out of the definition's directory"),
            errno => Error::usage(what(), errno.desc()),
        })?;
        let handle = fs::File::from(fd);
        let metadata = handle
            .metadata()
            .context(|| format!("fstat({})", path.display()))?;
        Ok(Located {
            handle,
            metadata,
            path: path.to_path_buf(),
        })
    }
}

/// An object that is found but not opened: opening a device or a fifo could have effects.
struct Located {
    handle: fs::File,
    metadata: fs::Metadata,
    path: PathBuf,
}

impl Located {
    /// Returns a magic link to this object, which stays valid when its path changes.
    fn again(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }

    fn kind(&self) -> Result<Kind> {
        let kind = self.metadata.file_type();
        if kind.is_dir() {
            Ok(Kind::Directory)
        } else if kind.is_file() {
            Ok(Kind::File)
        } else if kind.is_symlink() {
            Ok(Kind::Symlink)
        } else {
            let what = format!("source {}", self.path.display());
            Err(Error::policy(
                what,
                "expected a file, a directory or a symlink",
            ))
        }
    }

    /// Returns the paths of a directory's entries, unordered.
    fn children(&self) -> Result<Vec<PathBuf>> {
        let what = || format!("readdir({})", self.path.display());
        let entries = fs::read_dir(self.again()).context(what)?;
        let names = entries.map(|entry| Ok(self.path.join(entry?.file_name())));
        names.collect::<std::io::Result<_>>().context(what)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Symlink,
}

/// Content of the layer, by path without the leading slash.
#[derive(Default)]
struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
}

/// One entry of the layer.
struct Node {
    kind: Kind,
    /// Mode of regular files from the definition.
    mode: Option<u32>,
    owner: Owner,
    /// Source, relative to the definition's directory; unused for directories.
    source: PathBuf,
}

impl Tree {
    /// Adds a source and, if it is a directory, its content.
    fn add(&mut self, sources: &Sources, file: &File) -> Result<()> {
        let top = Path::new(&file.source);
        let mut pending = vec![top.to_path_buf()];
        while let Some(source) = pending.pop() {
            let located = sources.locate(&source)?;
            let kind = located.kind()?;
            if kind == Kind::Directory {
                pending.extend(located.children()?);
            }
            let below = source
                .strip_prefix(top)
                .expect("children are joined to their parent");
            let path = destination(file, below)?;
            let node = Node {
                kind,
                mode: file.mode.map(|mode| mode.0),
                owner: file.owner,
                source,
            };
            self.insert(path, node)?;
        }
        Ok(())
    }

    fn insert(&mut self, path: Vec<u8>, node: Node) -> Result<()> {
        if path.is_empty() && node.kind == Kind::Directory {
            return Ok(());
        }
        let refused = |why| Err(Error::usage(shown(&path), why));
        if path.is_empty() {
            return refused("is the root, which must be a directory");
        }
        match self.nodes.get(&path) {
            Some(other) if (other.kind, node.kind) != (Kind::Directory, Kind::Directory) => {
                refused("appears twice in the definition")
            }
            _ => {
                self.nodes.insert(path, node);
                Ok(())
            }
        }
    }

    /// Adds the missing parents of all entries. With `on_a_base`, removes implied directories instead, so that a
    /// base's directory keeps its mode, and its /lib may stay a symlink to usr/lib.
    fn complete(&mut self, on_a_base: bool) -> Result<()> {
        let parents: BTreeSet<Vec<u8>> = self.nodes.keys().flat_map(|path| parents(path)).collect();
        for parent in parents {
            match self.nodes.get(&parent) {
                Some(node) if node.kind != Kind::Directory => {
                    return Err(Error::usage(
                        shown(&parent),
                        "is not a directory, but the parent of another path",
                    ));
                }
                Some(node) if on_a_base && node.owner == Owner::default() => {
                    self.nodes.remove(&parent);
                }
                None if !on_a_base => {
                    self.nodes.insert(parent, Node::implied());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Tree {
    /// The same with each path as the base's symlinks lead, but for those that a directory replaces.
    fn onto(self, base: &crate::image::tree::Tree) -> Result<Tree> {
        let own: BTreeSet<_> = self.nodes.keys().cloned().collect();
        let mut tree = Tree::default();
        for (path, node) in self.nodes {
            let real = base.real_path(&path, |parent| own.contains(parent));
            let real = real.ok_or_else(|| {
                Error::usage(
                    shown(&path),
                    "leads through more than 40 symlinks of the base",
                )
            })?;
            tree.insert(real, node)?;
        }
        Ok(tree)
    }
}

impl Node {
    /// Returns a directory that exists only because of paths below it.
    fn implied() -> Node {
        Node {
            kind: Kind::Directory,
            mode: None,
            owner: Owner::default(),
            source: PathBuf::new(),
        }
    }

    fn write(&self, sources: &Sources, path: &[u8], tar: &mut Builder<impl Write>) -> Result<()> {
        match self.kind {
            Kind::Directory => {
                let path = [path, b"/"].concat();
                let header = self.header(EntryType::Directory, DIRECTORY_MODE, 0);
                append(tar, header, &path, b"", &mut std::io::empty())
            }
            Kind::Symlink => {
                let located = sources.locate(&self.source)?;
                let what = || format!("readlink({})", self.source.display());
                let target = readlinkat(&located.handle, "").context(what)?;
                let header = self.header(EntryType::Symlink, 0o777, 0);
                append(tar, header, path, target.as_bytes(), &mut std::io::empty())
            }
            Kind::File => self.write_file(sources, path, tar),
        }
    }

    fn write_file(
        &self,
        sources: &Sources,
        path: &[u8],
        tar: &mut Builder<impl Write>,
    ) -> Result<()> {
        let what = || format!("source {}", self.source.display());
        let located = sources.locate(&self.source)?;
        if located.kind()? != Kind::File {
            return Err(Error::usage(what(), "changed while it was read"));
        }
        let size = located.metadata.len();
        if size > MAX_SIZE {
            return Err(Error::usage(what(), "is 8 GiB or larger"));
        }
        let executable = located.metadata.mode() & EXECUTE != 0;
        let mode = self.mode.unwrap_or(if executable { 0o755 } else { 0o644 });
        let open = |quietly| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            nix::fcntl::open(&*located.again(), flags | quietly, Mode::empty())
        };
        let content = fs::File::from(files::quietly(open).context(what)?);
        let mut content = content.take(size);
        append(
            tar,
            self.header(EntryType::Regular, mode, size),
            path,
            b"",
            &mut content,
        )?;
        match content.limit() {
            0 => Ok(()),
            _ => Err(Error::usage(what(), "changed while it was read")),
        }
    }

    fn header(&self, kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner.uid.into());
        header.set_gid(self.owner.gid.into());
        header.set_mtime(0);
        header.set_size(size);
        header
    }
}

/// Writes one entry, with PAX records for long names.
fn append(
    tar: &mut Builder<impl Write>,
    mut header: Header,
    path: &[u8],
    target: &[u8],
    content: &mut impl Read,
) -> Result<()> {
    let long = [("path", path), ("linkpath", target)];
    let records = long.into_iter().filter(|(_, text)| text.len() > MAX_NAME);
    let ustar = header.as_ustar_mut().expect("it was made as one");
    fill(&mut ustar.name, path);
    fill(&mut ustar.linkname, target);
    header.set_cksum();
    let written = tar
        .append_pax_extensions(records)
        .and_then(|()| tar.append(&header, content));
    written.context(|| format!("write {} into the layer", shown(path)))
}

/// Copies `text` into a header field, truncated.
fn fill(field: &mut [u8; MAX_NAME], text: &[u8]) {
    let length = text.len().min(MAX_NAME);
    field[..length].copy_from_slice(&text[..length]);
}

/// Returns the destination of a source at the path `below` the one that the definition names.
fn destination(file: &File, below: &Path) -> Result<Vec<u8>> {
    let mut path = file.path.as_str().as_bytes()[1..].to_vec();
    for component in below {
        if component.as_bytes().starts_with(WHITEOUT.as_bytes()) {
            let what = format!("source {}/{}", file.source, below.display());
            return Err(Error::usage(
                what,
                "has the name of a whiteout, which would remove a file",
            ));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component.as_bytes());
    }
    Ok(path)
}

/// Returns all directories above `path`, except the root.
fn parents(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    slashes.map(|(place, _)| path[..place].to_vec())
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
