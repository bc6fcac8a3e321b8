//! Where an image is imported from: an OCI layout or a `docker save` archive, as a directory, a
//! file or a stream.

use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::image::layer;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// What the files of a source mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `oci-layout`, `index.json`, `blobs/`.
    Oci,
    /// `manifest.json`, as `docker save` writes it.
    Docker,
}

/// A source as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `oci:DIR[:REF]`.
    Directory(PathBuf, Option<String>),
    /// `oci-archive:FILE[:REF]`, `docker-archive:FILE[:TAG]`.
    Archive(PathBuf, Format, Option<String>),
    /// `-`: an archive of either format on standard input.
    Stream,
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "-" {
            return Ok(Location::Stream);
        }
        let Some((transport, rest)) = text.split_once(':').filter(|(_, rest)| !rest.is_empty())
        else {
            return Err(unknown(text));
        };
        // A path that holds a colon is taken whole when it is there; else its end is the name.
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) if !Path::new(rest).exists() => (path, Some(name.to_owned())),
            _ => (rest, None),
        };
        match transport {
            "oci" => Ok(Location::Directory(path.into(), name)),
            "oci-archive" => Ok(Location::Archive(path.into(), Format::Oci, name)),
            "docker-archive" => Ok(Location::Archive(path.into(), Format::Docker, name)),
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> Error {
    Error::usage(format_args!("source {text:?}"), "is none that imrun reads").hint(
        "oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:TAG], or - for an archive on standard input",
    )
}

/// The files of an image, by their names in the layout.
pub struct Source {
    /// What they mean.
    pub format: Format,
    /// Which of several images is meant.
    pub name: Option<String>,
    files: Files,
}

enum Files {
    Directory(OwnedFd),
    Archive(Archive),
}

impl Source {
    /// Opens a location; `spool` makes a file without a name for what cannot be read twice.
    pub fn open(location: &Location, spool: impl FnOnce() -> Result<File>) -> Result<Source> {
        match location {
            Location::Directory(path, name) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let directory =
                    open(path, flags, Mode::empty()).context(|| format!("open({path:?})"))?;
                Ok(Source {
                    format: Format::Oci,
                    name: name.clone(),
                    files: Files::Directory(directory),
                })
            }
            Location::Archive(path, format, name) => {
                let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
                let opened = files::quietly(|quietly| open(path, flags | quietly, Mode::empty()));
                let file = File::from(opened.context(|| format!("open({path:?})"))?);
                let what = path.display().to_string();
                let archive = Archive::open(&what, file, spool)?;
                Ok(Source {
                    format: *format,
                    name: name.clone(),
                    files: Files::Archive(archive),
                })
            }
            Location::Stream => {
                let stdin = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned();
                let stdin = File::from(stdin.context(|| "dup(0)")?);
                let archive = Archive::open("standard input", stdin, spool)?;
                let format = archive.format()?;
                Ok(Source {
                    format,
                    name: None,
                    files: Files::Archive(archive),
                })
            }
        }
    }

    /// Opens a file by its name in the layout; a link is followed, but never out of the layout.
    pub fn open_file(&self, name: &str) -> Result<Extent> {
        match &self.files {
            Files::Directory(directory) => open_beneath(directory, name),
            Files::Archive(archive) => archive.open_file(name),
        }
    }
}

fn open_beneath(directory: &OwnedFd, name: &str) -> Result<Extent> {
    let open = |quietly| {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | quietly)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(directory, name, how)
    };
    let file = match files::quietly(open) {
        Ok(file) => File::from(file),
        Err(nix::errno::Errno::EXDEV) => {
            return Err(Error::digest(
                name,
                "is a link that leads out of the layout's directory",
            ));
        }
        Err(errno) => return Err(Error::digest(name, errno.desc())),
    };
    let metadata = file.metadata().context(|| format!("fstat({name:?})"))?;
    if !metadata.is_file() {
        return Err(Error::digest(name, "is not a regular file"));
    }
    Ok(Extent {
        file,
        position: 0,
        end: metadata.len(),
    })
}

/// A part of a file, read from its beginning.
pub struct Extent {
    file: File,
    position: u64,
    end: u64,
}

impl Extent {
    /// Bytes that are left.
    pub fn len(&self) -> u64 {
        self.end - self.position
    }

    /// Whether none are left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first bytes, without moving on.
    pub fn peek<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let length = usize::try_from(self.len()).unwrap_or(N).min(N);
        self.file
            .read_exact_at(&mut bytes[..length], self.position)?;
        Ok(bytes)
    }
}

impl Read for Extent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.len())
            .unwrap_or(buffer.len())
            .min(buffer.len());
        let read = self.file.read_at(&mut buffer[..length], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// A tar file whose members are read where they are.
struct Archive {
    what: String,
    file: File,
    members: HashMap<PathBuf, Member>,
}

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// Old `docker save` archives name a layer that two images share by a symbolic link.
    Link(PathBuf),
}

impl Archive {
    /// What is compressed or cannot be read at any offset is first copied, uncompressed.
    fn open(what: &str, mut file: File, spool: impl FnOnce() -> Result<File>) -> Result<Archive> {
        let metadata = file.metadata().context(|| format!("fstat({what})"))?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_fifo() && !kind.is_socket() {
            return Err(Error::usage(what, "is neither a file nor a pipe"));
        }
        let mut magic = [0; 4];
        let compression = if metadata.is_file() {
            let read = file
                .read_at(&mut magic, 0)
                .context(|| format!("read({what})"))?;
            sniff(&magic[..read])
        } else {
            let read = read_up_to(&mut file, &mut magic).context(|| format!("read({what})"))?;
            let compression = sniff(&magic[..read]);
            file = copy(
                what,
                io::Cursor::new(magic).take(read as u64).chain(file),
                compression,
                spool,
            )?;
            return Archive::index(what, file);
        };
        if compression != layer::Compression::None {
            file = copy(what, file, compression, spool)?;
        }
        Archive::index(what, file)
    }

    fn index(what: &str, file: File) -> Result<Archive> {
        let broken =
            |error: io::Error| Error::digest(what, format_args!("is not a tar archive: {error}"));
        let mut reader = tar::Archive::new(&file);
        let mut members = HashMap::new();
        for entry in reader.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let Some(name) = normalise(&entry.path().map_err(broken)?) else {
                continue;
            };
            let member = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => Member::File {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                },
                tar::EntryType::Symlink => match entry.link_name().map_err(broken)? {
                    Some(target) => {
                        Member::Link(name.parent().unwrap_or(Path::new("")).join(target))
                    }
                    None => continue,
                },
                _ => continue,
            };
            members.insert(name, member);
        }
        Ok(Archive {
            what: what.to_owned(),
            file,
            members,
        })
    }

    fn format(&self) -> Result<Format> {
        if self.members.contains_key(Path::new("index.json")) {
            return Ok(Format::Oci);
        }
        if self.members.contains_key(Path::new("manifest.json")) {
            return Ok(Format::Docker);
        }
        Err(Error::digest(
            &self.what,
            "has neither an index.json (OCI) nor a manifest.json (docker save)",
        ))
    }

    fn open_file(&self, name: &str) -> Result<Extent> {
        const MAX_LINKS: usize = 8;
        let mut path = normalise(Path::new(name));
        for _ in 0..MAX_LINKS {
            match path.as_ref().and_then(|path| self.members.get(path)) {
                Some(Member::File { offset, size }) => {
                    let file = self.file.try_clone().context(|| "dup()")?;
                    let end = offset.checked_add(*size);
                    let end = end.ok_or_else(|| Error::digest(name, "its size overflows"))?;
                    return Ok(Extent {
                        file,
                        position: *offset,
                        end,
                    });
                }
                Some(Member::Link(target)) => path = normalise(target),
                None => return Err(Error::digest(name, format_args!("is not in {}", self.what))),
            }
        }
        Err(Error::digest(name, "is a loop of symbolic links"))
    }
}

/// How an archive that is not named by any media type is compressed.
pub(super) fn sniff(magic: &[u8]) -> layer::Compression {
    match magic {
        [0x1f, 0x8b, ..] => layer::Compression::Gzip, // RFC 1952, 2.3.1
        [0x28, 0xb5, 0x2f, 0xfd, ..] => layer::Compression::Zstd, // RFC 8878, 3.1.1
        _ => layer::Compression::None,
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn copy(
    what: &str,
    reader: impl Read,
    compression: layer::Compression,
    spool: impl FnOnce() -> Result<File>,
) -> Result<File> {
    let mut reader = layer::decoder(compression, BufReader::new(reader))?;
    let mut first = [0; layer::BLOCK as usize];
    let length = read_up_to(&mut reader, &mut first).context(|| format!("read({what})"))?;
    // What is no archive may have no end.
    if !starts_archive(&first[..length]) {
        return Err(Error::digest(what, "is not a tar archive"));
    }
    let mut file = spool()?;
    let limit = layer::Limits::default().bytes;
    let mut bounded = first[..length].chain(reader).take(limit + 1);
    let copied = io::copy(&mut bounded, &mut file).context(|| format!("copy({what})"))?;
    if copied > limit {
        let why = format_args!("is larger than {limit} bytes");
        return Err(Error::policy(what, why));
    }
    file.flush()
        .and_then(|()| file.rewind())
        .context(|| format!("copy({what})"))?;
    Ok(file)
}

/// Whether a block is the header of an archive's first member.
fn starts_archive(block: &[u8]) -> bool {
    let mut archive = tar::Archive::new(block);
    let mut entries = archive.entries().into_iter().flatten();
    matches!(entries.next(), Some(Ok(_)))
}

/// A member's name without `.`, `..` and a leading slash; None when it climbs out of the archive.
fn normalise(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir if !normal.pop() => return None,
            _ => {}
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_as_other_tools_write_them() {
        let parse = |text: &str| text.parse::<Location>().unwrap();
        assert_eq!(parse("-"), Location::Stream);
        assert_eq!(
            parse("oci:/nowhere/a"),
            Location::Directory("/nowhere/a".into(), None)
        );
        assert_eq!(
            parse("oci:/nowhere/a:v1"),
            Location::Directory("/nowhere/a".into(), Some("v1".into()))
        );
        let docker = Location::Archive("x.tar".into(), Format::Docker, Some("redis:7".into()));
        assert_eq!(parse("docker-archive:x.tar:redis:7"), docker);
        for wrong in ["", "oci", "oci:", "dir:/tmp", "redis"] {
            assert!(wrong.parse::<Location>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn names_never_leave_the_archive() {
        assert_eq!(normalise(Path::new("/a/./b/../c")), Some("a/c".into()));
        assert_eq!(normalise(Path::new("a/../../c")), None);
    }

    #[test]
    fn a_layout_is_never_left_through_a_link_and_only_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "inside").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("inner")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("outer")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRUSR).unwrap();
        let location = Location::Directory(dir.path().into(), None);
        let source = Source::open(&location, || unreachable!()).unwrap();
        let mut text = String::new();
        source
            .open_file("inner")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "inside");
        for (name, why) in [
            ("outer", "leads out"),
            ("fifo", "not a regular"),
            (".", "not a regular"),
            ("none", "No such"),
        ] {
            let error = source.open_file(name).err().unwrap();
            assert!(error.why.contains(why), "{name}: {error}");
        }
    }
}
