//! The file of a generation: what it is about, which segments it needs, and of which runs of pages every stream consists.
//!
//! JSON, its format read before anything else of it. It may come from another node, so nothing in it is believed before it has
//! been compared: lengths add up, runs lie within their segments, digests of streams follow from those of their parts.

use std::collections::HashSet;

use migrate_proto::care::Wish;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::record::CheckpointKind;
use migrate_proto::id::{Digest, Epoch};
use migrate_proto::manifest::{MAX_STREAMS, StreamName};
use migrate_proto::message::{Demands, MAX_LAYER_BYTES, Needs};
use migrate_proto::name::NodeName;
use migrate_proto::spec::WorkloadSpec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::segment::SEGMENT_PAGES;
use crate::chunk::{CHUNK_BYTES, PAGE_BYTES, stream_digest, zero_digest};
use crate::layer::{BLOCK_BYTES, layer_digest};

/// The format. 1 is that of what crosses in a move.
const FORMAT: u32 = 2;
/// The longest file of a generation that is read: some hundred GiB of memory.
pub(super) const MOST_BYTES: usize = 64 << 20;
/// What the layer is called among the streams.
pub(super) const LAYER: &str = "layer";

const PAGE: u64 = PAGE_BYTES as u64;

/// Why bytes are no file of a generation.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not JSON, or not with the fields of this format.
    #[error("the checkpoint's file cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Of a format that is not known here.
    #[error("the checkpoint has format {0}; this agent knows format {FORMAT}")]
    Format(u32),
    /// Longer than any that this agent writes.
    #[error("the checkpoint's file has {0} bytes")]
    TooLong(usize),
    /// It contradicts itself.
    #[error("the checkpoint's file contradicts itself: {0}")]
    Inconsistent(String),
}

/// What a checkpoint is of, and what a restore must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// What was asked for when the workload was started.
    pub spec: WorkloadSpec,
    /// Its number among the checkpoints of the workload: the higher, the newer.
    pub number: u64,
    /// When it was taken, milliseconds since 1970.
    pub taken_ms: u64,
    /// Why.
    pub kind: CheckpointKind,
    /// Whether the workload was healthy then.
    pub healthy: bool,
    /// The workload's epoch.
    pub epoch: Epoch,
    /// The node that took it.
    pub node: NodeName,
    /// When the workload was started.
    pub started: Option<String>,
    /// The last PID that was given out in the sandbox.
    pub last_pid: i32,
    /// What a node must have to restore it.
    pub needs: Needs,
    /// What else.
    pub demands: Option<Demands>,
    /// What was to be done for the workload.
    #[serde(default)]
    pub care: Option<Wish>,
}

/// A digest, as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Hex(pub(super) Digest);

impl From<Hex> for String {
    fn from(hex: Hex) -> String {
        hex.0.to_string()
    }
}

impl TryFrom<String> for Hex {
    type Error = migrate_proto::cluster::InvalidIdentity;
    fn try_from(text: String) -> Result<Hex, Self::Error> {
        CheckpointId::try_from(text).map(|id| Hex(Digest(id.0)))
    }
}

/// Bytes that lie one behind the other: the index of the segment, or none for zeros; the first page; how many bytes.
///
/// Only the last page of a run may be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run(pub(super) Option<u32>, pub(super) u32, pub(super) u64);

impl Run {
    /// Appends `next`, or says that it does not follow.
    fn join(&mut self, next: Run) -> bool {
        let (Run(segment, page, bytes), whole) = (*self, self.2.is_multiple_of(PAGE));
        let follows = match segment {
            None => next.0.is_none(),
            Some(_) => next.0 == segment && whole && u64::from(next.1) == u64::from(page) + bytes / PAGE,
        };
        if follows {
            self.2 += next.2;
        }
        follows
    }
}

/// Puts runs together that follow each other.
pub(super) fn joined(runs: impl IntoIterator<Item = Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        if !joined.last_mut().is_some_and(|last| last.join(run)) {
            joined.push(run);
        }
    }
    joined
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) length: u64,
    /// As [`stream_digest`], or the layer's.
    pub(super) digest: Hex,
    /// Length and digest of each part, in order; no digest where all of it is zeros.
    pub(super) parts: Vec<(u64, Option<Hex>)>,
    pub(super) runs: Vec<Run>,
}

/// One part of a stream, and where its bytes are.
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) digest: Option<Digest>,
    pub(super) runs: Vec<Run>,
}

impl Table {
    /// Its parts, each with the runs that it consists of. `None` where a part begins within a page: such a file is refused.
    pub(super) fn split(&self) -> Option<Vec<Part>> {
        let (mut runs, mut rest, mut offset) = (self.runs.iter(), None::<Run>, 0);
        let mut parts = Vec::with_capacity(self.parts.len());
        for (len, digest) in &self.parts {
            let (mut left, mut mine) = (*len, Vec::new());
            while left > 0 {
                let Run(segment, page, bytes) = rest.take().or_else(|| runs.next().copied())?;
                let taken = bytes.min(left);
                mine.push(Run(segment, page, taken));
                if taken < bytes {
                    let next = match segment {
                        None => 0,
                        Some(_) if !taken.is_multiple_of(PAGE) => return None,
                        Some(_) => page + (taken / PAGE) as u32,
                    };
                    rest = Some(Run(segment, next, bytes - taken));
                }
                left -= taken;
            }
            parts.push(Part { offset, len: *len, digest: digest.map(|hex| hex.0), runs: mine });
            offset += len;
        }
        Some(parts)
    }

    fn is_layer(&self) -> bool {
        self.name == LAYER
    }

    fn check(&self, pages: &[u32]) -> Result<(), String> {
        let name = self.name.escape_debug();
        let (parts, runs) = (sum(self.parts.iter().map(|part| part.0)), sum(self.runs.iter().map(|run| run.2)));
        if parts != Some(self.length) || runs != Some(self.length) {
            return Err(format!("'{name}' is not as long as its parts"));
        }
        for Run(segment, page, bytes) in &self.runs {
            let there = match segment {
                None => *page == 0,
                Some(segment) => pages.get(*segment as usize).is_some_and(|pages| {
                    bytes.div_ceil(PAGE).checked_add((*page).into()).is_some_and(|end| end <= u64::from(*pages))
                }),
            };
            if !there || *bytes == 0 {
                return Err(format!("'{name}' has a run that is nowhere"));
            }
        }
        if self.split().is_none() {
            return Err(format!("'{name}' has a part that ends within a page"));
        }
        self.check_digest(name.to_string())
    }

    fn check_digest(&self, name: String) -> Result<(), String> {
        let wrong = |(len, digest): &(u64, Option<Hex>)| {
            *len == 0 || ((digest.is_some() || !self.is_layer()) && *len > CHUNK_BYTES as u64)
        };
        if self.parts.iter().any(wrong) {
            return Err(format!("'{name}' has a part of an impossible length"));
        }
        let digest = if self.is_layer() {
            self.layer_digest().ok_or_else(|| format!("'{name}' has parts that are no blocks"))?
        } else {
            let digests: Vec<Digest> = self
                .parts
                .iter()
                .map(|(len, digest)| digest.map_or_else(|| zero_digest(*len as usize), |hex| hex.0))
                .collect();
            stream_digest(&digests)
        };
        if digest == self.digest.0 { Ok(()) } else { Err(format!("'{name}' has another digest than its parts")) }
    }

    /// The digest of a layer with these parts; `None` where they are none of a layer.
    fn layer_digest(&self) -> Option<Digest> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        if self.length > MAX_LAYER_BYTES {
            return None;
        }
        let (mut at, mut blocks) = (0u64, Vec::new());
        for (len, digest) in &self.parts {
            if !at.is_multiple_of(BLOCK) {
                return None;
            }
            if let Some(Hex(digest)) = digest {
                if *len != BLOCK.min(self.length - at) {
                    return None;
                }
                blocks.push((at / BLOCK, *digest));
            }
            at += len;
        }
        Some(layer_digest(self.length, blocks))
    }
}

/// `None` where they are more than anything.
fn sum(mut lens: impl Iterator<Item = u64>) -> Option<u64> {
    lens.try_fold(0u64, |sum, len| sum.checked_add(len))
}

/// The file of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) about: About,
    /// What it took on disk beyond what was there.
    pub(super) new_bytes: u64,
    /// The segments that it needs, and how many pages each has.
    pub(super) segments: Vec<(Hex, u32)>,
    pub(super) layer: Table,
    /// CRIU's images.
    pub(super) images: Vec<Table>,
}

impl Manifest {
    pub(super) fn new(
        about: About,
        new_bytes: u64,
        segments: Vec<(Hex, u32)>,
        layer: Table,
        images: Vec<Table>,
    ) -> Self {
        Manifest { format: FORMAT, about, new_bytes, segments, layer, images }
    }

    /// Reads one, and believes nothing.
    pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        if bytes.len() > MOST_BYTES {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let FormatOnly { format } = serde_json::from_slice(bytes)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        manifest.check().map_err(ManifestError::Inconsistent)?;
        Ok(manifest)
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// The layer, and every image.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.layer).chain(&self.images)
    }

    /// The segments' digests.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.segments.iter().map(|(hex, _)| hex.0)
    }

    pub(super) fn raw_bytes(&self) -> u64 {
        // Zeros of the layer are no content: it is a sparse file.
        let content = |table: &Table| table.runs.iter().filter(|run| run.0.is_some()).map(|run| run.2).sum::<u64>();
        content(&self.layer) + self.images.iter().map(|table| table.length).sum::<u64>()
    }

    fn check(&self) -> Result<(), String> {
        let pages: Vec<u32> = self.segments.iter().map(|(_, pages)| *pages).collect();
        if pages.iter().any(|pages| !(1..=SEGMENT_PAGES as u32).contains(pages)) {
            return Err("a segment has an impossible number of pages".into());
        }
        let mut distinct = HashSet::new();
        if !self.segments.iter().all(|(hex, _)| distinct.insert(hex.0)) {
            return Err("a segment is named twice".into());
        }
        if !self.layer.is_layer() {
            return Err("the layer has another name".into());
        }
        if self.images.is_empty() || self.images.len() > MAX_STREAMS {
            return Err(format!("it lists {} images", self.images.len()));
        }
        let mut names = HashSet::new();
        for image in &self.images {
            if StreamName::image(&image.name).is_err() || !names.insert(image.name.as_str()) {
                return Err(format!("'{}' is no name of an image, or is there twice", image.name.escape_debug()));
            }
        }
        sum(self.tables().map(|table| table.length)).ok_or("its streams are longer than anything")?;
        self.tables().try_for_each(|table| table.check(&pages))
    }
}
