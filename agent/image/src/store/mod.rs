//! The target's side: chunks in, a complete image or none.
//!
//! A store is a directory, best on a tmpfs, with two files. `chunks` holds what came, each chunk at the next free page, in the
//! order of arrival; `index.json` says where each stream's parts lie. The index is written last, by rename: a directory
//! with an index is a complete, verified image, also after the agent's death ([`StoredImage::open`]); one without is
//! rubbish. The peer's names are only ever compared, never used as paths.
//!
//! Memory that was copied ahead ([`crate::ahead`]) lies there as well, under [`AHEAD_STREAM`](crate::chunk::AHEAD_STREAM). It is
//! no stream of the image: the streams' parts point into it, so what was copied in vain is never served.
//!
//! One file for all streams has this use: its memory can be touched beforehand ([`Store::reserve`]), without knowing which
//! stream will be the huge one. Measured, 1 GiB of pwrite goes into fresh tmpfs pages at 0.4–2.7 GB/s (the less
//! of it the host has seen before), into touched ones at 5–6 GB/s; the difference would be pause.

mod image;
mod streams;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use migrate_proto::id::Digest;
use thiserror::Error;

pub use self::image::{ImageError, StoredImage};
pub use self::streams::StreamError;
use self::streams::{Origin, Streams};
use crate::chunk::{CHUNK_BYTES, ChunkError, ChunkHeader, Content, Decoder, Encoding, StreamSummary, ZEROS};
use crate::incoming::Absorb;
use crate::{lock, refs};

const CHUNKS: &str = "chunks";

/// Why the store refuses or fails.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file of the store could not be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The chunk itself is bad.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// It does not fit with the others, or a stream is not what the manifest says.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The image could not be put down or read again.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// An image on its way in. Dropping it leaves the directory as it is; removing it is the caller's.
pub struct Store {
    dir: PathBuf,
    chunks: File,
    streams: Mutex<Streams>,
    decoders: Mutex<Vec<Decoder>>,
}

impl Store {
    /// Makes the directory, which must not be there. At most `budget` bytes are taken, with what is copied ahead; a chunk
    /// counts as whole pages and as one at least, a stream as one at least.
    pub fn create(dir: impl Into<PathBuf>, budget: u64) -> Result<Store, StoreError> {
        let dir = dir.into();
        DirBuilder::new().mode(0o700).create(&dir).map_err(|source| StoreError::Io { path: dir.clone(), source })?;
        let path = dir.join(CHUNKS);
        let chunks = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let chunks = chunks.map_err(|source| StoreError::Io { path, source })?;
        Ok(Store { dir, chunks, streams: Mutex::new(Streams::new(budget)), decoders: Mutex::default() })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Touches memory for the first `bytes` of what will come (at most the budget), so that writing them is fast. Ends early
    /// when the first chunk comes: from then on it would only be in the way. What was too much goes back in
    /// [`Store::complete`].
    pub fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let mut at = 0;
        loop {
            // Under the lock no place is given away, so nothing that was written is overwritten.
            let streams = lock(&self.streams);
            let len = bytes.min(streams.budget()).saturating_sub(at).min(CHUNK_BYTES as u64);
            if len == 0 || streams.end() > 0 {
                return Ok(());
            }
            self.chunks.write_all_at(&ZEROS[..len as usize], at).map_err(|source| self.unusable(source))?;
            at += len;
        }
    }

    /// Verifies a chunk and writes it down. Any order, any thread; the same bytes twice are refused.
    pub fn write_chunk(&self, header: &ChunkHeader, bytes: &[u8]) -> Result<(), StoreError> {
        let mut decoder = match lock(&self.decoders).pop() {
            Some(decoder) => decoder,
            None => Decoder::new()?,
        };
        let written = match header.encoding {
            Encoding::Refs => self.write_refs(&mut decoder, header, bytes),
            _ => self.write_content(&mut decoder, header, bytes),
        };
        lock(&self.decoders).push(decoder);
        written
    }

    fn write_content(&self, decoder: &mut Decoder, header: &ChunkHeader, bytes: &[u8]) -> Result<(), StoreError> {
        match decoder.decode(header, bytes)? {
            Content::Zeros(_) => Ok(lock(&self.streams).place_zeros(header)?),
            Content::Bytes(raw) => {
                let place = lock(&self.streams).place(header)?;
                self.put(header, raw, place)
            }
        }
    }

    /// Puts a chunk that names pages together, to compare its digest; then notes where the pages are, and writes the rest.
    fn write_refs(&self, decoder: &mut Decoder, header: &ChunkHeader, bytes: &[u8]) -> Result<(), StoreError> {
        header.check_length()?;
        let (stream, offset) = (header.stream, header.offset);
        let parsed = refs::parse(bytes, header.raw_len as usize);
        let (runs, literals) = parsed.map_err(|reason| ChunkError::BadRefs { stream, offset, reason })?;
        let origins = lock(&self.streams).origins(header, &runs)?;
        let (mut at, mut literal) = (0, literals);
        let raw = &mut decoder.room()[..header.raw_len as usize];
        for (len, origin) in &origins {
            let room = &mut raw[at..][..*len as usize];
            at += room.len();
            match origin {
                Origin::Stored(place) => {
                    self.chunks.read_exact_at(room, *place).map_err(|source| self.unusable(source))?;
                }
                Origin::Zeros => room.fill(0),
                Origin::Literal => {
                    let (these, rest) = literal.split_at(room.len());
                    room.copy_from_slice(these);
                    literal = rest;
                }
            }
        }
        header.verify(Digest::of(raw))?;
        let place = lock(&self.streams).place_refs(header, &origins)?;
        self.put(header, literals, place)
    }

    /// A chunk that was placed and not written stays unfinished: the stream can never be closed.
    fn put(&self, header: &ChunkHeader, raw: &[u8], place: u64) -> Result<(), StoreError> {
        self.chunks.write_all_at(raw, place).map_err(|source| self.unusable(source))?;
        lock(&self.streams).written(header);
        Ok(())
    }

    /// The stream has ended with this length and digest: everything must be there, and nothing comes after.
    pub fn close_stream(&self, stream: u32, length: u64, digest: Digest) -> Result<(), StoreError> {
        Ok(lock(&self.streams).close(stream, length, digest)?)
    }

    /// Whether the image is exactly what the manifest says. Closes streams that are still open.
    pub fn verify(&self, manifest: &[StreamSummary]) -> Result<(), StoreError> {
        Ok(lock(&self.streams).verify(manifest)?)
    }

    /// Verifies, gives back what was reserved too much, and writes the index: from here on the image is complete, and
    /// nothing more is taken.
    pub fn complete(&self, manifest: &[StreamSummary]) -> Result<StoredImage, StoreError> {
        let mut streams = lock(&self.streams);
        streams.verify(manifest)?;
        streams.seal();
        self.chunks.set_len(streams.end()).map_err(|source| self.unusable(source))?;
        StoredImage::write(&self.dir, streams.index(manifest))?;
        Ok(StoredImage::open(&self.dir)?)
    }

    fn unusable(&self, source: io::Error) -> StoreError {
        StoreError::Io { path: self.dir.join(CHUNKS), source }
    }
}

impl Absorb for Store {
    type Error = StoreError;

    fn absorb(&self, header: &ChunkHeader, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_chunk(header, bytes)
    }
}

#[cfg(test)]
mod tests;
