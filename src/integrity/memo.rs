//! Memos: these very files were hashed since boot.
//!
//! ```text
//! /run/imrun/verified/DEVICE-INODE        of the tree image, in hex
//! /run/imrun/verified/DEVICE-INODE.unpacked   the same, and of what is unpacked of it
//! /run/imrun/verified/IDENTITY            of the tree image, where fs-verity marks the files
//!
//! imrun memo 1 BUILD
//! boot BOOT-ID
//! tree IDENTITY MARK
//! layer DIFF-ID MARK       one line for each layer, in order
//! unpacked IDENTITY DIGEST                        of the listing, where files are unpacked
//! hashed DIGEST                                   of the tree image
//! ```
//! A mark is what tells a file's bytes from others: `DEVICE:INODE SIZE MTIME CTIME`, or `fs-verity DIGEST`.
//! One memo covers an image's tree image and all its layers, for the one means nothing without the
//! others. It is never interpreted: it fits when it is, byte for byte, what would be written now.
//! The boot id is in it because the directory may outlive a boot where /run is no tmpfs; the build,
//! because another imrun may have other checks.

use super::watch::Stamp;
use crate::digest::Digest;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::ids;
use crate::paths;
use crate::store::NewFile;
use crate::store::image::{Image, Sources};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

/// Where memos are, in `verified`; an ordinary user's are in `XDG_RUNTIME_DIR/imrun/verified`. It does not follow `--root`: who may choose a place could choose its memos.
const RUNTIME: &str = "/run/imrun";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Bytes of the last line, at most: `hashed sha512:` and 128 digits.
const LAST_LINE: usize = 256;

/// The directory of memos.
pub(super) struct Memos {
    directory: PathBuf,
    boot: String,
}

impl Memos {
    /// Opens the directory, making it if it is not there; the inner error says why there is none.
    ///
    /// # Errors
    /// It is there, and others than root can write to it.
    pub fn open() -> Result<std::result::Result<Memos, String>> {
        let runtime = match ids::is_ordinary()? {
            true => paths::private_runtime(),
            false => Some(PathBuf::from(RUNTIME)),
        };
        let Some(runtime) = runtime else {
            return Ok(Err("XDG_RUNTIME_DIR names no directory for them".into()));
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

    /// The digest of the tree image, when a memo of files with these marks fits.
    pub fn find(&self, image: &Image, marks: &Marks) -> Result<Option<Digest>> {
        let path = self.directory.join(marks.name(image));
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.context(|| format!("open({path:?})"))?,
        };
        let expected = head(&self.boot, image, marks);
        let limit = expected.len() + LAST_LINE;
        let mut text = Vec::with_capacity(limit);
        file.take(limit as u64)
            .read_to_end(&mut text)
            .context(|| format!("read({path:?})"))?;
        // An image that is named by another algorithm has its tree image hashed by that.
        let algorithm = image.digest.algorithm();
        Ok(hashed(&text, &expected).filter(|digest| digest.algorithm() == algorithm))
    }

    /// Makes a memo: these files were hashed, and the tree image has this digest.
    pub fn write(
        &self,
        image: &Image,
        marks: &Marks,
        tree: &Digest,
    ) -> std::result::Result<(), String> {
        let text = format!("{}hashed {tree}\n", head(&self.boot, image, marks));
        let put = || {
            let mut new = NewFile::beneath(&self.directory)?;
            new.file
                .write_all(text.as_bytes())
                .context(|| format!("write({:?})", self.directory))?;
            new.name(&self.directory.join(marks.name(image))) // it need not outlive this boot
        };
        put().map_err(|error| error.to_string())
    }
}

/// A directory that somebody else could write to would let him vouch for any file.
fn refuse_foreign(directory: &Path) -> Result<()> {
    if paths::is_own(directory, 0o022)? {
        return Ok(());
    }
    let why =
        "is not a directory that its user alone can write to: what was verified could be forged";
    Err(Error::policy(format_args!("{directory:?}"), why)
        .hint("find out who made it, and remove it: imrun makes it again"))
}

/// What tells the bytes of an image's files from others, the tree image's first.
pub(super) enum Marks {
    /// Their inodes.
    Stamps(Vec<Stamp>),
    /// The same, and what the inodes of the unpacked files say.
    Unpacked(Vec<Stamp>, Digest),
    /// fs-verity's digests.
    Measures(Vec<Digest>),
}

impl Marks {
    /// The stamps of files as they are now.
    pub fn stamps(sources: &Sources) -> Result<Marks> {
        Marks::stamps_of(sources).map(Marks::Stamps)
    }

    /// The same, without what they are for.
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

/// All lines but the last; `boot` ends with a newline, as the kernel gives it.
fn head(boot: &str, image: &Image, marks: &Marks) -> String {
    let identity = [("tree", image.tree_identity())];
    let layers = image.config.diff_ids.iter().map(|id| ("layer", *id));
    // Of the last one only where there is a mark for it.
    let objects = identity.into_iter().chain(layers);
    let objects = objects.chain([("unpacked", image.tree_identity())]);
    let mut text = format!("imrun memo 1 {}\nboot {boot}", env!("IMRUN_BUILD"));
    for ((kind, digest), mark) in objects.zip(marks.lines()) {
        writeln!(text, "{kind} {digest} {mark}").expect("a String takes all");
    }
    text
}

/// The digest on the last line of a memo whose other lines are the expected ones.
fn hashed(text: &[u8], expected: &str) -> Option<Digest> {
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
    fn what_was_written_fits_and_no_part_of_it_does() {
        let (text, digest) = memo();
        assert_eq!(hashed(&text, HEAD), Some(digest));
        for end in 0..text.len() {
            assert_eq!(hashed(&text[..end], HEAD), None, "{end} bytes");
        }
        assert_eq!(hashed(&[&text[..], b"\n"].concat(), HEAD), None);
        assert_eq!(hashed(&text, &HEAD.replace("boot 1", "boot 2")), None);
    }

    proptest! {
        #[test]
        fn a_memo_with_another_byte_does_not_fit_or_names_another_digest(
            at in 0..memo().0.len(),
            byte: u8,
        ) {
            let (mut text, digest) = memo();
            prop_assume!(text[at] != byte);
            text[at] = byte;
            prop_assert_ne!(hashed(&text, HEAD), Some(digest));
            prop_assert!(at >= HEAD.len() || hashed(&text, HEAD).is_none());
        }

        #[test]
        fn other_bytes_never_fit(text: Vec<u8>) {
            prop_assert_eq!(hashed(&text, HEAD), None);
        }
    }
}
