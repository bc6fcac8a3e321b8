//! Integrity levels: guarantees about the image's bytes during a launch, and their enforcement.
//!
//! | level | guarantee |
//! |---|---|
//! | `sealed` | the app reads hashed copies in sealed memory, which no write to a file system reaches |
//! | `verity` | the kernel checks each page on read, by fs-verity digests of the manifest or of bytes hashed since boot |
//! | `hashed` | every byte was hashed at this launch |
//! | `known` | every byte was hashed since boot, and no file's inode has changed since |
//!
//! Every launch reads and hashes the manifest and the config, whatever the level. They name the layers,
//! and the layers determine the tree image: no level trusts the store's own metadata.
//!
//! # Limits of `known`
//! `known` does not detect writes that leave an inode's ctime unchanged. All of them need root: writes to
//! the raw block device, below a mounted file system, or through XFS's invisible I/O (CAP_SYS_ADMIN); a
//! clock set back (CAP_SYS_TIME) and a write at the exact nanosecond of the memo; a memo that root itself
//! has written.
//!
//! # Time of the check
//! Each file is checked once, on the descriptor that is mounted, before the mount. A second check after
//! the mount would prove nothing: a later change reaches the app just as one between the two checks does,
//! and neither `known` nor `hashed` covers later reads. Links, renames and mounts over a file do not
//! matter, because the descriptor stays the same.
#![forbid(unsafe_code)]

mod memo;
mod seal;
mod watch;

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::ids::Owners;
use crate::image::unpacked::Model;
use crate::image::verity;
use crate::store::Store;
use crate::store::image::{Image, Sources, Verified};
use crate::store::unpacked::Unpacked;
use memo::{Marks, Memos};
use std::fmt;
pub use watch::take_lease;

/// `--integrity`: weakest level to accept. From strong to weak: sealed, verity, hashed, known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Demand {
    /// The strongest level that costs no time: `verity` if the files have it, else `known` if a memo
    /// matches, else `hashed`.
    Auto,
    /// Copies in sealed memory.
    Sealed,
    /// Pages checked by the kernel on read (fs-verity).
    Verity,
    /// Every byte hashed at this launch.
    Hashed,
    /// Every byte hashed since boot, no file changed since.
    Known,
}

/// Integrity level of the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every byte hashed since boot, no file changed since.
    Known,
    /// Every byte hashed at this launch.
    Hashed,
    /// Pages checked by the kernel, with fs-verity digests from the manifest's verity annotations or of
    /// bytes hashed since boot.
    Verity,
    /// Copies in sealed memory, which were hashed.
    Sealed,
}

impl Level {
    /// Returns its name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Known => "known",
            Level::Hashed => "hashed",
            Level::Verity => "verity",
            Level::Sealed => "sealed",
        }
    }
}

/// State of the memo, which lets the next launch be `known`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memo {
    /// A memo exists and matches.
    Fits,
    /// A memo was written.
    Made,
    /// No memo is needed: the manifest has verity annotations.
    NotNeeded,
    /// No memo could be written, for this reason.
    None(String),
}

impl fmt::Display for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memo::Fits => f.write_str("fits"),
            Memo::Made => f.write_str("made"),
            Memo::NotNeeded => f.write_str("not needed: the manifest has verity annotations"),
            Memo::None(why) => write!(f, "none: {why}"),
        }
    }
}

/// Files that were checked at an integrity level.
pub struct Checked {
    /// Descriptors to mount.
    pub sources: Sources,
    /// Digest of the tree image.
    pub tree_digest: Digest,
    /// Integrity level of the launch.
    pub level: Level,
    /// State of the memo.
    pub memo: Memo,
}

/// Opens an image's files and checks them.
///
/// # Errors
/// Bytes differ; the demanded level is not available; or others than root can write to the directory of
/// memos.
pub fn check(image: &Image, store: &Store, demand: Demand) -> Result<Checked> {
    let sources = image.open(store)?;
    match demand {
        Demand::Verity => match measures(&sources)? {
            Ok(measures) => by_verity(image, store, sources, measures),
            Err(why) => Err(Error::unsupported("--integrity verity", why).hint(WITHOUT_VERITY)),
        },
        Demand::Sealed => sealed(image, store, &sources),
        Demand::Hashed => hashed(image, store, sources),
        Demand::Known => known(image, store, sources),
        Demand::Auto => match measures(&sources)? {
            Ok(measures) => by_verity(image, store, sources, measures),
            Err(_) => known(image, store, sources),
        },
    }
}

/// Opens an image's layers and its unpacked files, unpacking them if necessary, and checks both.
///
/// # Errors
/// Bytes, names or attributes differ; or the demanded level needs a tree image.
pub fn check_unpacked(image: &Image, store: &Store, demand: Demand) -> Result<(Checked, Unpacked)> {
    if let Demand::Sealed | Demand::Verity = demand {
        let level = if demand == Demand::Sealed {
            "sealed"
        } else {
            "verity"
        };
        let why = "the driver overlay does not support this level: it can only hash its files";
        return Err(Error::unsupported(format_args!("--integrity {level}"), why)
            .hint("use --driver erofs or --integrity hashed"));
    }
    let sources = image.open(store)?;
    if let Demand::Auto | Demand::Known = demand
        && let Some((files, tree_digest)) = known_unpacked(image, store, &sources)?
    {
        let checked = Checked {
            sources,
            tree_digest,
            level: Level::Known,
            memo: Memo::Fits,
        };
        return Ok((checked, files));
    }
    let memos = Memos::open()?;
    let watch = memos.and_then(|memos| Ok((memos, watch::begin(&sources)?)));
    let verified = image.verify(store, &sources, false)?;
    let model = Model {
        tree: &verified.merged,
        tars: &sources.tars,
        owners: Owners::own()?,
    };
    let (files, listed) = store.unpack(image, &model, watch::take_lease_unsynced)?;
    let made = watch.and_then(|(memos, watch)| {
        let marks = Marks::Unpacked(watch.end()?, listed?);
        memos.write(image, &marks, &verified.tree_digest)
    });
    let checked = Checked {
        sources,
        tree_digest: verified.tree_digest,
        level: Level::Hashed,
        memo: made.map_or_else(Memo::None, |()| Memo::Made),
    };
    Ok((checked, files))
}

/// Returns the unpacked files and the tree image's digest, if a memo states that they were compared since
/// boot.
fn known_unpacked(
    image: &Image,
    store: &Store,
    sources: &Sources,
) -> Result<Option<(Unpacked, Digest)>> {
    let (Ok(memos), Some(files)) = (Memos::open()?, store.unpacked(image, Owners::own()?)?) else {
        return Ok(None);
    };
    // The comparison that follows reports what is wrong.
    let Ok(listed) = files.list() else {
        return Ok(None);
    };
    let marks = Marks::Unpacked(Marks::stamps_of(sources)?, listed);
    let found = memos.find(image, &marks)?;
    Ok(found.map(|tree_digest| (files, tree_digest)))
}

const WITHOUT_VERITY: &str = "import the image again on a file system with fs-verity (ext4: tune2fs -O verity DEVICE); --integrity sealed guarantees more, --integrity hashed less";

/// Returns the fs-verity digests of the files, the tree image's first. The inner error names a file
/// without fs-verity.
fn measures(sources: &Sources) -> Result<std::result::Result<Vec<Digest>, String>> {
    let mut measures = Vec::new();
    for (name, file) in watch::named(sources) {
        match verity::measure(file)? {
            Some(digest) => measures.push(digest),
            None => return Ok(Err(format!("fs-verity is not turned on for {name}"))),
        }
    }
    Ok(Ok(measures))
}

/// Checks the files by their fs-verity digests. A digest alone does not identify a layer: it must be in
/// the manifest's verity annotations, which the image's digest covers, or belong to bytes that were
/// hashed now or since boot. The measured content cannot change any more, so the order does not matter.
fn by_verity(
    image: &Image,
    store: &Store,
    sources: Sources,
    measures: Vec<Digest>,
) -> Result<Checked> {
    let (tree_digest, memo) = match image.verity_annotations()? {
        Some(annotations) => {
            expect(
                &sources,
                &measures,
                &annotations.measures,
                "the manifest's verity annotation is",
            )
            .map_err(|e| {
                e.hint("run imrun verify to find out whether the file or the annotation is wrong")
            })?;
            (annotations.tree, Memo::NotNeeded)
        }
        None => by_memo(image, store, &sources, measures)?,
    };
    Ok(Checked {
        sources,
        tree_digest,
        level: Level::Verity,
        memo,
    })
}

fn by_memo(
    image: &Image,
    store: &Store,
    sources: &Sources,
    measures: Vec<Digest>,
) -> Result<(Digest, Memo)> {
    let found = match Memos::open()? {
        Ok(memos) => memos.find(image, &Marks::Measures(measures.clone()))?,
        Err(_) => None,
    };
    match found {
        Some(tree_digest) => Ok((tree_digest, Memo::Fits)),
        None => {
            let (verified, memo) = hash_measured(image, store, sources, measures)?;
            Ok((verified.tree_digest, memo))
        }
    }
}

/// Hashes every byte, and writes a memo with the fs-verity digests of the same bytes.
fn hash_measured(
    image: &Image,
    store: &Store,
    sources: &Sources,
    measures: Vec<Digest>,
) -> Result<(Verified, Memo)> {
    let memos = Memos::open()?;
    let verified = image.verify(store, sources, true)?;
    expect(sources, &measures, &verified.measures, "its bytes give")
        .map_err(|e| e.hint("remove the image and import it again"))?;
    let marks = Marks::Measures(measures);
    let made = memos.and_then(|memos| memos.write(image, &marks, &verified.tree_digest));
    Ok((verified, made.map_or_else(Memo::None, |()| Memo::Made)))
}

/// Refuses files whose fs-verity digests are not the expected ones.
fn expect(sources: &Sources, measured: &[Digest], expected: &[Digest], source: &str) -> Result<()> {
    let pairs = measured.iter().zip(expected);
    match watch::named(sources).zip(pairs).find(|(_, (m, e))| m != e) {
        None => Ok(()),
        Some(((name, _), (measured, expected))) => Err(Error::digest(
            name,
            format_args!("fs-verity measures {measured}; {source} {expected}"),
        )),
    }
}

fn known(image: &Image, store: &Store, sources: Sources) -> Result<Checked> {
    let found = match Memos::open()? {
        Ok(memos) => memos.find(image, &Marks::stamps(&sources)?)?,
        Err(_) => None,
    };
    match found {
        Some(tree_digest) => Ok(Checked {
            sources,
            tree_digest,
            level: Level::Known,
            memo: Memo::Fits,
        }),
        None => hashed(image, store, sources),
    }
}

fn sealed(image: &Image, store: &Store, sources: &Sources) -> Result<Checked> {
    let sources = seal::copy(sources)?;
    let verified = image.verify(store, &sources, false)?;
    Ok(Checked {
        sources,
        tree_digest: verified.tree_digest,
        level: Level::Sealed,
        memo: Memo::None("copies were hashed, not the store's own files".into()),
    })
}

fn hashed(image: &Image, store: &Store, sources: Sources) -> Result<Checked> {
    let (verified, memo) = hash(image, store, &sources, false)?;
    Ok(Checked {
        sources,
        tree_digest: verified.tree_digest,
        level: Level::Hashed,
        memo,
    })
}

/// Hashes every byte of the store's files, checks the manifest's verity annotations, and writes a memo
/// for the next launch at the strongest level that needs one.
pub fn verify(image: &Image, store: &Store, sources: &Sources) -> Result<(Verified, Memo)> {
    match measures(sources)? {
        Ok(measures) => hash_measured(image, store, sources, measures),
        Err(_) => hash(image, store, sources, image.verity_annotations()?.is_some()),
    }
}

/// Like [`verify`], for everything that the store has of an image, unpacked files included.
pub fn verify_all(image: &Image, store: &Store) -> Result<()> {
    let sources = image.open(store)?;
    let (verified, _) = verify(image, store, &sources)?;
    let model = Model {
        tree: &verified.merged,
        tars: &sources.tars,
        owners: Owners::own()?,
    };
    store.compare_unpacked(&image.tree_identity(), &model)
}

/// Hashes every byte, and writes a memo if the file system allows one.
fn hash(
    image: &Image,
    store: &Store,
    sources: &Sources,
    measure: bool,
) -> Result<(Verified, Memo)> {
    let memos = Memos::open()?;
    let watch = memos.and_then(|memos| Ok((memos, watch::begin(sources)?)));
    let verified = image.verify(store, sources, measure)?;
    let made = watch.and_then(|(memos, watch)| {
        let stamps = Marks::Stamps(watch.end()?);
        memos.write(image, &stamps, &verified.tree_digest)
    });
    Ok((verified, made.map_or_else(Memo::None, |()| Memo::Made)))
}

#[cfg(all(test, feature = "import"))]
mod tests;
