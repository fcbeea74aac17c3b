//! The target's side of the layer.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Mutex;

use migrate_proto::id::Digest;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{BLOCK_BYTES, LayerError, layer_digest};
use crate::chunk::{ChunkHeader, Content, Decoder, LAYER_STREAM, ZEROS, is_zero};
use crate::incoming::Absorb;
use crate::lock;

/// The layer on the target, on its way in.
pub struct LayerTarget {
    path: PathBuf,
    file: File,
    size: u64,
    /// The digest of each block that is not zeros: what is announced and never comes takes no memory.
    blocks: Mutex<BTreeMap<usize, Digest>>,
    decoders: Mutex<Vec<Decoder>>,
}

impl LayerTarget {
    /// Makes the file, which must not be there: all hole.
    pub fn create(path: impl Into<PathBuf>, size: u64) -> Result<LayerTarget, LayerError> {
        let path = path.into();
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = made.and_then(|file| file.set_len(size).map(|()| file));
        let file = file.map_err(|source| LayerError::Io { path: path.clone(), source })?;
        Ok(LayerTarget { path, file, size, blocks: Mutex::default(), decoders: Mutex::default() })
    }

    /// Verifies a chunk and writes it. Chunks of one round may come in any order and from any thread; those of the next
    /// round only after all of them.
    pub fn apply(&self, header: &ChunkHeader, bytes: &[u8]) -> Result<(), LayerError> {
        let first = self.first_block(header)?;
        let mut decoder = match lock(&self.decoders).pop() {
            Some(decoder) => decoder,
            None => Decoder::new()?,
        };
        let applied = decoder.decode(header, bytes).map_err(LayerError::from).and_then(|content| match content {
            Content::Zeros(len) => self.punch(first, header.offset, len),
            Content::Bytes(raw) => self.write(first, header.offset, raw),
        });
        lock(&self.decoders).push(decoder);
        applied
    }

    /// The digest of what is there.
    pub fn digest(&self) -> Digest {
        let blocks = lock(&self.blocks);
        layer_digest(self.size, blocks.iter().map(|(index, digest)| (*index as u64, *digest)))
    }

    /// Waits until it is on disk.
    pub fn sync(&self) -> Result<(), LayerError> {
        self.file.sync_all().map_err(|source| self.failed(source))
    }

    fn first_block(&self, header: &ChunkHeader) -> Result<usize, LayerError> {
        let ChunkHeader { stream, offset, raw_len: len, .. } = *header;
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let whole_blocks = |end: u64| end == self.size || (end < self.size && end.is_multiple_of(BLOCK));
        let fits = offset.checked_add(len.into()).is_some_and(whole_blocks) && offset.is_multiple_of(BLOCK);
        match stream == LAYER_STREAM && fits {
            true => Ok((offset / BLOCK) as usize),
            false => Err(LayerError::Misplaced { stream, offset, len }),
        }
    }

    fn write(&self, first: usize, offset: u64, raw: &[u8]) -> Result<(), LayerError> {
        let digest = |block: &[u8]| (!is_zero(block)).then(|| Digest::of(block));
        let digests: Vec<_> = raw.chunks(BLOCK_BYTES).map(digest).collect();
        self.file.write_all_at(raw, offset).map_err(|source| self.failed(source))?;
        let mut blocks = lock(&self.blocks);
        for (block, digest) in (first..).zip(digests) {
            match digest {
                Some(digest) => _ = blocks.insert(block, digest),
                None => _ = blocks.remove(&block),
            }
        }
        Ok(())
    }

    fn punch(&self, first: usize, offset: u64, len: usize) -> Result<(), LayerError> {
        let these = first..first + len.div_ceil(BLOCK_BYTES);
        if lock(&self.blocks).range(these.clone()).next().is_none() {
            return Ok(());
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, hole, offset, len as u64) {
            Err(Errno::OPNOTSUPP) => self.file.write_all_at(&ZEROS[..len], offset),
            punched => punched.map_err(io::Error::from),
        }
        .map_err(|source| self.failed(source))?;
        let mut blocks = lock(&self.blocks);
        these.for_each(|block| _ = blocks.remove(&block));
        drop(blocks);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> LayerError {
        LayerError::Io { path: self.path.clone(), source }
    }
}

impl Absorb for LayerTarget {
    type Error = LayerError;

    fn absorb(&self, header: &ChunkHeader, bytes: &[u8]) -> Result<(), LayerError> {
        self.apply(header, bytes)
    }
}
