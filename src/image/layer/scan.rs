//! Reads a tar as a list of entries and skips their data.

use super::header::{self, Header};
use super::path::{self, Name};
use super::pax::{self, Records};
use super::stream::Stream;
use super::{
    Dropped, Entry, Kind, Layer, Limits, Meta, PATH_LIMIT, Xattr, refuse, sparse, too_much,
};
use crate::base::error::Result;
use std::io::BufRead;

/// Reads a tar to the end of the stream, including data after its end blocks.
///
/// For the digest, wrap the stream in a [`super::Tee`]. Errors name the entry, or its position if the
/// name is not known yet.
pub fn scan(tar: impl BufRead, limits: &Limits) -> Result<Layer> {
    let mut scanner = Scanner {
        tar: Stream::new(tar, limits.bytes),
        limits,
        name: Vec::new(),
        entries: Vec::new(),
        dropped: Dropped::default(),
        memory: 0,
        chunks: 0,
    };
    scanner.run().map_err(|mut error| {
        if error.what.is_empty() {
            error.what = scanner.place();
        }
        error
    })?;
    Ok(Layer {
        entries: scanner.entries,
        dropped: scanner.dropped,
        size: scanner.tar.position(),
    })
}

struct Scanner<'l, R> {
    tar: Stream<R>,
    limits: &'l Limits,
    /// Name of the current entry as far as it is known, for errors.
    name: Vec<u8>,
    entries: Vec<Entry>,
    dropped: Dropped,
    memory: usize,
    chunks: u64,
}

/// Extension headers that precede an entry's own header.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.link.is_none() && self.records.is_none()
    }
}

impl<R: BufRead> Scanner<'_, R> {
    fn run(&mut self) -> Result<()> {
        while let Some((header, extensions)) = self.member()? {
            self.entry(&header, extensions)?;
            self.name.clear();
        }
        if self.limits.end_blocks && !self.tar.has_end_blocks() {
            return Err(refuse("the tar is truncated: it has no end blocks"));
        }
        self.tar.drain()
    }

    /// Returns the place that an error names.
    fn place(&self) -> String {
        match &self.name[..] {
            [] => format!("tar at byte {}", self.tar.position()),
            name => format!(
                "tar entry {}",
                String::from_utf8_lossy(&name[..name.len().min(512)])
            ),
        }
    }

    /// Returns the next entry's own header and the extension headers before it.
    fn member(&mut self) -> Result<Option<(Header, Extensions)>> {
        let mut before = Extensions::default();
        loop {
            let Some(header) = self.tar.header()? else {
                return if before.is_empty() {
                    Ok(None)
                } else {
                    Err(refuse("the last extension header has no entry"))
                };
            };
            self.name = header.name();
            match header.kind() {
                b'L' => once(&mut before.name, self.long_name(&header)?)?,
                b'K' => once(&mut before.link, self.long_name(&header)?)?,
                b'x' | b'X' => {
                    let mut records = Records::default();
                    records.apply(&self.extension(&header)?)?;
                    once(&mut before.records, records)?;
                }
                // POSIX applies these records to all entries that follow. Go's reader, which containerd,
                // Docker and Podman use, applies them to none, and images depend on that.
                b'g' => Records::default().apply(&self.global(&header, &before)?)?,
                _ => return Ok(Some((header, before))),
            }
        }
    }

    /// Returns the data of a global header. After an entry's extension headers it is refused: Go's reader
    /// would discard those.
    fn global(&mut self, header: &Header, before: &Extensions) -> Result<Vec<u8>> {
        if before.is_empty() {
            self.extension(header)
        } else {
            Err(refuse(
                "a global header stands between the entry and its extension headers",
            ))
        }
    }

    /// Returns the data of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = unsigned(header, header::LENGTH)?;
        if size > self.limits.header {
            return Err(too_much(format_args!(
                "its extension header is too large: {size} bytes"
            )));
        }
        let mut data = Vec::new();
        self.tar
            .pieces(size, |piece| data.extend_from_slice(piece))?;
        self.tar.align()?;
        Ok(data)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>> {
        let mut name = self.extension(header)?;
        let end = name
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        name.truncate(end);
        Ok(name)
    }

    fn entry(&mut self, header: &Header, before: Extensions) -> Result<()> {
        let records = before.records.unwrap_or_default();
        let sparse_name = records.get(b"GNU.sparse.name").map(<[u8]>::to_vec);
        let long = either(before.name, records.get(b"path"))?;
        let written = sparse_name.or(long).unwrap_or_else(|| header.name());
        self.name.clone_from(&written);
        let link = either(before.link, records.get(b"linkpath"))?;
        let link = link.as_deref().unwrap_or_else(|| header.link());

        let name = path::interpret(&written)?;
        let kind = self.kind(header, &records, &written, link)?;
        let (path, kind) = match name {
            Name::Path(path) => (path, kind),
            Name::Whiteout(path) => (path, Kind::Whiteout),
            Name::Opaque(path) => (path, Kind::Opaque),
        };
        if path.is_empty() && !matches!(kind, Kind::Directory | Kind::Opaque) {
            return Err(refuse("the root can only be a directory"));
        }
        let meta = match kind {
            Kind::Directory
            | Kind::File { .. }
            | Kind::Sparse(_)
            | Kind::Symlink(_)
            | Kind::Fifo => self.meta(header, &records)?,
            Kind::HardLink(_) | Kind::Device | Kind::Whiteout | Kind::Opaque => Meta::default(),
        };
        self.push(Entry { path, meta, kind })
    }

    /// Returns the entry's type and skips its data.
    ///
    /// Links, directories and devices have no data, whatever size they claim (as in Go's reader, which
    /// containerd and Docker use). Data behind them would not parse as a header.
    fn kind(
        &mut self,
        header: &Header,
        records: &Records,
        name: &[u8],
        link: &[u8],
    ) -> Result<Kind> {
        Ok(match header.kind() {
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => self.file(header, records)?,
            b'S' => self.old_sparse(header)?,
            b'1' => Kind::HardLink(path::normalise(link).map_err(|mut error| {
                error.why = format!("the target of a hard link: {}", error.why);
                error
            })?),
            b'2' => Kind::Symlink(symlink_target(link)?),
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(refuse(format_args!(
                    "type {:?} is unknown",
                    char::from(other)
                )));
            }
        })
    }

    fn file(&mut self, header: &Header, records: &Records) -> Result<Kind> {
        let size = match records.number("size")? {
            Some(size) => size,
            None => unsigned(header, header::LENGTH)?,
        };
        let version = (
            records.number("GNU.sparse.major")?,
            records.number("GNU.sparse.minor")?,
        );
        match (version, records.get(pax::SPARSE_MAP)) {
            ((Some(1), Some(0)), _) => self.sparse_1(records, size),
            ((None, None) | (Some(0), Some(0 | 1)), Some(map)) => self.sparse_0(records, map, size),
            ((None, None), None) => self.plain(size),
            _ => Err(refuse("its sparse format is unknown")),
        }
    }

    /// Reads a file without holes. The tree image points to whole blocks, so a last block that the end
    /// of the tar cuts short is copied.
    fn plain(&mut self, size: u64) -> Result<Kind> {
        let offset = self.tar.position();
        let file = sparse::read(&mut self.tar, &[(0, size)], size, self.limits.memory)?;
        match &file.extents[..] {
            [] => Ok(Kind::File { size, offset }),
            [extent] if extent.source == sparse::Source::Tar(offset) && extent.length == size => {
                Ok(Kind::File { size, offset })
            }
            _ => self.afford_chunks(file),
        }
    }

    /// Reads PAX formats 0.0 and 0.1, whose map is in the records.
    fn sparse_0(&mut self, records: &Records, map: &[u8], stored: u64) -> Result<Kind> {
        let size = required(records.number("GNU.sparse.size")?)?;
        let numbers = map
            .split(|byte| *byte == b',')
            .map(|number| {
                pax::decimal(number)
                    .ok_or_else(|| refuse("its sparse map contains an invalid number"))
            })
            .collect::<Result<Vec<_>>>()?;
        self.sparse(&numbers, size, stored)
    }

    /// Reads PAX format 1.0, whose map precedes the data.
    fn sparse_1(&mut self, records: &Records, stored: u64) -> Result<Kind> {
        let size = required(records.number("GNU.sparse.realsize")?)?;
        let (numbers, read) = sparse::read_map(&mut self.tar, stored, self.limits.memory)?;
        self.sparse(&numbers, size, stored - read)
    }

    /// Reads the old GNU format, whose map is in the header and in extension blocks.
    fn old_sparse(&mut self, header: &Header) -> Result<Kind> {
        let size = unsigned(header, header::REAL_SIZE)?;
        let (mut numbers, mut more) = header.sparse_map()?;
        while more {
            let Some(block) = self.tar.block()? else {
                return Err(refuse("the tar ends in its sparse map"));
            };
            let (next, and_more) = block.sparse_extension()?;
            numbers.extend(next);
            more = and_more;
            if size_of_val(&numbers[..]) > self.limits.memory {
                return Err(too_much("its sparse map is too large"));
            }
        }
        self.sparse(&numbers, size, unsigned(header, header::LENGTH)?)
    }

    fn sparse(&mut self, numbers: &[u64], size: u64, stored: u64) -> Result<Kind> {
        let segments = sparse::segments(numbers, size, stored)?;
        let budget = self.limits.memory - self.memory;
        let file = sparse::read(&mut self.tar, &segments, size, budget)?;
        self.afford_chunks(file)
    }

    fn afford_chunks(&mut self, file: sparse::Sparse) -> Result<Kind> {
        self.chunks = self.chunks.saturating_add(file.chunks());
        if self.chunks > self.limits.chunks {
            return Err(too_much(
                "its sparse map is too fine-grained for a file of this size",
            ));
        }
        Ok(Kind::Sparse(Box::new(file)))
    }

    fn meta(&mut self, header: &Header, records: &Records) -> Result<Meta> {
        let id = |key, field| {
            let value = match records.number(key)? {
                Some(value) => value,
                None => unsigned(header, field)?,
            };
            // chown reads -1 as "no change", so it is not a valid ID.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| refuse(format_args!("{key} {value} is not a valid ID")))
        };
        let (mtime, nanoseconds) = match records.mtime()? {
            Some(time) => time,
            None => (header.number(header::MTIME)?, 0),
        };
        Ok(Meta {
            mode: (unsigned(header, header::MODE)? & 0o7777) as u16,
            uid: id("uid", header::UID)?,
            gid: id("gid", header::GID)?,
            mtime,
            nanoseconds,
            xattrs: self.xattrs(records)?,
        })
    }

    /// Keeps `user.*` and `security.capability`, but not `user.overlay.*`: overlayfs in a user namespace
    /// interprets those.
    fn xattrs(&mut self, records: &Records) -> Result<Box<[Xattr]>> {
        let mut kept = Vec::new();
        for (name, value) in records.xattrs() {
            let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if user || name == b"security.capability" {
                kept.push(Xattr {
                    name: name.into(),
                    value: value.into(),
                });
                continue;
            }
            let place = &self.name;
            self.dropped.xattrs += 1;
            self.dropped.note(|| {
                let (name, place) = (
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(place),
                );
                format!("xattr {name} of {place}")
            });
        }
        check_xattrs(&kept)?;
        Ok(kept.into_boxed_slice())
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        if matches!(entry.kind, Kind::Device) {
            self.dropped.devices += 1;
            self.dropped
                .note(|| format!("device {}", String::from_utf8_lossy(&entry.path)));
        }
        self.memory = self.memory.saturating_add(memory(&entry));
        if self.memory > self.limits.memory || self.entries.len() >= self.limits.entries {
            return Err(too_much(
                "the layer has too many entries, or its names and xattrs are too long",
            ));
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// Returns the approximate number of bytes that an entry takes.
fn memory(entry: &Entry) -> usize {
    let xattrs = entry.meta.xattrs.iter();
    let xattrs = xattrs.map(|xattr| size_of_val(xattr) + xattr.name.len() + xattr.value.len());
    let kind = match &entry.kind {
        Kind::Sparse(sparse) => sparse.memory(),
        Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
        _ => 0,
    };
    size_of_val(entry) + entry.path.len() + xattrs.sum::<usize>() + kind
}

/// Checks the limits of the kernel's xattr calls and of EROFS's inline xattrs (linux/limits.h,
/// `XATTR_NAME_MAX`; erofs_fs.h, `e_value_size` and `i_xattr_icount` of 16 bits).
fn check_xattrs(xattrs: &[Xattr]) -> Result<()> {
    let fits = |xattr: &Xattr| {
        (6..=255).contains(&xattr.name.len())
            && !xattr.name.contains(&0)
            && xattr.value.len() <= usize::from(u16::MAX)
    };
    if let Some(xattr) = xattrs.iter().find(|xattr| !fits(xattr)) {
        let name = String::from_utf8_lossy(&xattr.name);
        return Err(refuse(format_args!(
            "the xattr {name} has an invalid name or too long a value"
        )));
    }
    let total: usize = xattrs
        .iter()
        .map(|xattr| 8 + xattr.name.len() + xattr.value.len())
        .sum();
    if total > 4 * usize::from(u16::MAX) {
        return Err(too_much("its xattrs together exceed the limit of an inode"));
    }
    Ok(())
}

fn symlink_target(target: &[u8]) -> Result<Box<[u8]>> {
    if target.is_empty() || target.len() > PATH_LIMIT || target.contains(&0) {
        return Err(refuse(format_args!(
            "the symlink's target has {} bytes or a NUL: expected 1 to {PATH_LIMIT} bytes without NUL",
            target.len()
        )));
    }
    Ok(target.into())
}

fn unsigned(header: &Header, field: header::Field) -> Result<u64> {
    let name = field.1;
    u64::try_from(header.number(field)?)
        .map_err(|_| refuse(format_args!("the {name} in its header is negative")))
}

fn required(size: Option<u64>) -> Result<u64> {
    size.ok_or_else(|| refuse("the sparse file has no real size"))
}

/// Refuses a second header of the same kind: readers differ on which one counts.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(refuse("the entry has two extension headers of one kind")),
    }
}

/// Returns the long name from GNU's header or from PAX. Readers differ on which one counts, so both
/// must be equal.
fn either(gnu: Option<Vec<u8>>, pax: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => {
            Err(refuse("the entry has two different long names"))
        }
        (gnu, pax) => Ok(gnu.or_else(|| pax.map(<[u8]>::to_vec))),
    }
}
