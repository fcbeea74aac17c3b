//! The store's account: which stream has which parts, and where they lie. No I/O.

use std::collections::{BTreeMap, HashSet};

use migrate_proto::id::Digest;
use thiserror::Error;

use super::image::{Index, IndexedStream};
use crate::chunk::{self, AHEAD_STREAM, ChunkHeader, StreamSummary, stream_digest};
use crate::refs::{Run, What};

/// Chunks begin at pages: they are written and served without touching a neighbour's page.
const PAGE_BYTES: u64 = chunk::PAGE_BYTES as u64;

/// Why a chunk or a stream does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamError {
    /// More came than was agreed.
    #[error("the image exceeds its budget of {budget} bytes")]
    OverBudget {
        /// What was agreed.
        budget: u64,
    },
    /// Some of these bytes are already there.
    #[error("stream {stream}: bytes {offset}+{len} came twice")]
    Overlap {
        /// The stream.
        stream: u32,
        /// Where.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// The stream has ended.
    #[error("stream {stream} has already ended")]
    Closed {
        /// The stream.
        stream: u32,
    },
    /// It names pages that were not copied ahead, or are not written yet.
    #[error("stream {stream}: refers to page {page} of the memory that was copied ahead, which is not there")]
    NotAhead {
        /// The stream.
        stream: u32,
        /// The first page that is not there.
        page: u64,
    },
    /// Memory that is copied ahead must come as whole pages, and by itself.
    #[error("memory was copied ahead in parts of pages, or as references, at byte {offset}")]
    BadAhead {
        /// Where.
        offset: u64,
    },
    /// Bytes are missing.
    #[error("stream {stream}: nothing came from byte {offset} on")]
    Hole {
        /// The stream.
        stream: u32,
        /// Where the first missing byte is.
        offset: u64,
    },
    /// A chunk is still being written, or could not be.
    #[error("stream {stream}: not everything that came is written")]
    Unwritten {
        /// The stream.
        stream: u32,
    },
    /// It is longer or shorter than it should be.
    #[error("stream {stream}: {got} bytes came, {expected} were announced")]
    WrongLength {
        /// The stream.
        stream: u32,
        /// What came.
        got: u64,
        /// What should have come.
        expected: u64,
    },
    /// Its digest differs.
    #[error("stream {stream}: digest differs")]
    WrongDigest {
        /// The stream.
        stream: u32,
    },
    /// The manifest does not name a stream that came.
    #[error("stream {stream} came, but is not in the manifest")]
    NotInManifest {
        /// The stream.
        stream: u32,
    },
    /// The manifest has a number or a name twice.
    #[error("the manifest names stream {stream} '{}' twice", name.escape_debug())]
    NamedTwice {
        /// The stream.
        stream: u32,
        /// Its name.
        name: String,
    },
}

struct Part {
    len: u32,
    digest: Digest,
    /// Where its bytes are, in order.
    pieces: Vec<Piece>,
}

/// Length and place of some bytes; no place for zeros.
pub(super) type Piece = (u32, Option<u64>);

/// Where the bytes of a chunk that names pages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// They were copied ahead, and are here.
    Stored(u64),
    /// They are zeros.
    Zeros,
    /// They came with the chunk.
    Literal,
}

#[derive(Default)]
struct Stream {
    parts: BTreeMap<u64, Part>,
    unwritten: u32,
    /// Length and digest, once closed.
    closed: Option<(u64, Digest)>,
}

/// All streams of a store.
pub(super) struct Streams {
    streams: BTreeMap<u32, Stream>,
    budget: u64,
    charged: u64,
    end: u64,
    sealed: bool,
}

impl Streams {
    pub(super) fn new(budget: u64) -> Streams {
        Streams { streams: BTreeMap::new(), budget, charged: 0, end: 0, sealed: false }
    }

    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    /// Everything before this has been given away.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Nothing more is taken.
    pub(super) fn seal(&mut self) {
        self.sealed = true;
    }

    /// A place for a chunk, which counts as unwritten from now on.
    pub(super) fn place(&mut self, header: &ChunkHeader) -> Result<u64, StreamError> {
        let place = self.end;
        let stream = self.add(header, vec![(header.raw_len, Some(place))], header.raw_len)?;
        stream.unwritten += 1;
        self.end += u64::from(header.raw_len).next_multiple_of(PAGE_BYTES);
        Ok(place)
    }

    /// Zeros need no place, but they count, for they will have to be served.
    pub(super) fn place_zeros(&mut self, header: &ChunkHeader) -> Result<(), StreamError> {
        self.add(header, vec![(header.raw_len, None)], header.raw_len).map(drop)
    }

    /// Where the bytes of a chunk come from that consists of these runs. All that was copied ahead must be written: whoever
    /// sends it waits for that before the first reference.
    pub(super) fn origins(&self, header: &ChunkHeader, runs: &[Run]) -> Result<Vec<(u32, Origin)>, StreamError> {
        let mut origins = Vec::with_capacity(runs.len());
        for run in runs {
            match run.what {
                What::Literal => origins.push((run.len as u32, Origin::Literal)),
                What::Zeros => origins.push((run.len as u32, Origin::Zeros)),
                What::Known(first) => {
                    let at = u64::from(first) * PAGE_BYTES;
                    self.ahead(at, run.len as u64, &mut origins).map_err(|missing| StreamError::NotAhead {
                        stream: header.stream,
                        page: missing / PAGE_BYTES,
                    })?;
                }
            }
        }
        Ok(origins)
    }

    /// Where a range of what was copied ahead lies; or the first byte that is not there.
    fn ahead(&self, mut at: u64, mut len: u64, origins: &mut Vec<(u32, Origin)>) -> Result<(), u64> {
        let stream = self.streams.get(&AHEAD_STREAM).filter(|stream| stream.unwritten == 0).ok_or(at)?;
        while len > 0 {
            let (begin, part) = stream.parts.range(..=at).next_back().ok_or(at)?;
            let skip = at - begin;
            let there = u64::from(part.len).saturating_sub(skip).min(len);
            // A part of this stream is one piece.
            let (true, [(_, place)]) = (there > 0, &part.pieces[..]) else { return Err(at) };
            origins.push((there as u32, place.map_or(Origin::Zeros, |place| Origin::Stored(place + skip))));
            (at, len) = (at + there, len - there);
        }
        Ok(())
    }

    /// A place for the literals of a chunk that names pages; it counts as unwritten from now on. What was copied ahead has
    /// been charged when it came.
    pub(super) fn place_refs(&mut self, header: &ChunkHeader, origins: &[(u32, Origin)]) -> Result<u64, StreamError> {
        if header.stream == AHEAD_STREAM {
            return Err(StreamError::BadAhead { offset: header.offset });
        }
        let (place, mut at, mut charge) = (self.end, self.end, 0);
        let pieces = origins.iter().map(|(len, origin)| match origin {
            Origin::Stored(stored) => (*len, Some(*stored)),
            Origin::Zeros => {
                charge += len;
                (*len, None)
            }
            Origin::Literal => {
                charge += len;
                at += u64::from(*len);
                (*len, Some(at - u64::from(*len)))
            }
        });
        let pieces = pieces.collect();
        self.add(header, pieces, charge)?.unwritten += 1;
        self.end = at.next_multiple_of(PAGE_BYTES);
        Ok(place)
    }

    /// The chunk is in its place.
    pub(super) fn written(&mut self, header: &ChunkHeader) {
        if let Some(stream) = self.streams.get_mut(&header.stream) {
            stream.unwritten -= 1;
        }
    }

    fn add(&mut self, header: &ChunkHeader, pieces: Vec<Piece>, charge: u32) -> Result<&mut Stream, StreamError> {
        let ChunkHeader { stream: number, offset, raw_len: len, digest, .. } = *header;
        if self.sealed {
            return Err(StreamError::Closed { stream: number });
        }
        if number == AHEAD_STREAM && !(offset | u64::from(len)).is_multiple_of(PAGE_BYTES) {
            return Err(StreamError::BadAhead { offset });
        }
        let before = self.charged;
        self.charge(u64::from(charge))?;
        let stream = self.streams.entry(number).or_default();
        let after_previous =
            stream.parts.range(..=offset).next_back().is_none_or(|(at, p)| at + u64::from(p.len) <= offset);
        let before_next = stream.parts.range(offset..).next().is_none_or(|(at, _)| offset + u64::from(len) <= *at);
        let refused = match (stream.closed, after_previous && before_next) {
            (Some(_), _) => Some(StreamError::Closed { stream: number }),
            (None, false) => Some(StreamError::Overlap { stream: number, offset, len }),
            (None, true) => None,
        };
        if let Some(refused) = refused {
            self.charged = before;
            return Err(refused);
        }
        stream.parts.insert(offset, Part { len, digest, pieces });
        Ok(stream)
    }

    fn charge(&mut self, bytes: u64) -> Result<(), StreamError> {
        let charged = self.charged.saturating_add(bytes.max(1).next_multiple_of(PAGE_BYTES));
        if charged > self.budget {
            return Err(StreamError::OverBudget { budget: self.budget });
        }
        self.charged = charged;
        Ok(())
    }

    /// Ends a stream that must be complete. An empty one comes into being here.
    pub(super) fn close(&mut self, number: u32, length: u64, digest: Digest) -> Result<(), StreamError> {
        if !self.streams.contains_key(&number) {
            self.charge(0)?;
        }
        let stream = self.streams.entry(number).or_default();
        if stream.closed.is_some() {
            return Err(StreamError::Closed { stream: number });
        }
        if stream.unwritten > 0 {
            return Err(StreamError::Unwritten { stream: number });
        }
        let mut end = 0;
        for (offset, part) in &stream.parts {
            if *offset != end {
                return Err(StreamError::Hole { stream: number, offset: end });
            }
            end += u64::from(part.len);
        }
        if end != length {
            return Err(StreamError::WrongLength { stream: number, got: end, expected: length });
        }
        if stream_digest(stream.parts.values().map(|part| &part.digest)) != digest {
            return Err(StreamError::WrongDigest { stream: number });
        }
        stream.closed = Some((length, digest));
        Ok(())
    }

    pub(super) fn verify(&mut self, manifest: &[StreamSummary]) -> Result<(), StreamError> {
        let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
        for StreamSummary { stream, name, length, digest } in manifest {
            if *stream == AHEAD_STREAM {
                return Err(StreamError::BadAhead { offset: 0 });
            }
            if !numbers.insert(*stream) || !names.insert(name.as_str()) {
                return Err(StreamError::NamedTwice { stream: *stream, name: name.clone() });
            }
            match self.streams.get(stream).and_then(|s| s.closed) {
                None => self.close(*stream, *length, *digest)?,
                Some((got, _)) if got != *length => {
                    return Err(StreamError::WrongLength { stream: *stream, got, expected: *length });
                }
                Some((_, found)) if found != *digest => return Err(StreamError::WrongDigest { stream: *stream }),
                Some(_) => {}
            }
        }
        let named = |stream: &u32| *stream == AHEAD_STREAM || numbers.contains(stream);
        match self.streams.keys().find(|stream| !named(stream)) {
            Some(stream) => Err(StreamError::NotInManifest { stream: *stream }),
            None => Ok(()),
        }
    }

    /// Where everything lies.
    pub(super) fn index(&self, manifest: &[StreamSummary]) -> Index {
        let parts = |number| self.streams.get(&number).into_iter().flat_map(|stream| stream.parts.values());
        let indexed = |summary: &StreamSummary| IndexedStream {
            summary: summary.clone(),
            parts: parts(summary.stream).flat_map(|part| &part.pieces).copied().collect(),
        };
        Index::new(manifest.iter().map(indexed).collect())
    }
}
