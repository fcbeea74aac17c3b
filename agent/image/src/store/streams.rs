//! The store's account: which stream has which parts, and where they lie. No I/O.

use std::collections::{BTreeMap, HashSet};

use migrate_proto::id::Digest;
use thiserror::Error;

use super::image::{Index, IndexedStream};
use crate::chunk::{ChunkHeader, StreamSummary, stream_digest};

/// Chunks begin at pages: they are written and served without touching a neighbour's page.
const PAGE_BYTES: u64 = 4096;

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
    /// `None` for zeros.
    place: Option<u64>,
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
        let stream = self.add(header, Some(place))?;
        stream.unwritten += 1;
        self.end += u64::from(header.raw_len).next_multiple_of(PAGE_BYTES);
        Ok(place)
    }

    /// Zeros need no place, but they count, for they will have to be served.
    pub(super) fn place_zeros(&mut self, header: &ChunkHeader) -> Result<(), StreamError> {
        self.add(header, None).map(drop)
    }

    /// The chunk is in its place.
    pub(super) fn written(&mut self, header: &ChunkHeader) {
        if let Some(stream) = self.streams.get_mut(&header.stream) {
            stream.unwritten -= 1;
        }
    }

    fn add(&mut self, header: &ChunkHeader, place: Option<u64>) -> Result<&mut Stream, StreamError> {
        let ChunkHeader { stream: number, offset, raw_len: len, digest, .. } = *header;
        if self.sealed {
            return Err(StreamError::Closed { stream: number });
        }
        let before = self.charged;
        self.charge(u64::from(len))?;
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
        stream.parts.insert(offset, Part { len, digest, place });
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
        match self.streams.keys().find(|stream| !numbers.contains(stream)) {
            Some(stream) => Err(StreamError::NotInManifest { stream: *stream }),
            None => Ok(()),
        }
    }

    /// Where everything lies.
    pub(super) fn index(&self, manifest: &[StreamSummary]) -> Index {
        let parts = |number| self.streams.get(&number).into_iter().flat_map(|stream| stream.parts.values());
        let indexed = |summary: &StreamSummary| IndexedStream {
            summary: summary.clone(),
            parts: parts(summary.stream).map(|part| (part.len, part.place)).collect(),
        };
        Index::new(manifest.iter().map(indexed).collect())
    }
}
