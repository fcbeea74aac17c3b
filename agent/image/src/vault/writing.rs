//! Chunks in, a generation out.
//!
//! A chunk is cut at the pages of its stream. A page that is known is referred to, zeros are said, and everything else goes, in the
//! order in which it comes, into the segment that is open. The last page of a chunk may be short; it takes a whole page there, filled up
//! with zeros, so that what did not change is known again whatever comes behind it.
//!
//! Nothing is durable before [`Writing::commit`], so a chunk costs no more than hashing, and its new pages' compression.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use migrate_proto::id::Digest;
use migrate_proto::name::WorkloadName;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

use super::known::{Pages, Usage};
use super::manifest::{About, Hex, Manifest, Run, joined};
use super::segment::{Packer, SEGMENT_BYTES};
use super::tables::{layer_table, tables};
use super::{Generation, Inner, Known, Pins, Vault, VaultError};
use crate::chunk::{
    AHEAD_STREAM, ChunkError, ChunkHeader, Content, Decoder, Encoding, LAYER_STREAM, PAGE_BYTES, StreamSummary, ZEROS,
    is_zero,
};
use crate::incoming::Absorb;
use crate::layer::BLOCK_BYTES;
use crate::lock;
use crate::store::StreamError;

/// Why a generation cannot be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The vault refuses or fails.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A chunk is bad.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// It does not fit with the others, or a stream is not what was announced.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// The layer that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// How long it is.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A generation on its way into the vault. Dropping it leaves nothing behind.
pub struct Writing {
    inner: Arc<Inner>,
    state: Mutex<State>,
    packers: Mutex<Vec<Packer>>,
}

/// A segment that is referred to.
#[derive(Clone, Copy)]
struct Slot {
    pages: u32,
    /// None until it is stored.
    digest: Option<Digest>,
}

/// Some bytes of a stream; no digest where they are all zeros.
pub(super) struct Part {
    pub(super) len: u32,
    pub(super) digest: Option<Digest>,
    pub(super) runs: Vec<Run>,
}

struct State {
    pins: Pins,
    pages: Pages,
    slots: Vec<Slot>,
    /// The pages of the last slot, where that is not full.
    open: Vec<u8>,
    streams: BTreeMap<u32, BTreeMap<u64, Part>>,
    /// Blocks of the layer that are not zeros.
    blocks: BTreeMap<u64, Part>,
    /// How many of the slots are of what was known.
    old: usize,
    sealed: bool,
}

/// Bytes within one page of a stream.
struct Piece<'a> {
    bytes: &'a [u8],
    /// None for zeros.
    hash: Option<u128>,
}

/// Pages that fill a segment.
struct Full {
    slot: usize,
    raw: Vec<u8>,
}

impl Vault {
    /// Begins a generation. Of what is `known` nothing is stored again; where that is worn or cannot be relied upon any more, everything
    /// is.
    pub fn begin(&self, known: Option<Known>) -> Writing {
        let mut pins = Pins::none(&self.inner);
        let usable = |known: &Known| {
            let still_there = self.generation(known.of).is_some_and(|generation| generation.is_usable());
            still_there && !known.worn && pins.hold(known.segments.iter().map(|(digest, _)| *digest)).is_empty()
        };
        let (pages, slots) = match known.filter(usable) {
            Some(Known { pages, segments, .. }) => {
                (pages, segments.into_iter().map(|(digest, pages)| Slot { pages, digest: Some(digest) }).collect())
            }
            None => <(Pages, Vec<Slot>)>::default(),
        };
        let state = State {
            pins,
            pages,
            old: slots.len(),
            slots,
            open: Vec::new(),
            streams: BTreeMap::new(),
            blocks: BTreeMap::new(),
            sealed: false,
        };
        Writing { inner: self.inner.clone(), state: Mutex::new(state), packers: Mutex::default() }
    }

    /// The number of the next generation of a workload.
    pub fn next_number(&self, workload: &WorkloadName) -> u64 {
        self.generations(workload).last().map_or(1, |generation| generation.about.number + 1)
    }
}

impl Writing {
    /// Takes what is new of a chunk that was made on this node. Any order, any thread; of the layer, later rounds only after all of the
    /// earlier. The digest is believed: it was taken from these bytes a moment ago, and is what every later look compares them with.
    ///
    /// After an error nothing can become of the generation.
    pub fn take(&self, header: &ChunkHeader, bytes: &[u8]) -> Result<(), WriteError> {
        let full = match header.encoding {
            Encoding::Raw | Encoding::Zero => self.take_content(header, &header.uncompressed(bytes)?)?,
            Encoding::Zstd | Encoding::Refs => {
                let mut decoder = Decoder::new()?;
                self.take_content(header, &decoder.decode(header, bytes)?)?
            }
        };
        full.into_iter().try_for_each(|full| self.store(full))
    }

    fn take_content(&self, header: &ChunkHeader, content: &Content<'_>) -> Result<Vec<Full>, WriteError> {
        match header.stream {
            LAYER_STREAM => self.take_blocks(header, content),
            _ => self.take_part(header, content),
        }
    }

    fn take_part(&self, header: &ChunkHeader, content: &Content<'_>) -> Result<Vec<Full>, WriteError> {
        let ChunkHeader { stream, offset, raw_len: len, digest, .. } = *header;
        let Content::Bytes(raw) = content else {
            if stream != AHEAD_STREAM {
                let runs = vec![Run(None, 0, len.into())];
                self.unsealed(stream)?.add(stream, offset, Part { len, digest: None, runs })?;
            }
            return Ok(Vec::new());
        };
        let pieces = pieces(raw, offset);
        let mut state = self.unsealed(stream)?;
        let (runs, full) = state.refer(&pieces);
        if stream != AHEAD_STREAM {
            state.add(stream, offset, Part { len, digest: Some(digest), runs })?;
        }
        Ok(full)
    }

    fn take_blocks(&self, header: &ChunkHeader, content: &Content<'_>) -> Result<Vec<Full>, WriteError> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let ChunkHeader { stream, offset, raw_len: len, .. } = *header;
        if !offset.is_multiple_of(BLOCK) {
            return Err(StreamError::Overlap { stream, offset, len }.into());
        }
        let raw = match content {
            Content::Zeros(len) => &ZEROS[..*len],
            Content::Bytes(raw) => raw,
        };
        let blocks: Vec<_> = (offset / BLOCK..)
            .zip(raw.chunks(BLOCK_BYTES))
            .map(|(index, block)| {
                (index, block.len() as u32, (!is_zero(block)).then(|| (Digest::of(block), pieces(block, 0))))
            })
            .collect();
        let (mut state, mut stored) = (self.unsealed(stream)?, Vec::new());
        for (index, len, content) in blocks {
            let Some((digest, pieces)) = content else {
                state.blocks.remove(&index);
                continue;
            };
            let (runs, full) = state.refer(&pieces);
            stored.extend(full);
            state.blocks.insert(index, Part { len, digest: Some(digest), runs });
        }
        Ok(stored)
    }

    fn unsealed(&self, stream: u32) -> Result<MutexGuard<'_, State>, StreamError> {
        let state = lock(&self.state);
        if state.sealed { Err(StreamError::Closed { stream }) } else { Ok(state) }
    }

    /// Writes a segment down, unless there is one like it.
    fn store(&self, Full { slot, raw }: Full) -> Result<(), WriteError> {
        let digest = Digest::of(&raw);
        if !self.pin(digest) {
            let Inner { disk, .. } = &*self.inner;
            let mut packer = match lock(&self.packers).pop() {
                Some(packer) => packer,
                None => Packer::new().map_err(|source| VaultError::Io { path: disk.root().into(), source })?,
            };
            let packed = packer.pack(&raw).map_err(|source| VaultError::Io { path: disk.root().into(), source })?;
            let (head, body) = packed;
            let length = (head.len() + body.len()) as u64;
            self.inner.admit(length)?;
            let new = disk.write_new(&[&head, body])?;
            disk.publish(new, &disk.segment(digest))?;
            lock(&self.inner.stock).add(digest, length, false);
            self.pin(digest);
            lock(&self.packers).push(packer);
        }
        lock(&self.state).slots[slot].digest = Some(digest);
        Ok(())
    }

    fn pin(&self, digest: Digest) -> bool {
        lock(&self.state).pins.hold([digest]).is_empty()
    }

    /// Compares everything with what was announced and makes it a generation, durably. Blocks until it is on disk.
    pub fn commit(
        &self,
        about: About,
        images: &[StreamSummary],
        layer: Layer,
    ) -> Result<(Generation, Known), WriteError> {
        let last = {
            let mut state = self.unsealed(LAYER_STREAM)?;
            state.sealed = true;
            state.last()
        };
        last.map_or(Ok(()), |full| self.store(full))?;
        let mut state = lock(&self.state);
        let State { streams, blocks, slots, pages, old, .. } = &mut *state;
        let mut tables = tables(std::mem::take(streams), images)?;
        let mut layer = layer_table(std::mem::take(blocks), layer)?;
        let mut usage = Usage::default();
        for Run(segment, page, bytes) in tables.iter().chain([&layer]).flat_map(|table| &table.runs) {
            if let Some(segment) = segment {
                usage.mark(*segment, *page, *bytes);
            }
        }
        // Of what was copied ahead, and of the last generation, not everything is of use.
        let used = usage.segments();
        let unwritten = || StreamError::Unwritten { stream: LAYER_STREAM };
        let segments = used.iter().map(|slot| {
            let Slot { pages, digest } = slots[*slot as usize];
            Ok((digest.ok_or_else(unwritten)?, pages))
        });
        let segments = segments.collect::<Result<Vec<_>, StreamError>>()?;
        for run in tables.iter_mut().chain([&mut layer]).flat_map(|table| &mut table.runs) {
            run.0 = run.0.and_then(|slot| used.binary_search(&slot).ok()).map(|place| place as u32);
        }
        let stored: u64 = segments.iter().map(|(_, pages)| u64::from(*pages)).sum();
        let new = segments.iter().zip(&used).filter(|(_, slot)| **slot as usize >= *old);
        let new_bytes = {
            let stock = lock(&self.inner.stock);
            new.filter_map(|((digest, _), _)| stock.length(*digest)).sum()
        };
        let named = segments.iter().map(|(digest, pages)| (Hex(*digest), *pages)).collect();
        let manifest = Manifest::new(about, new_bytes, named, layer, tables);
        let generation = self.inner.publish(&manifest)?;
        let known = Known {
            of: generation.id,
            pages: std::mem::take(pages).only(&used),
            segments,
            worn: usage.pages() * 2 < stored,
        };
        Ok((generation, known))
    }
}

impl Absorb for Writing {
    type Error = WriteError;

    fn absorb(&self, header: &ChunkHeader, bytes: &[u8]) -> Result<(), WriteError> {
        self.take(header, bytes)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.pins = Pins::none(&self.inner);
        }
        // What cannot be removed now is removed at the next opening.
        let _ = Vault { inner: self.inner.clone() }.sweep();
    }
}

impl State {
    /// Runs for these pieces; what is not known goes into segments, of which those that became full are given back.
    fn refer(&mut self, pieces: &[Piece<'_>]) -> (Vec<Run>, Vec<Full>) {
        let (mut runs, mut full, mut likely) = (Vec::new(), Vec::new(), u32::MAX);
        for Piece { bytes, hash } in pieces {
            let len = bytes.len() as u64;
            let run = match hash {
                None => Run(None, 0, len),
                Some(hash) => {
                    let (segment, page) = match self.pages.find(*hash, &mut likely) {
                        Some(known) => known,
                        None => self.append(bytes, *hash, &mut full),
                    };
                    Run(Some(segment), page, len)
                }
            };
            runs.push(run);
        }
        (joined(runs), full)
    }

    /// Puts a page into the open segment.
    fn append(&mut self, bytes: &[u8], hash: u128, full: &mut Vec<Full>) -> (u32, u32) {
        if self.open.is_empty() {
            self.slots.push(Slot { pages: 0, digest: None });
            self.pages.begin_segment();
            self.open.reserve_exact(SEGMENT_BYTES);
        }
        let slot = self.slots.len() - 1;
        let page = self.slots[slot].pages;
        self.slots[slot].pages += 1;
        self.pages.push(hash);
        self.open.extend_from_slice(bytes);
        self.open.resize((page as usize + 1) * PAGE_BYTES, 0);
        if self.open.len() == SEGMENT_BYTES {
            full.extend(self.last());
        }
        (slot as u32, page)
    }

    /// The open segment, which is closed with it.
    fn last(&mut self) -> Option<Full> {
        let raw = std::mem::take(&mut self.open);
        (!raw.is_empty()).then(|| Full { slot: self.slots.len() - 1, raw })
    }

    fn add(&mut self, number: u32, offset: u64, part: Part) -> Result<(), StreamError> {
        let stream = self.streams.entry(number).or_default();
        let len = part.len;
        let after_previous = stream.range(..=offset).next_back().is_none_or(|(at, p)| at + u64::from(p.len) <= offset);
        let before_next = stream.range(offset..).next().is_none_or(|(at, _)| offset + u64::from(len) <= *at);
        if !(after_previous && before_next) {
            return Err(StreamError::Overlap { stream: number, offset, len });
        }
        stream.insert(offset, part);
        Ok(())
    }
}

/// The bytes of a stream from `offset` on, cut at its pages, with the hash of each.
fn pieces(raw: &[u8], offset: u64) -> Vec<Piece<'_>> {
    let first = (PAGE_BYTES - (offset % PAGE_BYTES as u64) as usize) % PAGE_BYTES;
    let (short, rest) = raw.split_at(first.min(raw.len()));
    let all = (!short.is_empty()).then_some(short).into_iter().chain(rest.chunks(PAGE_BYTES));
    let piece = |bytes| {
        let hash = (!is_zero(bytes)).then(|| filled_up(bytes));
        Piece { bytes, hash }
    };
    all.map(piece).collect()
}

/// The hash of a page that begins with these bytes and goes on with zeros.
fn filled_up(bytes: &[u8]) -> u128 {
    if bytes.len() == PAGE_BYTES {
        return xxh3_128(bytes);
    }
    let mut page = [0; PAGE_BYTES];
    page[..bytes.len()].copy_from_slice(bytes);
    xxh3_128(&page)
}
