//! The source's side of the layer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use migrate_proto::id::Digest;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_128;

use super::scan::data_parts;
use super::{BLOCK_BYTES, BLOCKS_PER_CHUNK, LayerError, layer_digest};
use crate::buffers::Pool;
use crate::chunk::{CHUNK_BYTES, Chunk, LAYER_STREAM, ZEROS, is_zero};
use crate::encode::{EncodeError, Encoder};
use crate::lock;
use crate::pace::{Pace, SharedPace};

/// How many raw and how many compressed chunks are in flight at most.
const RAW_CHUNKS: usize = 8;

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many threads read, hash and compress.
    pub threads: usize,
    /// The pace, shared with whatever else uses the link.
    pub pace: SharedPace,
}

impl Default for Options {
    fn default() -> Options {
        Options { threads: 2, pace: Pace::shared() }
    }
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundStats {
    /// What was data in the file, and was read.
    pub read_bytes: u64,
    /// What had changed.
    pub changed_bytes: u64,
    /// How much of that had become zeros.
    pub zeroed_bytes: u64,
    /// What was handed to the link.
    pub sent_bytes: u64,
}

impl std::ops::AddAssign for RoundStats {
    fn add_assign(&mut self, other: RoundStats) {
        self.read_bytes += other.read_bytes;
        self.changed_bytes += other.changed_bytes;
        self.zeroed_bytes += other.zeroed_bytes;
        self.sent_bytes += other.sent_bytes;
    }
}

/// What the target has in one block; `None` for zeros.
type Known = Option<Block>;

#[derive(Clone, Copy)]
struct Block {
    hint: u128,
    digest: Digest,
}

/// The layer on the source, and what the target has of it.
pub struct LayerSource {
    path: PathBuf,
    file: File,
    size: u64,
    known: Vec<Known>,
    options: Options,
    raw: Arc<Pool>,
    broken: bool,
}

impl LayerSource {
    /// Opens the layer's file; the target's is taken to be all zeros.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<LayerSource, LayerError> {
        let path = path.into();
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.map_err(|source| LayerError::Io { path: path.clone(), source })?;
        let known = vec![None; size.div_ceil(BLOCK_BYTES as u64) as usize];
        Ok(LayerSource { path, file, size, known, options, raw: Pool::new(RAW_CHUNKS), broken: false })
    }

    /// The size of the file, which the target must be given.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Sends every block that differs from what the target has, and blocks until all are handed over. What a loop device
    /// wrote is seen once the file system on it has been synced.
    ///
    /// After an error it is not known what the target has: every later round fails.
    pub fn round(&mut self, out: &mpsc::Sender<Chunk>) -> Result<RoundStats, LayerError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(LayerError::Broken { path: self.path.clone() });
        }
        let LayerSource { path, file, size, known, options, raw, .. } = self;
        let unreadable = |source| LayerError::Io { path: path.clone(), source };
        let now = file.metadata().map_err(unreadable)?.len();
        if now != *size {
            return Err(LayerError::Resized { path: path.clone(), got: now, expected: *size });
        }
        let data = data_parts(file, *size).map_err(|errno| unreadable(errno.into()))?;
        let parts = known.chunks_mut(BLOCKS_PER_CHUNK).zip(data).enumerate();
        let parts = Mutex::new(parts.filter(|(_, (known, data))| *data || known.iter().any(Option::is_some)));
        let next = || lock(&parts).next();
        let reader = Reader { path, file, size: *size, pool: raw };
        let stats: Result<RoundStats, LayerError> = std::thread::scope(|scope| {
            let work = || -> Result<RoundStats, LayerError> {
                let mut encoder =
                    Encoder::new(options.pace.clone(), raw.clone(), out.clone()).map_err(encode_failure)?;
                let mut stats = RoundStats::default();
                while let Some((part, (known, data))) = next() {
                    stats += send_part(&reader, &mut encoder, part, known, data)?;
                }
                Ok(stats)
            };
            let workers: Vec<_> = (0..options.threads.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_fold(RoundStats::default(), |mut sum, worker| {
                sum += worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(sum)
            })
        });
        self.broken = stats.is_err();
        stats
    }

    /// The digest of what has been sent: after the last round, of the layer.
    pub fn digest(&self) -> Digest {
        layer_digest(self.size, (0..).zip(&self.known).filter_map(|(index, known)| Some((index, (*known)?.digest))))
    }
}

/// Reads parts of the layer.
struct Reader<'a> {
    path: &'a Path,
    file: &'a File,
    size: u64,
    pool: &'a Arc<Pool>,
}

impl Reader<'_> {
    /// Reads the block at `at`. Returns its state.
    fn block(&self, room: &mut [u8], at: u64) -> Result<u128, LayerError> {
        match self.file.read_exact_at(room, at) {
            Ok(()) if is_zero(room) => Ok(0),
            // Zero means zeros here; that a block's hash is zero does not happen.
            Ok(()) => Ok(xxh3_128(room).max(1)),
            Err(source) => Err(LayerError::Io { path: self.path.into(), source }),
        }
    }
}

/// What is to be done with a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Same,
    Data,
    Zeroed,
}

/// Compares one part of the file, as long as a chunk, with what is known of it, and sends the runs of changed blocks.
fn send_part(
    reader: &Reader<'_>,
    encoder: &mut Encoder,
    part: usize,
    known: &mut [Known],
    data: bool,
) -> Result<RoundStats, LayerError> {
    let start = (part * CHUNK_BYTES) as u64;
    let len = (reader.size - start).min(CHUNK_BYTES as u64) as usize;
    let mut changes = [Change::Same; BLOCKS_PER_CHUNK];
    let mut stats = RoundStats::default();
    let raw = if data {
        stats.read_bytes += len as u64;
        let mut buffer = reader.pool.take().ok_or(LayerError::Stopped)?;
        for (index, (block, known)) in buffer[..len].chunks_mut(BLOCK_BYTES).zip(known.iter_mut()).enumerate() {
            let hint = reader.block(block, start + (index * BLOCK_BYTES) as u64)?;
            changes[index] = update(known, hint, block);
        }
        buffer.freeze(len)
    } else {
        for (change, known) in changes.iter_mut().zip(known.iter_mut()) {
            *change = update(known, 0, &[]);
        }
        Bytes::from_static(&ZEROS).slice(..len)
    };
    let mut from = 0;
    for run in changes.chunk_by(|a, b| a == b) {
        let (begin, end) = ((from * BLOCK_BYTES).min(len), ((from + run.len()) * BLOCK_BYTES).min(len));
        from += run.len();
        if run[0] == Change::Same || begin == end {
            continue;
        }
        let sent = encoder.send(LAYER_STREAM, start + begin as u64, raw.slice(begin..end)).map_err(encode_failure)?;
        stats.changed_bytes += (end - begin) as u64;
        stats.zeroed_bytes += if run[0] == Change::Zeroed { (end - begin) as u64 } else { 0 };
        stats.sent_bytes += sent.bytes as u64;
    }
    Ok(stats)
}

/// Notes what the block is now, and says what that changes. A `hint` of 0 stands for zeros.
fn update(known: &mut Known, hint: u128, block: &[u8]) -> Change {
    match (&*known, hint) {
        (None, 0) => Change::Same,
        (Some(_), 0) => {
            *known = None;
            Change::Zeroed
        }
        (Some(before), hint) if before.hint == hint => Change::Same,
        _ => {
            *known = Some(Block { hint, digest: Digest::of(block) });
            Change::Data
        }
    }
}

fn encode_failure(failure: EncodeError) -> LayerError {
    match failure {
        EncodeError::Zstd(source) => LayerError::Compress(source),
        EncodeError::Closed => LayerError::Stopped,
    }
}
