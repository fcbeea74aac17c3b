#![allow(clippy::unwrap_used)]
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use bytes::Bytes;
use migrate_proto::id::Digest;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::chunk::AHEAD_STREAM;
use crate::chunk::{ChunkError, ChunkHeader, Encoding, StreamSummary, stream_digest};
use crate::encode::Encoder;
use crate::outgoing::{Options, Outgoing};
use crate::pace::Pace;
use crate::store::{Store, StoreError, StreamError};

const BUDGET: u64 = 64 << 20;

fn page(seed: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    if seed > 0 {
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page);
    }
    page
}

fn pages(seeds: &[u32]) -> Vec<u8> {
    seeds.iter().flat_map(|seed| page(*seed)).collect()
}

fn store(budget: u64) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("image"), budget).unwrap();
    (dir, store)
}

fn header(stream: u32, offset: u64, raw: &[u8], encoding: Encoding) -> ChunkHeader {
    ChunkHeader { stream, offset, raw_len: raw.len() as u32, encoding, digest: Digest::of(raw) }
}

/// Notes pages as known, each once and no zeros, and returns what has to be sent for that.
fn ahead(seeds: &[u32], pages_per_chunk: usize) -> (KnownPages, Vec<Chunk>) {
    let mut known = KnownPages::default();
    let new: Vec<u32> =
        seeds.iter().copied().filter(|seed| *seed > 0 && known.insert(xxh3_128(&page(*seed)))).collect();
    let chunk = |(number, seeds): (usize, &[u32])| {
        let raw = pages(seeds);
        let offset = (number * pages_per_chunk * PAGE_BYTES) as u64;
        (header(AHEAD_STREAM, offset, &raw, Encoding::Raw), Bytes::from(raw))
    };
    (known.finish(), new.chunks(pages_per_chunk).enumerate().map(chunk).collect())
}

fn put(store: &Store, chunk: &Chunk) -> Result<(), StoreError> {
    store.write_chunk(&chunk.0, &chunk.1)
}

/// The chunks of an image of one stream, and what it is.
fn encode(known: KnownPages, image: &[u8]) -> (Vec<Chunk>, StreamSummary) {
    let (out, mut taken) = mpsc::channel(1000);
    let cell = OnceLock::from(known);
    let encoder = Encoder::new(Pace::shared(), Pool::new(1), out).unwrap();
    let mut encoder = encoder.naming(Arc::new(cell));
    let mut chunks = Vec::new();
    for (number, raw) in image.chunks(CHUNK_BYTES).enumerate() {
        encoder.send(0, (number * CHUNK_BYTES) as u64, Bytes::copy_from_slice(raw)).unwrap();
        // What is held holds a buffer.
        let (header, bytes) = taken.try_recv().unwrap();
        chunks.push((header, Bytes::copy_from_slice(&bytes)));
    }
    let digest = stream_digest(chunks.iter().map(|chunk| &chunk.0.digest));
    (chunks, StreamSummary { stream: 0, name: "pages-1.img".into(), length: image.len() as u64, digest })
}

fn refs(chunks: &[Chunk]) -> usize {
    chunks.iter().filter(|chunk| chunk.0.encoding == Encoding::Refs).count()
}

macro_rules! assert_refused {
    ($result:expr, $pattern:pat) => {{
        let refusal = $result.map(drop).unwrap_err();
        assert!(matches!(refusal, $pattern), "{refusal}");
    }};
}

/// Zeros, pages that may be known, pages that never are.
fn image() -> impl Strategy<Value = Vec<u32>> {
    let run = prop_oneof![
        (1..40u32, 1..200u32).prop_map(|(from, len)| (from..from + len).collect::<Vec<u32>>()),
        (1..5usize).prop_map(|len| vec![0; len]),
        (1000..1010u32, 1..20usize).prop_map(|(seed, len)| vec![seed; len]),
        (1..240u32, 1..20usize).prop_map(|(seed, len)| vec![seed; len]),
    ];
    proptest::collection::vec(run, 1..8).prop_map(|runs| runs.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_image_that_names_pages_is_the_same_image(
        seeds in proptest::collection::vec(0..240u32, 0..400), per_chunk in 1..257usize, image in image(), tail in 0..5000usize,
    ) {
        let mut image = pages(&image);
        image.extend(&pages(&[77, 78])[..tail]);
        let (known, sent) = ahead(&seeds, per_chunk);
        let (chunks, summary) = encode(known, &image);
        let (_dir, store) = store(BUDGET);
        // Any order will do.
        for chunk in sent.iter().rev().chain(chunks.iter().rev()) {
            put(&store, chunk).unwrap();
        }
        let stored = store.complete(&[summary]).unwrap();
        prop_assert!(stored.read("pages-1.img", image.len() as u64).unwrap() == image);
        prop_assert_eq!(stored.streams().len(), 1);
    }

    #[test]
    fn a_changed_byte_is_refused_and_changes_nothing(
        at: proptest::sample::Index, with in 1..=255u8, cut: proptest::sample::Index, tail in 0..PAGE_BYTES,
    ) {
        let mut image = pages(&[1, 2, 3, 0, 0, 500, 4, 3, 2, 501]);
        image.extend(&page(9)[..tail]);
        let (known, sent) = ahead(&[4, 3, 2, 1, 5, 6], 2);
        let (chunks, summary) = encode(known, &image);
        let [(header, body)] = &chunks[..] else { panic!("one chunk") };
        prop_assert_eq!(header.encoding, Encoding::Refs);
        let (_dir, store) = store(BUDGET);
        sent.iter().for_each(|chunk| put(&store, chunk).unwrap());
        let mut changed = body.to_vec();
        let at = at.index(body.len());
        changed[at] ^= with;
        prop_assert!(store.write_chunk(header, &changed).is_err(), "byte {}", at);
        prop_assert!(store.write_chunk(header, &body[..cut.index(body.len())]).is_err());
        prop_assert!(store.write_chunk(header, &[body, &[0][..]].concat()).is_err());
        store.write_chunk(header, body).unwrap();
        prop_assert!(store.complete(&[summary]).unwrap().read("pages-1.img", BUDGET).unwrap() == image);
    }

    #[test]
    fn rubbish_is_refused(body in proptest::collection::vec(any::<u8>(), 0..100), runs in 0..4u8) {
        let (_dir, store) = store(BUDGET);
        let (_, sent) = ahead(&[1, 2, 3], 3);
        sent.iter().for_each(|chunk| put(&store, chunk).unwrap());
        let header = header(0, 0, &pages(&[1, 0, 7]), Encoding::Refs);
        prop_assert!(store.write_chunk(&header, &body).is_err());
        let counted = [&[runs, 0, 0, 0], &body[..]].concat();
        prop_assert!(store.write_chunk(&header, &counted).is_err());
    }
}

#[test]
fn too_little_that_is_known_is_not_worth_it() {
    let known = || ahead(&[1, 2], 2).0;
    let one_of = |pages_all: u32| pages(&[&[1][..], &(100..99 + pages_all).collect::<Vec<_>>()].concat());
    assert_eq!(refs(&encode(known(), &one_of(8)).0), 1);
    assert_eq!(refs(&encode(known(), &one_of(9)).0), 0);
    assert_eq!(refs(&encode(KnownPages::default(), &one_of(8)).0), 0);
    // Nothing is known of a page that is not whole.
    assert_eq!(refs(&encode(known(), &page(1)[..4095]).0), 0);
}

#[test]
fn pages_that_never_came_are_refused() {
    let (known, sent) = ahead(&[1, 2, 3, 4], 2);
    let (chunks, _) = encode(known, &pages(&[1, 2, 3, 4]));
    let (_dir, store) = store(BUDGET);
    assert_refused!(put(&store, &chunks[0]), StoreError::Stream(StreamError::NotAhead { stream: 0, page: 0 }));
    put(&store, &sent[0]).unwrap();
    assert_refused!(put(&store, &chunks[0]), StoreError::Stream(StreamError::NotAhead { stream: 0, page: 2 }));
    put(&store, &sent[1]).unwrap();
    put(&store, &chunks[0]).unwrap();
}

#[test]
fn a_collision_is_refused() {
    let (known, _) = ahead(&[1, 2, 3], 3);
    let (chunks, _) = encode(known, &pages(&[1, 2, 3]));
    // The source takes page 9 for page 2.
    let raw = pages(&[1, 9, 3]);
    let (_dir, store) = store(BUDGET);
    put(&store, &(header(AHEAD_STREAM, 0, &raw, Encoding::Raw), raw.into())).unwrap();
    assert_refused!(put(&store, &chunks[0]), StoreError::Chunk(ChunkError::WrongDigest { stream: 0, offset: 0 }));
}

#[test]
fn what_is_copied_ahead_is_no_stream_of_the_image() {
    let (_dir, store) = store(BUDGET);
    let (_, sent) = ahead(&[1, 2], 2);
    put(&store, &sent[0]).unwrap();
    let named = StreamSummary {
        stream: AHEAD_STREAM,
        name: "pages-1.img".into(),
        length: 2 * PAGE_BYTES as u64,
        digest: stream_digest([&sent[0].0.digest]),
    };
    assert_refused!(store.complete(&[named]), StoreError::Stream(StreamError::BadAhead { .. }));
    let empty = StreamSummary { stream: 0, name: "a".into(), length: 0, digest: Digest::of(&[]) };
    let image = store.complete(&[empty]).unwrap();
    assert!(image.contains("a") && !image.contains("pages-1.img"));
}

#[test]
fn it_comes_as_whole_pages_and_names_none() {
    let (_dir, store) = store(BUDGET);
    let (known, sent) = ahead(&[1, 2], 2);
    for (offset, len) in [(0, 4095), (1, 4096)] {
        let raw = &page(1)[..len];
        let chunk = (header(AHEAD_STREAM, offset, raw, Encoding::Raw), Bytes::copy_from_slice(raw));
        assert_refused!(put(&store, &chunk), StoreError::Stream(StreamError::BadAhead { .. }));
    }
    put(&store, &sent[0]).unwrap();
    let (mut chunks, _) = encode(known, &pages(&[1, 2]));
    chunks[0].0.stream = AHEAD_STREAM;
    chunks[0].0.offset = 2 * PAGE_BYTES as u64;
    assert_refused!(put(&store, &chunks[0]), StoreError::Stream(StreamError::BadAhead { .. }));
}

#[test]
fn the_budget_counts_what_is_stored() {
    const PAGE: u64 = PAGE_BYTES as u64;
    // Four pages ahead; two literals and a zero page; and a chunk that only names, which counts as one.
    let (first, second) = (pages(&[1, 2, 50, 51, 0, 3, 4]), pages(&[4, 3, 2, 1]));
    let take = |budget: u64| {
        let (_dir, store) = store(budget);
        let (_, sent) = ahead(&[1, 2, 3, 4], 4);
        put(&store, &sent[0])?;
        let known = || ahead(&[1, 2, 3, 4], 4).0;
        put(&store, &encode(known(), &first).0[0])?;
        let (mut chunks, _) = encode(known(), &second);
        chunks[0].0.stream = 1;
        put(&store, &chunks[0])
    };
    take(8 * PAGE).unwrap();
    assert_refused!(take(8 * PAGE - 1), StoreError::Stream(StreamError::OverBudget { .. }));
}

#[test]
fn nobody_takes_it() {
    let (out, chunks) = mpsc::channel(1);
    drop(chunks);
    let held = Holder::start();
    assert!(matches!(copy(&[held.child.id() as i32], Pace::shared(), &out), Err(AheadError::Stopped)));
}

// ---- a process ---------------------------------------------------------------------------------------------------

const HOLD: &str = "HOLDS_MEMORY_FOR_A_TEST";

/// Noise, then the same noise again, then zeros that were touched, then more noise.
fn held() -> Vec<u8> {
    let noise: Vec<u32> = (1..700).collect();
    pages(&[&noise[..], &noise, &[0; 300], &(2000..2900).collect::<Vec<_>>()].concat())
}

/// The other process: this test, run by [`Holder::start`].
#[test]
#[ignore = "what another test runs as a process of its own"]
fn holds_memory() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let content = held();
    println!("\n{HOLD}");
    let _ = std::io::stdin().lines().next();
    drop(content);
}

struct Holder {
    child: Child,
}

impl Holder {
    fn start() -> Holder {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "ahead::tests::holds_memory", "--ignored", "--nocapture"]);
        let piped = command.env(HOLD, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Holder { child: piped.spawn().unwrap() };
        let mut lines = BufReader::new(holder.child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == HOLD), "the process ended early");
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What CRIU would take of the process: its memory as it lies there, page for page.
fn memory_of(pid: i32) -> Vec<u8> {
    let process = Process::open(pid).unwrap();
    let runs: Vec<Range<u64>> = process.mappings().flat_map(|mapping| process.present(mapping).unwrap()).collect();
    let read = |run: Range<u64>| {
        let mut room = vec![0; (run.end - run.start) as usize];
        let got = process.read(run.start, &mut room).unwrap_or(0);
        room.truncate(got);
        room
    };
    runs.into_iter().flat_map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_process_is_named_and_not_sent_again() {
    let holder = tokio::task::spawn_blocking(Holder::start).await.unwrap();
    let pid = holder.child.id() as i32;
    let (_dir, store) = store(BUDGET);
    let (out, mut chunks) = mpsc::channel(4);
    let gone = i32::MAX;
    let copying = tokio::task::spawn_blocking(move || copy(&[gone, pid], Pace::shared(), &out).unwrap());
    while let Some(chunk) = chunks.recv().await {
        put(&store, &chunk).unwrap();
    }
    let (known, stats) = copying.await.unwrap();
    assert_eq!(stats.skipped, 1);
    let (distinct, all) = ((699 + 900) * PAGE_BYTES as u64, held().len() as u64);
    assert!(stats.read_bytes >= all - 300 * PAGE_BYTES as u64, "{stats:?}");
    assert!((distinct - (64 << 10)..distinct + (16 << 20)).contains(&stats.copied_bytes), "{stats:?}");
    assert_eq!(known.len() as u64 * PAGE_BYTES as u64, stats.copied_bytes);

    let memory = memory_of(pid);
    assert!(memory.len() as u64 >= all - 300 * PAGE_BYTES as u64);
    let known = Arc::new(OnceLock::from(known));
    let (mut outgoing, mut chunks) = Outgoing::start(Options { known, ..Options::default() }).unwrap();
    let (read, mut write) = std::io::pipe().unwrap();
    outgoing.add_pipe("pages-1.img", OwnedFd::from(read)).unwrap();
    let written = memory.clone();
    let writer = std::thread::spawn(move || write.write_all(&written).unwrap());
    let summaries = tokio::spawn(outgoing.finish());
    let mut sent = 0;
    while let Some(chunk) = chunks.recv().await {
        sent += chunk.1.len();
        put(&store, &chunk).unwrap();
    }
    writer.join().unwrap();
    let summaries = summaries.await.unwrap().unwrap();
    assert!(sent < memory.len() / 8, "{sent} bytes of {} were sent again", memory.len());
    let image = store.complete(&summaries).unwrap();
    assert!(image.read("pages-1.img", BUDGET).unwrap() == memory);
}
