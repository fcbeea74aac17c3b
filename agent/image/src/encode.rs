//! Raw bytes into a chunk, and the chunk into the queue to the link, at the pace that both allow.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use migrate_proto::id::Digest;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use zstd::zstd_safe::ResetDirective;

use crate::ahead::KnownPages;
use crate::buffers::Pool;
use crate::chunk::{CHUNK_BYTES, Chunk, ChunkHeader, Encoding, PAGE_BYTES, is_zero, zero_digest};
use crate::lock;
use crate::pace::{Level, Passed, Probe, SharedPace};
use crate::refs;

/// Why a chunk could not be made or handed over.
#[derive(Debug, Error)]
pub(crate) enum EncodeError {
    #[error("zstd: {0}")]
    Zstd(#[from] std::io::Error),
    #[error("nobody takes chunks any more")]
    Closed,
}

/// What was handed over.
pub(crate) struct Sent {
    pub(crate) digest: Digest,
    pub(crate) bytes: usize,
}

/// One encoder; one thread has it.
pub(crate) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    level: i32,
    probe: Probe,
    pace: SharedPace,
    raw: Arc<Pool>,
    room: Box<[u8]>,
    out: mpsc::Sender<Chunk>,
    known: Arc<OnceLock<KnownPages>>,
}

impl Encoder {
    /// `raw` is where chunks come from. What is sent as it is holds its buffer until it has arrived, so a slow link shows in
    /// the pool before it shows in the queue `out`. What is compressed takes no more than it needs: how many chunks are under
    /// way must follow from their bytes, by which the other side gives credit, and not from a number of buffers.
    pub(crate) fn new(pace: SharedPace, raw: Arc<Pool>, out: mpsc::Sender<Chunk>) -> Result<Encoder, EncodeError> {
        let level = 1;
        Ok(Encoder {
            zstd: zstd::bulk::Compressor::new(level)?,
            level,
            probe: Probe::new()?,
            pace,
            raw,
            room: vec![0; CHUNK_BYTES].into(),
            out,
            known: Arc::default(),
        })
    }

    /// Pages that are known are named instead of sent, as soon as `known` is filled.
    pub(crate) fn naming(self, known: Arc<OnceLock<KnownPages>>) -> Encoder {
        Encoder { known, ..self }
    }

    /// Makes a chunk of `raw` (1 to `CHUNK_BYTES` bytes) and waits until the queue takes it.
    pub(crate) fn send(&mut self, stream: u32, offset: u64, raw: Bytes) -> Result<Sent, EncodeError> {
        let begun = Instant::now();
        let raw_len = raw.len() as u32;
        if is_zero(&raw) {
            let digest = zero_digest(raw.len());
            self.queue((ChunkHeader { stream, offset, raw_len, encoding: Encoding::Zero, digest }, Bytes::new()))?;
            return Ok(Sent { digest, bytes: 0 });
        }
        let digest = Digest::of(&raw);
        if let Some(body) = self.refer(offset, &raw) {
            // The buffer goes back before anything is waited for.
            drop(raw);
            let bytes = body.len();
            self.queue((ChunkHeader { stream, offset, raw_len, encoding: Encoding::Refs, digest }, body))?;
            // It says nothing about levels.
            let _ = self.raw.waited();
            return Ok(Sent { digest, bytes });
        }
        let level = lock(&self.pace).level();
        let packed = match level {
            Level::Zstd(level) if self.probe.compressible(&raw) => self.compress(level, &raw)?,
            _ => None,
        };
        let at_level = level == Level::Raw || packed.is_some();
        let (encoding, body) = match packed {
            // The raw buffer goes back before anything is waited for.
            Some(packed) => (Encoding::Zstd, {
                drop(raw);
                packed
            }),
            None => (Encoding::Raw, raw),
        };
        let encode_time = begun.elapsed();
        let bytes = body.len();
        let queued = self.queue((ChunkHeader { stream, offset, raw_len, encoding, digest }, body))?;
        let waited = queued + self.raw.waited();
        let passed = Passed {
            at: Instant::now(),
            raw_bytes: raw_len as usize,
            sent_bytes: bytes,
            encode_time,
            waited,
            at_level,
        };
        lock(&self.pace).observe(&passed);
        Ok(Sent { digest, bytes })
    }

    /// The chunk as references to pages that are known; `None` where too few are.
    fn refer(&mut self, offset: u64, raw: &[u8]) -> Option<Bytes> {
        let known = self.known.get().filter(|_| offset.is_multiple_of(PAGE_BYTES as u64));
        let runs = known.and_then(|known| refs::plan(known, raw))?;
        let len = refs::write(&runs, raw, &mut self.room);
        Some(Bytes::copy_from_slice(&self.room[..len]))
    }

    /// `None` where it saves less than a sixteenth.
    fn compress(&mut self, level: i32, raw: &[u8]) -> Result<Option<Bytes>, EncodeError> {
        if self.level != level {
            self.zstd.set_compression_level(level)?;
            self.level = level;
        }
        let limit = raw.len() - raw.len() / 16;
        // Too little room is how zstd says that it did not shrink.
        match self.zstd.compress_to_buffer(raw, &mut self.room[..limit]) {
            Ok(len) => Ok(Some(Bytes::copy_from_slice(&self.room[..len]))),
            Err(_) => {
                // It stays in the midst of that frame, where it refuses another level.
                let reset = self.zstd.context_mut().reset(ResetDirective::SessionOnly);
                reset.map_err(|code| std::io::Error::other(zstd::zstd_safe::get_error_name(code)))?;
                Ok(None)
            }
        }
    }

    /// How long it waited for room.
    fn queue(&self, chunk: Chunk) -> Result<Duration, EncodeError> {
        let chunk = match self.out.try_send(chunk) {
            Ok(()) => return Ok(Duration::ZERO),
            Err(TrySendError::Closed(_)) => return Err(EncodeError::Closed),
            Err(TrySendError::Full(chunk)) => chunk,
        };
        let begun = Instant::now();
        self.out.blocking_send(chunk).map_err(|_| EncodeError::Closed)?;
        Ok(begun.elapsed())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pace::Pace;

    /// Noise, but for the pages that are looked at beforehand.
    fn deceptive() -> Bytes {
        let mut bytes = vec![0; CHUNK_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        for sampled in 0..4 {
            let at = (CHUNK_BYTES - PAGE_BYTES) / 3 * sampled;
            bytes[at..at + PAGE_BYTES].fill(0);
        }
        bytes.into()
    }

    /// Has chunks wait for the link until there is time for another level.
    fn change_level(pace: &SharedPace) {
        let mut pace = lock(pace);
        let (level, mut at) = (pace.level(), Instant::now());
        for _ in 0..1000 {
            let waited = Duration::from_millis(100);
            at += waited;
            let (raw_bytes, encode_time) = (CHUNK_BYTES, Duration::from_millis(1));
            if pace.observe(&Passed { at, raw_bytes, sent_bytes: raw_bytes, encode_time, waited, at_level: true })
                != level
            {
                return;
            }
        }
        panic!("it stays at {level:?}");
    }

    #[test]
    fn a_chunk_that_did_not_shrink_after_all_keeps_nobody_from_another_level() {
        let (out, mut chunks) = mpsc::channel(2);
        let pace = Pace::compressing();
        let mut encoder = Encoder::new(pace.clone(), Pool::new(1), out).unwrap();
        encoder.send(0, 0, deceptive()).unwrap();
        assert_eq!(chunks.blocking_recv().unwrap().0.encoding, Encoding::Raw);

        change_level(&pace);
        encoder.send(0, CHUNK_BYTES as u64, b"lorem ipsum ".repeat(1000).into()).unwrap();
        assert_eq!(chunks.blocking_recv().unwrap().0.encoding, Encoding::Zstd);
    }
}
