//! What crosses between two vaults: segments that the other one lacks, as they lie on disk, then the generation's file.

use std::collections::HashSet;

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::Digest;

use super::manifest::{MOST_BYTES, Manifest};
use super::segment::{MOST_FILE_BYTES, SegmentError, Unpacker};
use super::{About, Generation, Pins, Vault, VaultError};
use crate::lock;

impl Vault {
    /// The file of a generation, and the segments that it needs.
    pub fn outline(&self, id: CheckpointId) -> Result<(Vec<u8>, Vec<Digest>), VaultError> {
        let (manifest, file) = self.manifest(id)?;
        Ok((file, manifest.digests().collect()))
    }

    /// The file of a segment, compared with its name.
    pub fn segment(&self, digest: Digest) -> Result<Vec<u8>, VaultError> {
        let path = self.inner.disk.segment(digest);
        let file = self.inner.read_segment(digest)?;
        let mut unpacker = Unpacker::new().map_err(|source| self.broken_zstd(source))?;
        unpacker.unpack_as(digest, &file).map_err(|source| VaultError::Segment { path, source })?;
        Ok(file)
    }

    /// How long the file of a segment is; `None` where it is not here.
    pub fn segment_bytes(&self, digest: Digest) -> Option<u64> {
        lock(&self.inner.stock).length(digest)
    }

    /// How long the file of a generation is.
    pub fn outline_bytes(&self, id: CheckpointId) -> Option<u64> {
        lock(&self.inner.stock).find(id).map(|entry| entry.file_bytes)
    }

    /// Begins to take a generation from another vault.
    pub fn receive(&self) -> Receiving {
        Receiving { vault: self.clone(), pins: Pins::none(&self.inner) }
    }
}

/// What the file of a generation says.
#[derive(Debug, Clone)]
pub struct Outline {
    /// Which generation it is.
    pub id: CheckpointId,
    /// What it is of.
    pub about: About,
    /// What it needs.
    pub segments: Vec<Digest>,
    /// How much it is when it is unpacked.
    pub raw_bytes: u64,
}

impl Outline {
    /// The longest file of a generation.
    pub const MOST_BYTES: usize = MOST_BYTES;

    /// Reads the file of a generation, whoever it comes from.
    pub fn read(file: &[u8]) -> Result<Outline, VaultError> {
        let manifest = Manifest::parse(file)?;
        let (segments, raw_bytes) = (manifest.digests().collect(), manifest.raw_bytes());
        Ok(Outline { id: CheckpointId::from(Digest::of(file)), about: manifest.about, segments, raw_bytes })
    }
}

/// A generation on its way in from another vault. Dropping it leaves nothing behind that no generation needs.
pub struct Receiving {
    vault: Vault,
    pins: Pins,
}

impl Receiving {
    /// Which of these are not here. Those that are stay, until this ends.
    pub fn missing(&mut self, wanted: &[Digest]) -> Vec<Digest> {
        self.pins.hold(wanted.iter().copied())
    }

    /// The same, where one that is here is read and compared, and counts only if it is what its name says. Blocks.
    pub fn missing_or_damaged(&mut self, wanted: &[Digest]) -> Result<Vec<Digest>, VaultError> {
        let mut unpacker = Unpacker::new().map_err(|source| self.vault.broken_zstd(source))?;
        let mut lacking = self.missing(wanted);
        let gone: HashSet<Digest> = lacking.iter().copied().collect();
        for digest in wanted {
            if !gone.contains(digest) && self.vault.inner.load(&mut unpacker, *digest, true).is_err() {
                lacking.push(*digest);
            }
        }
        Ok(lacking)
    }

    /// Verifies the file of a segment and stores it. One that is damaged here is replaced.
    pub fn put(&mut self, digest: Digest, file: &[u8]) -> Result<(), VaultError> {
        let inner = &self.vault.inner;
        let path = inner.disk.segment(digest);
        let bad = |source| VaultError::Segment { path: path.clone(), source };
        if file.len() > MOST_FILE_BYTES {
            return Err(bad(SegmentError::Header));
        }
        let mut unpacker = Unpacker::new().map_err(|source| self.vault.broken_zstd(source))?;
        unpacker.unpack_as(digest, file).map_err(bad)?;
        inner.admit(file.len() as u64)?;
        let new = inner.disk.write_new(&[file])?;
        {
            let mut stock = lock(&inner.stock);
            inner.disk.publish(new, &path)?;
            stock.replace(digest, file.len() as u64);
        }
        self.pins.hold([digest]);
        Ok(())
    }

    /// Makes what has come a generation, durably. Everything that it needs must be here.
    pub fn install(&mut self, file: &[u8]) -> Result<Generation, VaultError> {
        let manifest = Manifest::parse(file)?;
        let id = CheckpointId::from(Digest::of(file));
        if let Some(here) = self.vault.generation(id) {
            self.vault.inner.make_durable(&manifest)?;
            return Ok(here);
        }
        let missing = self.pins.hold(manifest.digests());
        if !missing.is_empty() {
            return Err(VaultError::Incomplete { count: missing.len() });
        }
        let mut unpacker = Unpacker::new().map_err(|source| self.vault.broken_zstd(source))?;
        for (hex, pages) in &manifest.segments {
            let raw = self.vault.inner.load(&mut unpacker, hex.0, true)?;
            if raw.len() != *pages as usize * crate::chunk::PAGE_BYTES {
                let what = format!("the segment {} has not the {pages} pages that it should", hex.0);
                return Err(VaultError::Damaged { id, what });
            }
        }
        self.vault.inner.publish_file(&manifest, file)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.pins = Pins::none(&self.vault.inner);
        // What cannot be removed now is removed at the next opening.
        let _ = self.vault.sweep();
    }
}
