#![allow(clippy::unwrap_used)]
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::chunk::{Chunk, ChunkHeader, Encoding, LAYER_STREAM};
use crate::pace::Pace;

struct Pair {
    dir: TempDir,
    file: File,
    source: LayerSource,
    target: LayerTarget,
}

fn pair(size: u64) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("source")).unwrap();
    file.set_len(size).unwrap();
    let options = Options { pace: Pace::compressing(), ..Options::default() };
    let source = LayerSource::open(dir.path().join("source"), options).unwrap();
    let target = LayerTarget::create(dir.path().join("target"), source.size()).unwrap();
    Pair { dir, file, source, target }
}

impl Pair {
    /// One round, applied as it comes. Returns the headers, in order of their offsets.
    fn round(&mut self) -> (RoundStats, Vec<ChunkHeader>) {
        let (out, mut chunks) = mpsc::channel::<Chunk>(2);
        let target = &self.target;
        let source = &mut self.source;
        std::thread::scope(|scope| {
            let taker = scope.spawn(move || {
                let mut headers = Vec::new();
                while let Some((header, bytes)) = chunks.blocking_recv() {
                    target.apply(&header, &bytes).unwrap();
                    headers.push(header);
                }
                headers.sort_by_key(|header| header.offset);
                headers
            });
            let stats = source.round(&out).unwrap();
            drop(out);
            (stats, taker.join().unwrap())
        })
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }

    fn assert_same(&self) {
        assert_eq!(self.source.digest(), self.target.digest());
        assert!(self.read("source") == self.read("target"));
    }
}

/// What a workload does to its files.
#[derive(Debug, Clone)]
enum Act {
    Write { at: u64, len: usize, byte: u8 },
    Punch { at: u64, len: u64 },
}

fn act(size: u64) -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..size, 1..300_000usize, any::<u8>()).prop_map(|(at, len, byte)| Act::Write { at, len, byte: byte % 4 }),
        (0..size, 1..600_000u64).prop_map(|(at, len)| Act::Punch { at, len }),
    ]
}

fn apply(file: &File, size: u64, act: &Act) {
    match *act {
        Act::Write { at, len, byte } => {
            file.write_all_at(&vec![byte; len.min((size - at) as usize)], at).unwrap();
        }
        Act::Punch { at, len } => {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, hole, at, len).unwrap();
        }
    }
}

const SIZE: u64 = 5 * (1 << 20) + 12_345;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn after_every_round_both_are_the_same(
        rounds in proptest::collection::vec(proptest::collection::vec(act(SIZE), 0..6), 1..5)
    ) {
        let mut pair = pair(SIZE);
        for acts in rounds {
            acts.iter().for_each(|act| apply(&pair.file, SIZE, act));
            pair.round();
            pair.assert_same();
            // The digest is that of the definition, whatever way led to it.
            let mut fresh = LayerSource::open(pair.dir.path().join("source"), Options::default()).unwrap();
            let (out, mut chunks) = mpsc::channel(1000);
            fresh.round(&out).unwrap();
            chunks.close();
            prop_assert_eq!(fresh.digest(), pair.source.digest());
            prop_assert_eq!(pair.round().0.changed_bytes, 0);
        }
    }
}

#[test]
fn the_digest_is_as_defined() {
    let mut pair = pair(3 * BLOCK_BYTES as u64 + 10);
    pair.file.write_all_at(&[5; BLOCK_BYTES], BLOCK_BYTES as u64).unwrap();
    pair.file.write_all_at(&[6; 10], 3 * BLOCK_BYTES as u64).unwrap();
    pair.round();
    let mut expected = blake3::Hasher::new();
    expected.update(&(3 * BLOCK_BYTES as u64 + 10).to_le_bytes());
    expected.update(&1u64.to_le_bytes()).update(&Digest::of(&[5; BLOCK_BYTES]).0);
    expected.update(&3u64.to_le_bytes()).update(&Digest::of(&[6; 10]).0);
    assert_eq!(pair.source.digest(), Digest(*expected.finalize().as_bytes()));
    pair.assert_same();
}

#[test]
fn only_what_changed_is_sent_and_neighbours_go_together() {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let mut pair = pair(1 << 30);
    pair.file.write_all_at(&vec![1; 3 << 20], 0).unwrap();
    let (stats, headers) = pair.round();
    assert_eq!((stats.changed_bytes, stats.zeroed_bytes, headers.len()), (3 << 20, 0, 3));
    assert!(stats.read_bytes < 64 << 20, "holes were read: {stats:?}");

    pair.file.write_all_at(&[2], 5 * BLOCK + 7).unwrap();
    pair.file.write_all_at(&[2], 6 * BLOCK).unwrap();
    pair.file.write_all_at(&[1; 10], 9 * BLOCK).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&pair.file, hole, 32 * BLOCK, 16 * BLOCK).unwrap();
    let (stats, headers) = pair.round();
    let what: Vec<_> = headers.iter().map(|h| (h.offset / BLOCK, u64::from(h.raw_len) / BLOCK, h.encoding)).collect();
    assert_eq!((what.len(), what[0].0, what[0].1), (2, 5, 2), "{what:?}");
    assert_eq!(what[1], (32, 16, Encoding::Zero));
    assert_eq!((stats.changed_bytes, stats.zeroed_bytes), (18 * BLOCK, 16 * BLOCK));
    pair.assert_same();
    // A hole there is a hole here.
    let blocks = |name: &str| pair.dir.path().join(name).metadata().unwrap().blocks() * 512;
    assert!(blocks("target") < 4 << 20, "{}", blocks("target"));
}

#[test]
fn a_broken_round_breaks_the_source() {
    let mut pair = pair(1 << 20);
    pair.file.write_all_at(&[1; 100], 0).unwrap();
    let (out, chunks) = mpsc::channel(1);
    drop(chunks);
    assert!(matches!(pair.source.round(&out), Err(LayerError::Stopped)));
    assert!(matches!(pair.source.round(&out), Err(LayerError::Broken { .. })));
}

#[test]
fn another_size_is_an_error() {
    let mut pair = pair(1 << 20);
    pair.file.set_len(2 << 20).unwrap();
    let (out, _chunks) = mpsc::channel(1);
    let failure = pair.source.round(&out).unwrap_err();
    assert!(matches!(failure, LayerError::Resized { got: 2_097_152, expected: 1_048_576, .. }), "{failure}");
}

#[test]
fn the_target_takes_only_its_own_whole_blocks() {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let pair = pair(4 * BLOCK + 100);
    let chunk = |stream, offset, len: usize| {
        let bytes = vec![1; len];
        let digest = Digest::of(&bytes);
        let header = ChunkHeader { stream, offset, raw_len: len as u32, encoding: Encoding::Raw, digest };
        pair.target.apply(&header, &bytes)
    };
    for (stream, offset, len) in [
        (0, 0, BLOCK_BYTES),
        (LAYER_STREAM, 1, BLOCK_BYTES),
        (LAYER_STREAM, 0, BLOCK_BYTES - 1),
        (LAYER_STREAM, 4 * BLOCK, 101),
        (LAYER_STREAM, 4 * BLOCK, 99),
        (LAYER_STREAM, 5 * BLOCK, BLOCK_BYTES),
        (LAYER_STREAM, u64::MAX - BLOCK + 1, BLOCK_BYTES),
    ] {
        let refusal = chunk(stream, offset, len).unwrap_err();
        assert!(matches!(refusal, LayerError::Misplaced { .. }), "{stream} {offset} {len}: {refusal}");
    }
    chunk(LAYER_STREAM, 3 * BLOCK, BLOCK_BYTES + 100).unwrap();
    pair.target.sync().unwrap();
    assert!(pair.read("target")[3 * BLOCK_BYTES..].iter().all(|byte| *byte == 1));
}

#[test]
fn corrupt_chunks_do_not_reach_the_file() {
    let pair = pair(BLOCK_BYTES as u64);
    let header = ChunkHeader {
        stream: LAYER_STREAM,
        offset: 0,
        raw_len: BLOCK_BYTES as u32,
        encoding: Encoding::Raw,
        digest: Digest::of(&[1; BLOCK_BYTES]),
    };
    assert!(matches!(pair.target.apply(&header, &[2; BLOCK_BYTES]), Err(LayerError::Chunk(_))));
    assert!(pair.read("target").iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn the_asynchronous_front_tells_a_refusal_and_takes_no_more() {
    use crate::incoming::{Incoming, IncomingError};
    let pair = pair(BLOCK_BYTES as u64);
    let target = Arc::new(pair.target);
    let incoming = Incoming::new(target.clone(), 2);
    let bytes = bytes::Bytes::from(vec![1; BLOCK_BYTES]);
    let raw_len = BLOCK_BYTES as u32;
    let good =
        ChunkHeader { stream: LAYER_STREAM, offset: 0, raw_len, encoding: Encoding::Raw, digest: Digest::of(&bytes) };
    incoming.push(good.clone(), bytes.clone()).await.unwrap();
    incoming.drained().await.unwrap();
    assert!(target.digest() != layer_digest(BLOCK_BYTES as u64, []));
    incoming.push(ChunkHeader { offset: 1, ..good.clone() }, bytes.clone()).await.unwrap();
    let refusal = incoming.drained().await.unwrap_err();
    assert!(matches!(refusal, IncomingError::Refused(LayerError::Misplaced { .. })), "{refusal}");
    assert!(matches!(incoming.push(good, bytes).await, Err(IncomingError::Failed)));
}
