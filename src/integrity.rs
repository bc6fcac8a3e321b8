//! What a launch promises of its image's bytes, and how the promise is kept.
//!
//! | level | the promise |
//! |---|---|
//! | `sealed` | what was hashed are copies in sealed memory; no write through any file system reaches them |
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
use crate::store::Store;
use crate::store::image::{Image, Sources, Verified};
use memo::Memos;
use std::fmt;
pub use watch::still;

/// `--integrity`: the weakest level that is taken. From strong to weak: sealed, verity, hashed, known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Demand {
    /// The strongest one that costs no time: `known` where a memo fits, else `hashed`.
    Auto,
    /// Sealed copies in memory.
    Sealed,
    /// fs-verity, which imrun does not use yet.
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
    /// Sealed copies in memory, which were hashed.
    Sealed,
}

impl Level {
    /// The word for it in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Known => "known",
            Level::Hashed => "hashed",
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
    /// None could be made, and why.
    None(String),
}

impl fmt::Display for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memo::Fits => f.write_str("fits"),
            Memo::Made => f.write_str("made"),
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
        Demand::Verity => Err(Error::unsupported(
            "--integrity verity",
            "is not there on this host yet: imrun makes no use of fs-verity",
        )
        .hint("--integrity sealed promises more, --integrity hashed less")),
        Demand::Sealed => sealed(image, store, &sources),
        Demand::Hashed => hashed(image, store, sources),
        Demand::Auto | Demand::Known => match Memos::open()? {
            Ok(memos) => match memos.find(image, &sources)? {
                Some(tree_digest) => Ok(Checked {
                    sources,
                    tree_digest,
                    level: Level::Known,
                    memo: Memo::Fits,
                }),
                None => hashed(image, store, sources),
            },
            Err(_) => hashed(image, store, sources),
        },
    }
}

fn sealed(image: &Image, store: &Store, sources: &Sources) -> Result<Checked> {
    let sources = seal::copy(sources)?;
    let verified = image.verify(store, &sources)?;
    Ok(Checked {
        sources,
        tree_digest: verified.tree_digest,
        level: Level::Sealed,
        memo: Memo::None("copies were hashed, not the store's own files".into()),
    })
}

fn hashed(image: &Image, store: &Store, sources: Sources) -> Result<Checked> {
    let (verified, memo) = hash(image, store, &sources)?;
    Ok(Checked {
        sources,
        tree_digest: verified.tree_digest,
        level: Level::Hashed,
        memo,
    })
}

/// Hashes every byte, and makes a memo of it where the file system lets one be made.
pub fn hash(image: &Image, store: &Store, sources: &Sources) -> Result<(Verified, Memo)> {
    let memos = Memos::open()?;
    let watch = memos.and_then(|memos| Ok((memos, watch::begin(sources)?)));
    let verified = image.verify(store, sources)?;
    let made = watch.and_then(|(memos, watch)| {
        let stamps = watch.end()?;
        memos.write(image, &stamps, &verified.tree_digest)
    });
    Ok((verified, made.map_or_else(Memo::None, |()| Memo::Made)))
}
