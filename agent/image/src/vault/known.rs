//! Which pages the vault has, by the hash of their content: those of the segments that one generation refers to.
//!
//! The hash only proposes. Every part's digest is compared whenever it is read, so a collision spoils a generation (of the workload
//! whose memory collides, and loudly) and never changes a byte that is used.

use std::collections::HashMap;

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::Digest;
use xxhash_rust::xxh3::xxh3_128;

use super::segment::{SEGMENT_PAGES, Unpacker};
use super::{Pins, Vault, VaultError};
use crate::ahead::KnownPages;
use crate::chunk::PAGE_BYTES;

/// Pages in order of their segments: the index of a page follows from its segment's place in the list.
#[derive(Debug, Default)]
pub(super) struct Pages {
    table: KnownPages,
    /// Where each segment's pages begin.
    firsts: Vec<u32>,
    count: u32,
}

impl Pages {
    /// Begins the next segment.
    pub(super) fn begin_segment(&mut self) {
        self.firsts.push(self.count);
    }

    /// Notes the next page of the segment begun last.
    pub(super) fn push(&mut self, hash: u128) {
        // Beyond what the table can hold nothing more is known, and everything is stored again: too large, and right.
        if self.table.append(hash) {
            self.count += 1;
        }
    }

    /// Segment and page of this content; `likely` as [`Pages::find`] last gave it, for pages often follow each other.
    pub(super) fn find(&self, hash: u128, likely: &mut u32) -> Option<(u32, u32)> {
        let index = self.table.find(hash, *likely)?;
        *likely = index + 1;
        let segment = self.firsts.partition_point(|first| *first <= index).checked_sub(1)?;
        Some((segment as u32, index - self.firsts[segment]))
    }

    /// The same for these segments alone, in this order.
    pub(super) fn only(&self, segments: &[u32]) -> Pages {
        let mut pages = Pages::default();
        for segment in segments {
            let first = self.firsts[*segment as usize];
            let end = self.firsts.get(*segment as usize + 1).copied().unwrap_or(self.count);
            pages.begin_segment();
            self.table.hashes(first..end).iter().for_each(|hash| pages.push(*hash));
        }
        pages.table = pages.table.finish();
        pages
    }
}

/// What the next generation of a workload may refer to: pages of the segments that this one refers to.
#[derive(Debug)]
pub struct Known {
    pub(super) of: CheckpointId,
    pub(super) pages: Pages,
    pub(super) segments: Vec<(Digest, u32)>,
    /// So much of the segments is of no use any more that the next generation had better be stored anew.
    pub(super) worn: bool,
}

impl Known {
    /// The generation whose pages are known.
    pub fn generation(&self) -> CheckpointId {
        self.of
    }

    /// Whether less than half of what it refers to is still of use, so that the next generation is stored whole.
    pub fn is_worn(&self) -> bool {
        self.worn
    }
}

/// Which of the pages of each segment a generation uses.
#[derive(Default)]
pub(super) struct Usage(HashMap<u32, [u64; SEGMENT_PAGES / 64]>);

impl Usage {
    /// Pages from this one on, as many as `bytes` need.
    pub(super) fn mark(&mut self, segment: u32, page: u32, bytes: u64) {
        let bits = self.0.entry(segment).or_default();
        for page in page as usize..page as usize + bytes.div_ceil(PAGE_BYTES as u64) as usize {
            bits[page / 64] |= 1 << (page % 64);
        }
    }

    /// How many pages are used.
    pub(super) fn pages(&self) -> u64 {
        self.0.values().flatten().map(|bits| u64::from(bits.count_ones())).sum()
    }

    /// The segments of which some page is used, in order.
    pub(super) fn segments(&self) -> Vec<u32> {
        let mut segments: Vec<u32> = self.0.keys().copied().collect();
        segments.sort_unstable();
        segments
    }
}

impl Vault {
    /// Reads the pages of a generation, to know them again: after a restart. Every segment is compared with its digest.
    pub fn known(&self, id: CheckpointId) -> Result<Known, VaultError> {
        let (manifest, _) = self.manifest(id)?;
        let mut pins = Pins::none(&self.inner);
        let missing = pins.hold(manifest.digests());
        if !missing.is_empty() {
            return Err(VaultError::Incomplete { count: missing.len() });
        }
        let (mut pages, mut usage) = (Pages::default(), Usage::default());
        let mut unpacker = Unpacker::new().map_err(|source| self.broken_zstd(source))?;
        for digest in manifest.digests() {
            let raw = self.inner.load(&mut unpacker, digest, true)?;
            pages.begin_segment();
            raw.chunks(PAGE_BYTES).for_each(|page| pages.push(xxh3_128(page)));
        }
        for run in manifest.tables().flat_map(|table| &table.runs) {
            if let Some(segment) = run.0 {
                usage.mark(segment, run.1, run.2);
            }
        }
        let stored: u64 = manifest.segments.iter().map(|(_, pages)| u64::from(*pages)).sum();
        let segments = manifest.segments.iter().map(|(hex, pages)| (hex.0, *pages)).collect();
        Ok(Known { of: id, pages, segments, worn: usage.pages() * 2 < stored })
    }

    pub(super) fn broken_zstd(&self, source: std::io::Error) -> VaultError {
        VaultError::Io { path: self.dir().into(), source }
    }
}
