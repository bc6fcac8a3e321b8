//! Memos: records that exactly these files were hashed since boot.
//!
//! ```text
//! /run/imrun/verified/DEVICE-INODE            memo of a tree image, by its device and inode in hex
//! /run/imrun/verified/DEVICE-INODE.unpacked   memo of a tree image and its unpacked files
//! /run/imrun/verified/IDENTITY                memo of a tree image whose files have fs-verity
//!
//! imrun memo 1 BUILD
//! boot BOOT-ID
//! tree IDENTITY MARK
//! layer DIFF-ID MARK             one line per layer, in order
//! unpacked IDENTITY DIGEST       digest of the listing, if files are unpacked
//! hashed DIGEST                  digest of the tree image
//! ```
//! A mark identifies a file's content: `DEVICE:INODE SIZE MTIME CTIME`, or `fs-verity DIGEST`. One memo
//! covers an image's tree image and all its layers, because neither means anything without the other.
//! imrun never parses a memo: it matches if it is byte for byte what imrun would write now. It has the
//! boot id, because the directory may outlive a boot if /run is not a tmpfs, and the build, because
//! another imrun may check differently.

use super::watch::Stamp;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::ids;
use crate::base::paths;
use crate::store::NewFile;
use crate::store::image::{Image, Sources};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

/// Directory that contains `verified`, the directory of memos; for an ordinary user it is
/// `XDG_RUNTIME_DIR/imrun`. It does not depend on `--root`: whoever can choose a directory could choose
/// its memos.
const RUNTIME: &str = "/run/imrun";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Maximum length of the last line, in bytes: `hashed sha512:` and 128 digits.
const LAST_LINE: usize = 256;

/// Directory of memos.
pub(super) struct Memos {
    directory: PathBuf,
    boot: String,
}

impl Memos {
    /// Opens the directory, creating it if necessary. The inner error is the reason why there is none.
    ///
    /// # Errors
    /// Others than root can write to the directory.
    pub fn open() -> Result<std::result::Result<Memos, String>> {
        let runtime = if ids::is_ordinary()? {
            paths::private_runtime()
        } else {
            Some(PathBuf::from(RUNTIME))
        };
        let Some(runtime) = runtime else {
            return Ok(Err("XDG_RUNTIME_DIR names no directory for memos".into()));
        };
        let directory = runtime.join("verified");
        for directory in [&runtime, &directory] {
            if let Err(error) = files::make_directory(directory) {
                return Ok(Err(error.to_string()));
            }
            refuse_foreign(directory)?;
        }
        files::close_to_others(&directory, |_| Some(0))?;
        let boot = std::fs::read_to_string(BOOT_ID).context(|| format!("read({BOOT_ID:?})"))?;
        Ok(Ok(Memos { directory, boot }))
    }

    /// Returns the digest of the tree image if a memo of files with these marks matches.
    pub fn find(&self, image: &Image, marks: &Marks) -> Result<Option<Digest>> {
        let path = self.directory.join(marks.name(image));
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.context(|| format!("open({path:?})"))?,
        };
        let expected = expected_lines(&self.boot, image, marks);
        let limit = expected.len() + LAST_LINE;
        let mut text = Vec::with_capacity(limit);
        file.take(limit as u64)
            .read_to_end(&mut text)
            .context(|| format!("read({path:?})"))?;
        // An image named by another algorithm has its tree image hashed with that algorithm.
        let algorithm = image.digest.algorithm();
        Ok(parse_digest(&text, &expected).filter(|digest| digest.algorithm() == algorithm))
    }

    /// Writes a memo: these files were hashed, and the tree image has this digest.
    pub fn write(
        &self,
        image: &Image,
        marks: &Marks,
        tree: &Digest,
    ) -> std::result::Result<(), String> {
        let text = format!(
            "{}hashed {tree}\n",
            expected_lines(&self.boot, image, marks)
        );
        let put = || {
            let mut new = NewFile::beneath(&self.directory)?;
            new.file
                .write_all(text.as_bytes())
                .context(|| format!("write({:?})", self.directory))?;
            new.name(&self.directory.join(marks.name(image))) // no fsync: it need not survive this boot
        };
        put().map_err(|error| error.to_string())
    }
}

/// Refuses a directory that another user can write to: he could vouch for any file.
fn refuse_foreign(directory: &Path) -> Result<()> {
    if paths::is_own(directory, 0o022)? {
        return Ok(());
    }
    let why = "is not writable by this user alone: others could forge memos";
    Err(Error::policy(format_args!("{directory:?}"), why)
        .hint("find out who created it, and remove it: imrun creates it again"))
}

/// Marks that identify the content of an image's files, the tree image's first.
pub(super) enum Marks {
    /// Stamps of their inodes.
    Stamps(Vec<Stamp>),
    /// Stamps of their inodes, and the digest of the listing of the unpacked files.
    Unpacked(Vec<Stamp>, Digest),
    /// Their fs-verity digests.
    Measures(Vec<Digest>),
}

impl Marks {
    /// Returns the current stamps of the files, as marks.
    pub fn stamps(sources: &Sources) -> Result<Marks> {
        Marks::stamps_of(sources).map(Marks::Stamps)
    }

    /// Returns the current stamps of the files.
    pub fn stamps_of(sources: &Sources) -> Result<Vec<Stamp>> {
        let files = std::iter::once(&sources.tree).chain(&sources.tars);
        let stamps = files.map(Stamp::of).collect::<std::io::Result<_>>();
        stamps.context(|| "fstat(layer)")
    }

    fn name(&self, image: &Image) -> String {
        let inode = |stamps: &[Stamp]| format!("{:x}-{:x}", stamps[0].device, stamps[0].inode);
        match self {
            Marks::Stamps(stamps) => inode(stamps),
            Marks::Unpacked(stamps, _) => inode(stamps) + ".unpacked",
            Marks::Measures(_) => image.tree_identity().hex(),
        }
    }

    fn lines(&self) -> Vec<String> {
        match self {
            Marks::Stamps(stamps) => stamps.iter().map(Stamp::to_string).collect(),
            Marks::Unpacked(stamps, listed) => {
                let stamps = stamps.iter().map(Stamp::to_string);
                stamps.chain([listed.to_string()]).collect()
            }
            Marks::Measures(measures) => {
                let line = |digest| format!("fs-verity {digest}");
                measures.iter().map(line).collect()
            }
        }
    }
}

/// Returns all lines but the last. `boot` ends with a newline, as the kernel provides it.
fn expected_lines(boot: &str, image: &Image, marks: &Marks) -> String {
    let identity = [("tree", image.tree_identity())];
    let layers = image.config.diff_ids.iter().map(|id| ("layer", *id));
    // `zip` drops the last one if there is no mark for it.
    let objects = identity.into_iter().chain(layers);
    let objects = objects.chain([("unpacked", image.tree_identity())]);
    let mut text = format!("imrun memo 1 {}\nboot {boot}", env!("IMRUN_BUILD"));
    for ((kind, digest), mark) in objects.zip(marks.lines()) {
        writeln!(text, "{kind} {digest} {mark}").expect("writing to a String cannot fail");
    }
    text
}

/// Returns the digest on the last line of a memo, if its other lines are the expected ones.
fn parse_digest(text: &[u8], expected: &str) -> Option<Digest> {
    let last = text.strip_prefix(expected.as_bytes())?;
    let digest = last.strip_prefix(b"hashed ")?.strip_suffix(b"\n")?;
    std::str::from_utf8(digest).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str =
        "imrun memo 1 abc\nboot 1\ntree sha256:00 fe00:7 512 1.000000005 9.900000000\n";

    fn memo() -> (Vec<u8>, Digest) {
        let digest = Digest::sha256(b"tree");
        (format!("{HEAD}hashed {digest}\n").into_bytes(), digest)
    }

    #[test]
    fn a_memo_matches_and_no_part_of_it_does() {
        let (text, digest) = memo();
        assert_eq!(parse_digest(&text, HEAD), Some(digest));
        for end in 0..text.len() {
            assert_eq!(parse_digest(&text[..end], HEAD), None, "{end} bytes");
        }
        assert_eq!(parse_digest(&[&text[..], b"\n"].concat(), HEAD), None);
        assert_eq!(parse_digest(&text, &HEAD.replace("boot 1", "boot 2")), None);
    }

    proptest! {
        #[test]
        fn a_memo_with_another_byte_does_not_match_or_names_another_digest(
            at in 0..memo().0.len(),
            byte: u8,
        ) {
            let (mut text, digest) = memo();
            prop_assume!(text[at] != byte);
            text[at] = byte;
            prop_assert_ne!(parse_digest(&text, HEAD), Some(digest));
            prop_assert!(at >= HEAD.len() || parse_digest(&text, HEAD).is_none());
        }

        #[test]
        fn other_bytes_never_match(text: Vec<u8>) {
            prop_assert_eq!(parse_digest(&text, HEAD), None);
        }
    }
}
