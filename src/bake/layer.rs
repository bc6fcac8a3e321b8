//! The layer of a definition: its files as a tar that depends on nothing else.
//!
//! Sources are opened with openat2(2) and RESOLVE_BENEATH, from one descriptor of the definition's
//! directory: no symlink, magic link or `..` leads out of it.

use super::{Definition, File, Owner, WHITEOUT};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::sys::open::openat2;
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

/// What the eleven octal digits of a ustar header can say.
const MAX_SIZE: u64 = 0o77_777_777_777;
/// Bytes of a name, or of a symlink's target, in a ustar header; longer ones get a PAX record.
const MAX_NAME: usize = 100;
const DIRECTORY_MODE: u32 = 0o755;
/// The owner's right to execute, `S_IXUSR`.
const EXECUTE: u32 = 0o100;

impl Definition {
    /// Writes the layer's tar; sources are relative to `directory`. What goes to a path that leads
    /// through a symlink of the `base` is written to where that leads: other engines would put a
    /// directory in the symlink's place.
    ///
    /// Entries are in the order of their paths' bytes, all times are 0. Symlinks stay as they are;
    /// hard links, xattrs and modes beyond the definition's are not taken over.
    pub fn layer(
        &self,
        directory: &Path,
        base: Option<&crate::tree::Tree>,
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

/// The definition's directory.
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

    /// The object at `path` itself: of a symlink, the symlink.
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

/// An object that was found, not yet opened: opening a device or a fifo could have effects.
struct Located {
    handle: fs::File,
    metadata: fs::Metadata,
    path: PathBuf,
}

impl Located {
    /// The magic link that leads to this very object, whatever its path means by now.
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
                "is neither a file, a directory nor a symlink",
            ))
        }
    }

    /// The paths of what a directory holds, in no order.
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

/// The layer's content, by path without the slash in front.
#[derive(Default)]
struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
}

/// One entry of the layer.
struct Node {
    kind: Kind,
    /// The definition's word on a regular file's mode.
    mode: Option<u32>,
    owner: Owner,
    /// Relative to the definition's directory; of a directory, nothing is read.
    source: PathBuf,
}

impl Tree {
    /// Adds a source with all it holds.
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
            return refused("is the root, which only a directory can be");
        }
        match self.nodes.get(&path) {
            Some(other) if (other.kind, node.kind) != (Kind::Directory, Kind::Directory) => {
                refused("is made by two files of the definition")
            }
            _ => {
                self.nodes.insert(path, node);
                Ok(())
            }
        }
    }

    /// Adds the parents of all entries, or, `on_a_base`, removes those that say nothing: a base's
    /// own directory keeps its mode then, and its /lib may stay a symlink to usr/lib.
    fn complete(&mut self, on_a_base: bool) -> Result<()> {
        let parents: BTreeSet<Vec<u8>> = self.nodes.keys().flat_map(|path| parents(path)).collect();
        for parent in parents {
            match self.nodes.get(&parent) {
                Some(node) if node.kind != Kind::Directory => {
                    return Err(Error::usage(
                        shown(&parent),
                        "is no directory, but the parent of another path",
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
    fn onto(self, base: &crate::tree::Tree) -> Result<Tree> {
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
    /// A directory that only the paths below it ask for.
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

/// Writes one entry, with PAX records for what its header has no room for.
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

/// As much of `text` as the field takes.
fn fill(field: &mut [u8; MAX_NAME], text: &[u8]) {
    let length = text.len().min(MAX_NAME);
    field[..length].copy_from_slice(&text[..length]);
}

/// Where a source goes that is `below` the one that the definition names.
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

/// All directories above `path`, without the root.
fn parents(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    slashes.map(|(place, _)| path[..place].to_vec())
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
