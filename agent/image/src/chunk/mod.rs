//! Chunks: what travels. A chunk is up to [`CHUNK_BYTES`] of one stream, with the digest of its raw bytes.
//!
//! A chunk of zeros travels as a header alone. The receiving side trusts nothing: lengths are bounded before anything is
//! decompressed, decompression is bounded by the announced length, and the digest is compared before a byte is used.

use std::sync::OnceLock;

use bytes::Bytes;
use migrate_proto::id::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::refs::RefsError;

/// The most raw bytes that a chunk holds.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The stream number of the layer; all but it and [`AHEAD_STREAM`] count up from 0.
pub const LAYER_STREAM: u32 = u32::MAX;

/// The stream number of memory that is copied ahead (see [`crate::ahead`]). It is no part of an image: others refer to it.
pub const AHEAD_STREAM: u32 = u32::MAX - 1;

/// What memory consists of.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A header and what travels with it.
pub type Chunk = (ChunkHeader, Bytes);

pub(crate) static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// How a chunk's bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// As one or more zstd frames.
    Zstd,
    /// Not at all: they are all zero.
    Zero,
    /// As the places where most of them lie in [`AHEAD_STREAM`], and the rest as they are. Only a store can read that.
    Refs,
}

/// What a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Which stream it belongs to.
    pub stream: u32,
    /// Where in the stream its raw bytes begin.
    pub offset: u64,
    /// How many raw bytes there are: 1 to [`CHUNK_BYTES`].
    pub raw_len: u32,
    /// How they travel.
    pub encoding: Encoding,
    /// The digest of the raw bytes.
    pub digest: Digest,
}

impl ChunkHeader {
    /// Whether there can be such a chunk.
    pub(crate) fn check_length(&self) -> Result<(), ChunkError> {
        let ChunkHeader { stream, offset, raw_len, .. } = *self;
        let possible = (1..=CHUNK_BYTES).contains(&(raw_len as usize)) && offset.checked_add(raw_len.into()).is_some();
        if possible { Ok(()) } else { Err(ChunkError::BadLength { stream, offset, raw_len }) }
    }

    /// The raw bytes of a chunk that was made here and not compressed; its digest is believed.
    pub(crate) fn uncompressed<'a>(&self, bytes: &'a [u8]) -> Result<Content<'a>, ChunkError> {
        self.check_length()?;
        let ChunkHeader { stream, offset, raw_len, .. } = *self;
        let expected = raw_len as usize;
        match self.encoding {
            Encoding::Zero if bytes.is_empty() => Ok(Content::Zeros(expected)),
            Encoding::Raw if bytes.len() == expected => Ok(Content::Bytes(bytes)),
            _ => Err(ChunkError::WrongLength { stream, offset, got: bytes.len(), expected }),
        }
    }

    /// Whether raw bytes with the digest `found` are those that were sent.
    pub(crate) fn verify(&self, found: Digest) -> Result<(), ChunkError> {
        let ChunkHeader { stream, offset, .. } = *self;
        if found == self.digest { Ok(()) } else { Err(ChunkError::WrongDigest { stream, offset }) }
    }
}

/// What a whole stream is, once it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// Its number.
    pub stream: u32,
    /// What CRIU calls it. Only ever compared, never used as a path.
    pub name: String,
    /// How long it is.
    pub length: u64,
    /// See [`stream_digest`].
    pub digest: Digest,
}

/// Why a chunk is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// The announced length is none that a chunk can have.
    #[error("chunk {stream}+{offset}: {raw_len} bytes is no length of a chunk")]
    BadLength {
        /// The stream.
        stream: u32,
        /// The offset.
        offset: u64,
        /// The announced length.
        raw_len: u32,
    },
    /// What came is not as long as announced.
    #[error("chunk {stream}+{offset}: {got} bytes came where {expected} were announced")]
    WrongLength {
        /// The stream.
        stream: u32,
        /// The offset.
        offset: u64,
        /// How many came, after decompression.
        got: usize,
        /// How many were announced.
        expected: usize,
    },
    /// It does not decompress into what was announced.
    #[error("chunk {stream}+{offset}: does not decompress: {reason}")]
    Corrupt {
        /// The stream.
        stream: u32,
        /// The offset.
        offset: u64,
        /// What zstd says.
        reason: String,
    },
    /// The bytes are not those that were sent.
    #[error("chunk {stream}+{offset}: digest differs")]
    WrongDigest {
        /// The stream.
        stream: u32,
        /// The offset.
        offset: u64,
    },
    /// It names pages where there are none to be named.
    #[error("chunk {stream}+{offset}: refers to memory that was copied ahead, where nothing is")]
    RefersToNothing {
        /// The stream.
        stream: u32,
        /// The offset.
        offset: u64,
    },
    /// What it names cannot be understood.
    #[error("chunk {stream}+{offset}: bad references: {reason}")]
    BadRefs {
        /// The stream.
        stream: u32,
        /// The offset.
        offset: u64,
        /// Why.
        reason: RefsError,
    },
    /// The decompressor could not be made.
    #[error("zstd cannot be initialised: {0}")]
    Zstd(String),
}

/// The digest of a whole stream: BLAKE3 over the digests of its chunks, in the order of their offsets. An empty stream has
/// the digest of nothing. So both ends can hash chunks in parallel; it presumes that both see the same chunks, which they do,
/// for chunks are never cut again on their way.
pub fn stream_digest<'a>(chunks: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut whole = blake3::Hasher::new();
    for digest in chunks {
        whole.update(&digest.0);
    }
    Digest(*whole.finalize().as_bytes())
}

/// Whether all of `bytes` is zero; gives up at the first that is not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Equal to itself moved by one byte, and the first is zero: one fast memcmp, in debug builds too.
    bytes.first().is_none_or(|first| *first == 0 && bytes[1..] == bytes[..bytes.len() - 1])
}

/// The digest of `len` zeros, `len` being at most [`CHUNK_BYTES`].
pub(crate) fn zero_digest(len: usize) -> Digest {
    static FULL: OnceLock<Digest> = OnceLock::new();
    match ZEROS.get(..len) {
        Some(part) if len < CHUNK_BYTES => Digest::of(part),
        _ => *FULL.get_or_init(|| Digest::of(&ZEROS)),
    }
}

/// The raw bytes of a chunk that has been verified.
#[derive(Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// This many zeros.
    Zeros(usize),
    /// These.
    Bytes(&'a [u8]),
}

/// Turns what came back into raw bytes. Reused, for its buffer's and its zstd context's sake.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    raw: Box<[u8]>,
}

impl Decoder {
    /// A decoder.
    pub fn new() -> Result<Decoder, ChunkError> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|e| ChunkError::Zstd(e.to_string()))?;
        Ok(Decoder { zstd, raw: vec![0; CHUNK_BYTES].into() })
    }

    /// Room for the raw bytes of a chunk that is put together elsewhere. Its content is arbitrary.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.raw
    }

    /// The raw bytes of the chunk, or why it is refused.
    pub fn decode<'a>(&'a mut self, header: &ChunkHeader, bytes: &'a [u8]) -> Result<Content<'a>, ChunkError> {
        let ChunkHeader { stream, offset, raw_len, encoding, .. } = *header;
        let expected = raw_len as usize;
        header.check_length()?;
        let wrong_length = |got| ChunkError::WrongLength { stream, offset, got, expected };
        let raw = match encoding {
            Encoding::Zero if bytes.is_empty() => {
                header.verify(zero_digest(expected))?;
                return Ok(Content::Zeros(expected));
            }
            Encoding::Zero => return Err(wrong_length(bytes.len())),
            Encoding::Refs => return Err(ChunkError::RefersToNothing { stream, offset }),
            Encoding::Raw => bytes,
            Encoding::Zstd => {
                // zstd writes nothing beyond the slice it is given; more output than announced is an error.
                let room = &mut self.raw[..expected];
                let corrupt = |e: std::io::Error| ChunkError::Corrupt { stream, offset, reason: e.to_string() };
                let got = self.zstd.decompress_to_buffer(bytes, room).map_err(corrupt)?;
                &self.raw[..got]
            }
        };
        if raw.len() != expected {
            return Err(wrong_length(raw.len()));
        }
        header.verify(Digest::of(raw))?;
        Ok(Content::Bytes(raw))
    }
}

#[cfg(test)]
mod tests;
