//! The vault: checkpoints on disk, by content.
//!
//! ```text
//! seg/DIGEST                        up to 256 pages, packed, named by the BLAKE3 of their raw bytes; never changed
//! gen/WORKLOAD/NUMBER-ID.json       one checkpoint: what it is about, and of which runs of pages every stream consists
//! gen/WORKLOAD/NUMBER-ID.looked     what the last look at it has shown; nothing is lost with it
//! new/                              what is being written; emptied when the vault is opened
//! ```
//!
//! A *generation* is a checkpoint; its identity is the BLAKE3 of its file. What of it an earlier generation has already is
//! referred to, page by page, so a workload that changed little takes little ([`Known`] proposes by hash). The digest of every part
//! was taken from the raw bytes during the dump; whoever reads compares it, so a wrong page, whatever made it wrong, ends the
//! reading and is named.
//!
//! Order of writing: segments, fsync of each, fsync of their directory, the generation's file, its fsync, its name, fsync of its directory.
//! So a generation that has a name is whole, also when the power went at any point; what has no name is nothing, and the
//! next opening removes what it left. Segments that no generation refers to are rubbish, unless somebody is at work with them (*pins*).
//!
//! - [`Writing`]: chunks in, a generation out. [`VaultImage`]: serves CRIU what is in one.
//! - [`Vault::check`]: reads all of a generation. `ship`: what another node needs of one.
//! - Which generations are kept is not decided here.

mod check;
mod disk;
mod image;
mod known;
mod manifest;
mod publish;
mod segment;
mod ship;
mod stock;
mod tables;
mod writing;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::Digest;
use migrate_proto::name::WorkloadName;
use thiserror::Error;

pub use self::check::Checked;
use self::disk::Disk;
pub use self::image::VaultImage;
pub use self::known::Known;
use self::manifest::Manifest;
pub use self::manifest::{About, ManifestError};
pub use self::segment::SegmentError;
pub use self::ship::{Outline, Receiving};
use self::stock::{Entry, Stock};
pub use self::writing::{Layer, WriteError, Writing};
use crate::lock;

/// Why the vault refuses or fails.
#[derive(Debug, Error)]
pub enum VaultError {
    /// A file could not be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no more room on the disk, or what is to stay free of it is reached.
    #[error("{path}: the disk is full")]
    DiskFull {
        /// Where the vault is.
        path: PathBuf,
    },
    /// More would be stored than is allowed.
    #[error("checkpoints may take {budget} bytes here, and take {used}")]
    OverBudget {
        /// What is allowed.
        budget: u64,
        /// What they take.
        used: u64,
    },
    /// There is no such checkpoint here.
    #[error("there is no checkpoint {id}")]
    Unknown {
        /// Which.
        id: CheckpointId,
    },
    /// A checkpoint is not as it was taken.
    #[error("checkpoint {id} is damaged: {what}")]
    Damaged {
        /// Which.
        id: CheckpointId,
        /// What of it, and how.
        what: String,
    },
    /// A segment is missing or is not what its name says.
    #[error("{path}: {source}")]
    Segment {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: SegmentError,
    },
    /// The file of a checkpoint is none.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A checkpoint refers to segments that are not here.
    #[error("{count} segments of the checkpoint are not here")]
    Incomplete {
        /// How many.
        count: usize,
    },
    /// A checkpoint has no image of that name.
    #[error("the checkpoint has no image '{}'", name.escape_debug())]
    NoImage {
        /// The name.
        name: String,
    },
    /// An image is larger than the caller wants to have in memory.
    #[error("image '{}' has {length} bytes, more than {limit}", name.escape_debug())]
    TooLarge {
        /// The name.
        name: String,
        /// Its length.
        length: u64,
        /// The limit.
        limit: u64,
    },
}

/// How much may be stored.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most that all checkpoints may take.
    pub bytes: u64,
    /// What of the disk stays free.
    pub keep_free: u64,
}

/// What the last look at a generation has shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Looked {
    /// Every byte was as it was taken.
    Sound {
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
    /// It cannot be used.
    Damaged {
        /// What is wrong.
        what: String,
    },
}

/// A checkpoint that is here.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Which.
    pub id: CheckpointId,
    /// What it is of.
    pub about: About,
    /// How much memory and files it holds.
    pub raw_bytes: u64,
    /// What it took on disk beyond what was there before.
    pub new_bytes: u64,
    /// What was seen of it; `None` where nobody has looked yet.
    pub looked: Option<Looked>,
}

impl Generation {
    /// Whether nothing speaks against restoring from it.
    pub fn is_usable(&self) -> bool {
        !matches!(self.looked, Some(Looked::Damaged { .. }))
    }
}

/// A file that should be a generation and is none; nothing of it can be used.
#[derive(Debug, Clone)]
pub struct Broken {
    /// The file.
    pub path: PathBuf,
    /// The workload that it was of.
    pub workload: WorkloadName,
    /// What is wrong with it.
    pub what: String,
}

/// What is stored, shared by all who work with it.
struct Inner {
    disk: Disk,
    limits: Limits,
    stock: Mutex<Stock>,
}

/// The checkpoints of a node.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

impl Vault {
    /// Opens the vault in this directory, which is made where it is not there. Removes what was never finished. Files that should
    /// be generations and are none are told, and left. One process at a time.
    pub fn open(dir: impl Into<PathBuf>, limits: Limits) -> Result<(Vault, Vec<Broken>), VaultError> {
        Vault::open_on(Disk::new(dir.into())?, limits)
    }

    fn open_on(disk: Disk, limits: Limits) -> Result<(Vault, Vec<Broken>), VaultError> {
        disk.clear_new()?;
        let (mut stock, broken) = Stock::read(&disk)?;
        for digest in stock.rubbish() {
            disk.remove(&disk.segment(digest))?;
            stock.forget(digest);
        }
        Ok((Vault { inner: Arc::new(Inner { disk, limits, stock: Mutex::new(stock) }) }, broken))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        self.inner.disk.root()
    }

    /// How much it takes.
    pub fn used_bytes(&self) -> u64 {
        lock(&self.inner.stock).used()
    }

    /// The workloads that have generations here.
    pub fn workloads(&self) -> Vec<WorkloadName> {
        lock(&self.inner.stock).workloads().cloned().collect()
    }

    /// The generations of a workload, oldest first.
    pub fn generations(&self, workload: &WorkloadName) -> Vec<Generation> {
        lock(&self.inner.stock).generations(workload).map(Entry::view).collect()
    }

    /// One of them.
    pub fn generation(&self, id: CheckpointId) -> Option<Generation> {
        lock(&self.inner.stock).find(id).map(Entry::view)
    }

    /// Writes down what a look has shown. It is told again by [`Vault::generations`].
    pub fn note(&self, id: CheckpointId, looked: Looked) -> Result<(), VaultError> {
        let path = {
            let mut stock = lock(&self.inner.stock);
            let entry = stock.find_mut(id).ok_or(VaultError::Unknown { id })?;
            entry.looked = Some(looked.clone());
            entry.path.clone()
        };
        let json = serde_json::to_vec(&looked).map_err(ManifestError::Json)?;
        let new = self.inner.disk.write_new(&[&json])?;
        self.inner.disk.publish(new, &disk::looked(&path))
    }

    /// Removes a generation, and what of it no other one needs.
    pub fn drop_generation(&self, id: CheckpointId) -> Result<(), VaultError> {
        let disk = &self.inner.disk;
        let mut stock = lock(&self.inner.stock);
        let path = stock.find(id).ok_or(VaultError::Unknown { id })?.path.clone();
        // Its name first: what is left when this is interrupted is rubbish, and no generation with holes.
        disk.remove(&path)?;
        disk.remove(&disk::looked(&path))?;
        disk.sync_parent(&path)?;
        stock.remove(id);
        drop(stock);
        self.sweep()
    }

    /// Removes segments that nobody needs or works with.
    pub fn sweep(&self) -> Result<(), VaultError> {
        let mut stock = lock(&self.inner.stock);
        for digest in stock.rubbish() {
            self.inner.disk.remove(&self.inner.disk.segment(digest))?;
            stock.forget(digest);
        }
        Ok(())
    }

    /// The file of a generation.
    fn manifest(&self, id: CheckpointId) -> Result<(Manifest, Vec<u8>), VaultError> {
        let path = lock(&self.inner.stock).find(id).ok_or(VaultError::Unknown { id })?.path.clone();
        let bytes = self.inner.disk.read(&path)?;
        if CheckpointId::from(Digest::of(&bytes)) != id {
            return Err(VaultError::Damaged { id, what: format!("{} has another digest", path.display()) });
        }
        Ok((Manifest::parse(&bytes)?, bytes))
    }
}

/// Segments that must stay, whatever becomes of the generations that refer to them. Ends when dropped.
struct Pins {
    inner: Arc<Inner>,
    held: BTreeMap<[u8; 32], u32>,
}

impl Pins {
    fn none(inner: &Arc<Inner>) -> Pins {
        Pins { inner: inner.clone(), held: BTreeMap::new() }
    }

    /// Pins segments that are there; says which are not.
    fn hold(&mut self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        let mut stock = lock(&self.inner.stock);
        let mut missing = Vec::new();
        for digest in digests {
            if stock.pin(digest) {
                *self.held.entry(digest.0).or_default() += 1;
            } else {
                missing.push(digest);
            }
        }
        missing
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut stock = lock(&self.inner.stock);
        for (digest, times) in &self.held {
            stock.unpin(Digest(*digest), *times);
        }
    }
}

#[cfg(test)]
mod tests;
