//! What a launch promises of its image's bytes, and how the promise is kept.
//!
//! | level | the promise |
//! |---|---|
//! | `sealed` | what was hashed are copies in sealed memory; no write through any file system reaches them |
//! | `verity` | the kernel checks each page that it reads by a digest that the manifest is sealed with, or that fits bytes which were hashed since boot |
//! | `hashed` | every byte was hashed at this launch |
//! | `known` | every byte was hashed since boot, and no file was changed since, as its inode tells |
//!
//! The manifest and the config are read and hashed at every launch, whatever the level. Manifest
//! and config name the layers, these the tree image: no level trusts what the store says of itself.
//!
//! # What `known` cannot see
//! Writes that leave an inode's ctime alone, all of them root's: to the raw block device, below a
//! mounted file system, or by XFS's invisible I/O (CAP_SYS_ADMIN); a clock set back (CAP_SYS_TIME)
//! and a write at the very nanosecond of the memo. And a memo that root itself has written.
//!
//! # When a file is looked at
//! Once, on the descriptor that is mounted, before the mount. A second look behind it would prove
//! nothing: a change that comes after the second look reaches the app just as one between the two
//! does, for what is read later is not promised by `known` nor by `hashed`. The descriptor is what
//! keeps names (links, renames, mounts over them) out of it.
#![forbid(unsafe_code)]

mod memo;
mod seal;
mod watch;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::ids::Owners;
use crate::store::Store;
use crate::store::image::{Image, Sources, Verified};
use crate::store::unpacked::Unpacked;
use crate::unpacked::Model;
use crate::verity;
use memo::{Marks, Memos};
use std::fmt;
pub use watch::still;

/// `--integrity`: the weakest level that is taken. From strong to weak: sealed, verity, hashed, known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Demand {
    /// The strongest one that costs no time: `verity` where the files have it, else `known` where a
    /// memo fits, else `hashed`.
    Auto,
    /// Sealed copies in memory.
    Sealed,
    /// Each page checked by the kernel when it is read (fs-verity).
    Verity,
    /// Every byte hashed at this launch.
    Hashed,
    /// Hashed since boot, unchanged since.
    Known,
}

/// The level that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Hashed since boot, unchanged since.
    Known,
    /// Every byte hashed at this launch.
    Hashed,
    /// fs-verity's digests are those of the manifest's seal, or of bytes that were hashed since boot.
    Verity,
    /// Sealed copies in memory, which were hashed.
    Sealed,
}

impl Level {
    /// The word for it in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Known => "known",
            Level::Hashed => "hashed",
            Level::Verity => "verity",
            Level::Sealed => "sealed",
        }
    }
}

/// What became of the memo that would make the next launch `known`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memo {
    /// There was one, and it still fits.
    Fits,
    /// One was made.
    Made,
    /// None is needed: the manifest is sealed.
    Sealed,
    /// None could be made, and why.
    None(String),
}

impl fmt::Display for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memo::Fits => f.write_str("fits"),
            Memo::Made => f.write_str("made"),
            Memo::Sealed => f.write_str("not needed: the manifest is sealed"),
            Memo::None(why) => write!(f, "none: {why}"),
        }
    }
}

/// Files whose bytes are the image's, at the level that is told.
pub struct Checked {
    /// The descriptors to mount.
    pub sources: Sources,
    /// The digest of the tree image.
    pub tree_digest: Digest,
    /// The level that holds.
    pub level: Level,
    /// What became of the memo.
    pub memo: Memo,
}

/// Opens an image's files and checks them.
///
/// # Errors
/// Bytes that differ; a level that was demanded and cannot be had; a directory of memos that
/// others than root can write to.
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

/// Opens an image's layers and its unpacked files, which are made if they are not there, and checks
/// both.
///
/// # Errors
/// Bytes, names or attributes that differ; a level that only a tree image can have.
pub fn check_unpacked(image: &Image, store: &Store, demand: Demand) -> Result<(Checked, Unpacked)> {
    if let Demand::Sealed | Demand::Verity = demand {
        let level = if demand == Demand::Sealed {
            "sealed"
        } else {
            "verity"
        };
        let why = "the driver overlay has no such level: its files are many, and only hashed";
        return Err(Error::unsupported(format_args!("--integrity {level}"), why)
            .hint("--driver erofs, or --integrity hashed"));
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
    let (files, listed) = store.unpack(image, &model, watch::still_one)?;
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

/// Unpacked files of which a memo says that they were compared since boot, and the tree image's digest.
fn known_unpacked(
    image: &Image,
    store: &Store,
    sources: &Sources,
) -> Result<Option<(Unpacked, Digest)>> {
    let (Ok(memos), Some(files)) = (Memos::open()?, store.unpacked(image, Owners::own()?)?) else {
        return Ok(None);
    };
    // What is wrong with them is told by the comparison that follows.
    let Ok(listed) = files.list() else {
        return Ok(None);
    };
    let marks = Marks::Unpacked(Marks::stamps_of(sources)?, listed);
    let found = memos.find(image, &marks)?;
    Ok(found.map(|tree_digest| (files, tree_digest)))
}

const WITHOUT_VERITY: &str = "import it again where the store's file system has fs-verity (ext4: tune2fs -O verity DEVICE); --integrity sealed promises more, --integrity hashed less";

/// The digests by which the kernel checks the files, the tree image's first; or which of them it does
/// not check.
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

/// A digest that the kernel has says nothing of a layer: it must be one that the manifest is sealed
/// with, for what was typed covers that; or the one of bytes that were hashed, now or since boot. What
/// the kernel measures cannot change any more, so the order does not matter.
fn by_verity(
    image: &Image,
    store: &Store,
    sources: Sources,
    measures: Vec<Digest>,
) -> Result<Checked> {
    let (tree_digest, memo) = match image.seal()? {
        Some(seal) => {
            expect(
                &sources,
                &measures,
                &seal.measures,
                "its manifest is sealed with",
            )
            .map_err(|e| e.hint("imrun verify tells whether the file or the seal is false"))?;
            (seal.tree, Memo::Sealed)
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

/// Hashes every byte, and makes a memo of what the kernel measures of the same bytes.
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

/// Refuses files that the kernel checks by other digests than the expected ones.
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

/// Hashes every byte of the store's files and checks the manifest's seal, and makes a memo for the
/// next launch, at the strongest level that needs one.
pub fn verify(image: &Image, store: &Store, sources: &Sources) -> Result<(Verified, Memo)> {
    match measures(sources)? {
        Ok(measures) => hash_measured(image, store, sources, measures),
        Err(_) => hash(image, store, sources, image.seal()?.is_some()),
    }
}

/// The same of all that the store has of an image: of what is unpacked of it, too.
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

/// Hashes every byte, and makes a memo of it where the file system lets one be made.
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
