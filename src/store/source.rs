//! Sources of imports: an OCI layout or a `docker save` archive, as a directory, a file or a stream.

use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::image::layer;
use crate::image::manifest::Choice;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Format of a source's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OCI layout: `oci-layout`, `index.json`, `blobs/`.
    Oci,
    /// Docker archive: `manifest.json`, as written by `docker save`.
    Docker,
}

/// Location of a source on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `oci:DIR[:REF]`.
    Directory(PathBuf, Choice),
    /// `oci-archive:FILE[:REF]`, `docker-archive:FILE[:TAG]`.
    Archive(PathBuf, Format, Choice),
    /// `-[:REF]`: an archive of either format on standard input.
    Stream(Choice),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(rest) = text
            .strip_prefix('-')
            .filter(|rest| matches!(rest.chars().next(), None | Some(':' | '@')))
        {
            return Ok(Location::Stream(split_choice(rest)?.1));
        }
        let Some((transport, rest)) = text.split_once(':').filter(|(_, rest)| !rest.is_empty())
        else {
            return Err(unknown(text));
        };
        let (path, choice) = split_choice(rest)?;
        match transport {
            "oci" => Ok(Location::Directory(path.into(), choice)),
            "oci-archive" => Ok(Location::Archive(path.into(), Format::Oci, choice)),
            "docker-archive" => Ok(Location::Archive(path.into(), Format::Docker, choice)),
            _ => Err(unknown(text)),
        }
    }
}

/// Splits a source into its path and the selected image: `PATH[:NAME|:@NUMBER|[:NAME]@DIGEST]`.
fn split_choice(text: &str) -> Result<(&str, Choice)> {
    // An existing path may contain a colon or an @.
    if Path::new(text).exists() {
        return Ok((text, Choice::Only));
    }
    if let Some((before, digest)) = text.rsplit_once('@')
        && let Ok(digest) = digest.parse()
    {
        let path = before.split_once(':').map_or(before, |(path, _)| path);
        return Ok((path, Choice::Digest(digest)));
    }
    let Some((path, name)) = text.split_once(':') else {
        return Ok((text, Choice::Only));
    };
    match name.strip_prefix('@').map(str::parse) {
        Some(Ok(number)) => Ok((path, Choice::Number(number))),
        Some(Err(_)) => Err(Error::usage(
            format_args!("source {text:?}"),
            "must have a number or a full digest after the @",
        )),
        None => Ok((path, Choice::Name(name.to_string()))),
    }
}

fn unknown(text: &str) -> Error {
    Error::usage(format_args!("source {text:?}"), "has an unknown format").hint(
        "expected oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:TAG], rootfs:FILE, - for an archive on standard input, or rootfs:- for a root filesystem on it",
    )
}

/// Files of an image, by their names in the layout.
pub struct Source {
    /// Format of the files.
    pub format: Format,
    /// Selection of one of several images.
    pub choice: Choice,
    files: Files,
}

enum Files {
    Directory(OwnedFd),
    Archive(Archive),
}

impl Source {
    /// Opens a location. `spool` creates a file without a name for input that cannot be read twice.
    pub fn open(location: &Location, spool: impl FnOnce() -> Result<File>) -> Result<Source> {
        match location {
            Location::Directory(path, choice) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let directory =
                    open(path, flags, Mode::empty()).context(|| format!("open({path:?})"))?;
                Ok(Source {
                    format: Format::Oci,
                    choice: choice.clone(),
                    files: Files::Directory(directory),
                })
            }
            Location::Archive(path, format, choice) => {
                let what = path.display().to_string();
                let archive = Archive::open(&what, open_archive(path)?, spool)?;
                Ok(Source {
                    format: *format,
                    choice: choice.clone(),
                    files: Files::Archive(archive),
                })
            }
            Location::Stream(choice) => {
                let archive = Archive::open(STDIN, standard_input()?, spool)?;
                let format = archive.format()?;
                Ok(Source {
                    format,
                    choice: choice.clone(),
                    files: Files::Archive(archive),
                })
            }
        }
    }

    /// Returns true if a file with this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.open_file(name).is_ok()
    }

    /// Opens a file by its name in the layout. Links are followed, but never out of the layout.
    pub fn open_file(&self, name: &str) -> Result<Extent> {
        match &self.files {
            Files::Directory(directory) => open_beneath(directory, name),
            Files::Archive(archive) => archive.open_file(name),
        }
    }
}

/// Name of standard input in errors.
pub(super) const STDIN: &str = "standard input";

/// Returns standard input as a file.
pub(super) fn standard_input() -> Result<File> {
    let stdin = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned();
    Ok(File::from(stdin.context(|| "dup(0)")?))
}

/// Opens an archive at a path or on standard input.
pub(super) fn open_archive(path: &Path) -> Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let opened = files::quietly(|quietly| open(path, flags | quietly, Mode::empty()));
    Ok(File::from(opened.context(|| format!("open({path:?})"))?))
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

/// A section of a file, read from its beginning.
pub struct Extent {
    file: File,
    position: u64,
    end: u64,
}

impl Extent {
    /// Returns the number of remaining bytes.
    pub fn len(&self) -> u64 {
        self.end - self.position
    }

    /// Returns true if no bytes remain.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the first bytes without advancing.
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

/// A tar file whose members are read in place.
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
    /// Name of another member. Old `docker save` archives contain a symbolic link for a layer that two images
    /// share; bsdtar writes a hard link for files with the same inode.
    Link(PathBuf),
}

impl Archive {
    /// Opens an archive. First copies it, uncompressed, if it is compressed or not seekable.
    fn open(what: &str, mut file: File, spool: impl FnOnce() -> Result<File>) -> Result<Archive> {
        let metadata = file.metadata().context(|| format!("fstat({what})"))?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_fifo() && !kind.is_socket() {
            return Err(Error::usage(what, "is neither a file nor a pipe"));
        }
        let mut magic = Magic::default();
        if metadata.is_file() {
            file.read_at(&mut magic, 0)
                .context(|| format!("read({what})"))?;
            if sniff(what, &magic)? != layer::Compression::None {
                file = copy(what, file, spool)?;
            }
        } else {
            file = copy(what, file, spool)?;
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
                // A symbolic link's target is relative to the link, a hard link's to the archive's root.
                kind @ (tar::EntryType::Symlink | tar::EntryType::Link) => {
                    let from = match kind {
                        tar::EntryType::Symlink => name.parent().unwrap_or(Path::new("")),
                        _ => Path::new(""),
                    };
                    match entry.link_name().map_err(broken)? {
                        Some(target) => Member::Link(from.join(target)),
                        None => continue,
                    }
                }
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
        )
        .hint("to import a root filesystem's tar, use rootfs:FILE or rootfs:-"))
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
        Err(Error::digest(name, "is in a loop of links"))
    }
}

/// First bytes of a file, padded with zeros.
pub(super) type Magic = [u8; 10];

/// Returns the compression of an archive, or of a layer without a media type; `what` names it.
pub(super) fn sniff(what: &str, magic: &Magic) -> Result<layer::Compression> {
    let (name, program) = match magic {
        [0x1f, 0x8b, ..] => return Ok(layer::Compression::Gzip), // RFC 1952, 2.3.1
        start if layer::is_zstd(start) => return Ok(layer::Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", "xz"),
        [b'B', b'Z', b'h', _, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59] => ("bzip2", "bzip2"),
        [0x5d, 0, 0, size, ..] if *size != 0 => ("lzma", "xz"),
        [0x04, 0x22, 0x4d, 0x18, ..] => ("lz4", "lz4"),
        [b'L', b'Z', b'I', b'P', 1, ..] => ("lzip", "lzip"),
        [0x89, b'L', b'Z', b'O', 0, ..] => ("lzop", "lzop"),
        [0x1f, 0x9d, ..] => ("compress", "gzip"),
        [b'P', b'K', 3, 4, ..] => {
            return Err(Error::unsupported(what, "is a zip archive, not a tar"));
        }
        _ => return Ok(layer::Compression::None),
    };
    let why = format_args!("is compressed with {name}; imrun supports gzip and zstd");
    Err(Error::unsupported(what, why).hint(format_args!(
        "decompress it first: {program} -dc FILE | imrun import -, or rootfs:- for a root filesystem"
    )))
}

/// Returns the uncompressed bytes of an archive; refuses other input, which may be endless.
pub(super) fn decompress<'a>(what: &str, mut reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut magic = Magic::default();
    let read = read_up_to(&mut reader, &mut magic).context(|| format!("read({what})"))?;
    let compression = sniff(what, &magic)?;
    let reader = io::Cursor::new(magic).take(read as u64).chain(reader);
    let decoder = layer::decoder(compression, BufReader::new(reader));
    let mut reader = decoder.map_err(|e| e.about(what))?;
    let mut first = [0; layer::BLOCK as usize];
    let length = read_up_to(&mut reader, &mut first).context(|| format!("read({what})"))?;
    if !starts_archive(&first[..length]) {
        return Err(Error::digest(what, "is not a tar archive"));
    }
    Ok(Box::new(
        io::Cursor::new(first).take(length as u64).chain(reader),
    ))
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

fn copy(what: &str, reader: impl Read, spool: impl FnOnce() -> Result<File>) -> Result<File> {
    let reader = decompress(what, reader)?;
    let mut file = spool()?;
    let limit = layer::Limits::default().bytes;
    let copied = io::copy(&mut reader.take(limit + 1), &mut file);
    let copied = copied.context(|| format!("copy({what})"))?;
    if copied > limit {
        let why = format_args!("is larger than {limit} bytes");
        return Err(Error::policy(what, why));
    }
    file.flush()
        .and_then(|()| file.rewind())
        .context(|| format!("copy({what})"))?;
    Ok(file)
}

/// Returns true if a block is the header of an archive's first member.
fn starts_archive(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; 512]>::try_from(block) else {
        return false;
    };
    // The checksum counts as eight spaces (POSIX, ustar Interchange Format).
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let byte = |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { b' ' } else { *byte };
    let sum: u32 = block.iter().enumerate().map(byte).map(u32::from).sum();
    let header = tar::Header::from_byte_slice(block);
    header.cksum().is_ok_and(|stored| stored == sum)
}

/// Returns a member's name without `.`, `..` and a leading slash; `None` if it leaves the archive.
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
    fn locations_have_the_syntax_of_other_tools() {
        let parse = |text: &str| text.parse::<Location>().unwrap();
        assert_eq!(parse("-"), Location::Stream(Choice::Only));
        assert_eq!(parse("-:a"), Location::Stream(Choice::Name("a".into())));
        assert_eq!(
            parse("oci:/nowhere/a"),
            Location::Directory("/nowhere/a".into(), Choice::Only)
        );
        assert_eq!(
            parse("oci:/nowhere/a:v1"),
            Location::Directory("/nowhere/a".into(), Choice::Name("v1".into()))
        );
        let digest = crate::base::digest::Digest::sha256(b"1");
        for (text, choice) in [
            (":@1".to_string(), Choice::Number(1)),
            (format!("@{digest}"), Choice::Digest(digest)),
            (format!(":@{digest}"), Choice::Digest(digest)),
            (format!(":redis@{digest}"), Choice::Digest(digest)),
        ] {
            let expected = Location::Directory("/nowhere/a".into(), choice);
            assert_eq!(parse(&format!("oci:/nowhere/a{text}")), expected);
        }
        let name = Choice::Name("redis:7".into());
        let docker = Location::Archive("x.tar".into(), Format::Docker, name);
        assert_eq!(parse("docker-archive:x.tar:redis:7"), docker);
        for wrong in ["", "oci", "oci:", "dir:/tmp", "redis", "oci:/nowhere/a:@x"] {
            assert!(wrong.parse::<Location>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn names_never_leave_the_archive() {
        assert_eq!(normalise(Path::new("/a/./b/../c")), Some("a/c".into()));
        assert_eq!(normalise(Path::new("a/../../c")), None);
    }

    #[test]
    fn links_never_leave_the_layout_and_only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "inside").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("inner")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("outer")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRUSR).unwrap();
        let location = Location::Directory(dir.path().into(), Choice::Only);
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
