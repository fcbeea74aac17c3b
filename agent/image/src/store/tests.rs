#![allow(clippy::unwrap_used)]
use std::io::{self, Read};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::chunk::{Encoding, is_zero, stream_digest, zero_digest};
use crate::serve::Served;

const BUDGET: u64 = 64 << 20;

fn store(budget: u64) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("image"), budget).unwrap();
    (dir, store)
}

fn raw(stream: u32, offset: u64, bytes: &[u8]) -> ChunkHeader {
    let encoding = if is_zero(bytes) { Encoding::Zero } else { Encoding::Raw };
    ChunkHeader { stream, offset, raw_len: bytes.len() as u32, encoding, digest: Digest::of(bytes) }
}

fn put(store: &Store, stream: u32, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
    let header = raw(stream, offset, bytes);
    store.write_chunk(&header, if header.encoding == Encoding::Zero { &[] } else { bytes })
}

fn summary(stream: u32, name: &str, chunks: &[&[u8]]) -> StreamSummary {
    let digests: Vec<Digest> = chunks.iter().map(|c| Digest::of(c)).collect();
    let length = chunks.iter().map(|c| c.len() as u64).sum();
    StreamSummary { stream, name: name.into(), length, digest: stream_digest(&digests) }
}

fn served(image: &StoredImage, name: &str) -> Vec<u8> {
    let (mut read, write) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut bytes = Vec::new();
            read.read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert_eq!(image.serve(name, write.into()).unwrap(), Served::Whole);
        reader.join().unwrap()
    })
}

macro_rules! assert_refused {
    ($result:expr, $($pattern:tt)+) => {{
        let refusal = $result.map(drop).unwrap_err();
        assert!(matches!(refusal, StoreError::Stream(StreamError::$($pattern)+)), "{refusal}");
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_any_sizes_come_back_the_same(
        streams in proptest::collection::vec(proptest::collection::vec(
            (1..200_000usize, any::<u8>()), 0..6), 1..4),
        order in any::<u64>(), reserve in prop_oneof![Just(0), 0..3_000_000u64],
    ) {
        let (dir, store) = store(BUDGET);
        store.reserve(reserve).unwrap();
        let mut manifest = Vec::new();
        let mut jobs = Vec::new();
        let mut wholes = Vec::new();
        for (number, sizes) in streams.iter().enumerate() {
            let chunks: Vec<Vec<u8>> = sizes.iter().map(|(len, byte)| vec![byte % 8; *len]).collect();
            let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            manifest.push(summary(number as u32, &format!("s{number}"), &slices));
            wholes.push(chunks.concat());
            let mut offset = 0;
            for chunk in chunks {
                let len = chunk.len() as u64;
                jobs.push((number as u32, offset, chunk));
                offset += len;
            }
        }
        jobs.sort_by_key(|(stream, offset, _)| Digest::of(format!("{order} {stream} {offset}").as_bytes()).0);
        for (stream, offset, chunk) in &jobs {
            put(&store, *stream, *offset, chunk).unwrap();
        }
        drop(store.complete(&manifest).unwrap());
        // As another agent would find it.
        let image = StoredImage::open(dir.path().join("image")).unwrap();
        prop_assert_eq!(image.streams(), &manifest[..]);
        for (summary, whole) in manifest.iter().zip(&wholes) {
            prop_assert!(served(&image, &summary.name) == *whole);
            prop_assert!(image.read(&summary.name, whole.len() as u64).unwrap() == *whole);
        }
    }

    #[test]
    fn overlaps_are_refused_and_change_nothing(at in 0..300u64, len in 1..300usize) {
        let (_dir, store) = store(BUDGET);
        let (first, last) = ([1; 100], [2; 100]);
        put(&store, 0, 0, &first).unwrap();
        put(&store, 0, 200, &last).unwrap();
        let fits = at >= 100 && at + len as u64 <= 200 || at >= 300;
        let third = vec![3; len];
        prop_assert_eq!(put(&store, 0, at, &third).is_ok(), fits);
        if !fits {
            put(&store, 0, 100, &[4; 100]).unwrap();
            let image = store.complete(&[summary(0, "a", &[&first, &[4; 100], &last])]).unwrap();
            prop_assert_eq!(image.read("a", 300).unwrap(), [[1; 100], [4; 100], [2; 100]].concat());
        }
    }
}

#[test]
fn duplicates_are_refused_zeros_too() {
    let (_dir, store) = store(BUDGET);
    put(&store, 0, 0, b"abc").unwrap();
    assert_refused!(put(&store, 0, 0, b"abc"), Overlap { offset: 0, len: 3, .. });
    put(&store, 0, 3, &[0; 5]).unwrap();
    assert_refused!(put(&store, 0, 3, &[0; 5]), Overlap { .. });
}

#[test]
fn corrupt_chunks_are_refused_before_they_count() {
    let (_dir, store) = store(BUDGET);
    let header = raw(0, 0, b"abc");
    assert!(matches!(store.write_chunk(&header, b"abd"), Err(StoreError::Chunk(ChunkError::WrongDigest { .. }))));
    store.write_chunk(&header, b"abc").unwrap();
    store.complete(&[summary(0, "a", &[b"abc"])]).unwrap();
}

#[test]
fn holes_and_wrong_ends_are_refused() {
    let (_dir, store) = store(BUDGET);
    put(&store, 0, 10, b"abc").unwrap();
    let digest = summary(0, "", &[b"abc"]).digest;
    assert_refused!(store.close_stream(0, 13, digest), Hole { offset: 0, .. });
    put(&store, 1, 0, b"abc").unwrap();
    assert_refused!(store.close_stream(1, 4, digest), WrongLength { got: 3, expected: 4, .. });
    assert_refused!(store.close_stream(1, 3, Digest([0; 32])), WrongDigest { stream: 1 });
    store.close_stream(1, 3, digest).unwrap();
    assert_refused!(put(&store, 1, 3, b"more"), Closed { stream: 1 });
    assert_refused!(store.close_stream(1, 3, digest), Closed { stream: 1 });
}

#[test]
fn the_same_bytes_in_another_order_are_another_stream() {
    let (_dir, store) = store(BUDGET);
    put(&store, 0, 0, b"ab").unwrap();
    put(&store, 0, 2, b"cd").unwrap();
    assert_refused!(store.verify(&[summary(0, "a", &[b"cd", b"ab"])]), WrongDigest { .. });
    store.verify(&[summary(0, "a", &[b"ab", b"cd"])]).unwrap();
    // A second look compares again.
    assert_refused!(store.verify(&[summary(0, "a", &[b"cd", b"ab"])]), WrongDigest { .. });
    assert_refused!(store.verify(&[summary(0, "a", &[b"ab"])]), WrongLength { .. });
}

#[test]
fn the_manifest_names_everything_once() {
    let (_dir, store) = store(BUDGET);
    let (a, b) = (summary(0, "a", &[b"abc"]), summary(1, "b", &[]));
    put(&store, 0, 0, b"abc").unwrap();
    assert_refused!(store.verify(&[]), NotInManifest { stream: 0 });
    let again = StreamSummary { name: "a".into(), ..b.clone() };
    assert_refused!(store.verify(&[a.clone(), again]), NamedTwice { stream: 1, .. });
    assert_refused!(store.verify(&[a.clone(), StreamSummary { name: "c".into(), ..a.clone() }]), NamedTwice { .. });
    assert_refused!(store.verify(&[a.clone(), summary(2, "c", &[b"x"])]), WrongLength { got: 0, .. });
    let (_dir, store) = self::store(BUDGET);
    put(&store, 0, 0, b"abc").unwrap();
    let image = store.complete(&[a, b]).unwrap();
    assert_refused!(put(&store, 7, 0, b"late"), Closed { stream: 7 });
    assert!(image.contains("b") && !image.contains("c"));
    assert_eq!(served(&image, "b"), b"");
    assert!(matches!(image.read("c", 1), Err(ImageError::Unknown { .. })));
    assert!(matches!(image.read("a", 2), Err(ImageError::TooLarge { length: 3, .. })));
}

#[test]
fn the_budget_counts_pages_zeros_and_empty_streams() {
    let (_dir, store) = store(3 * 4096);
    put(&store, 0, 0, b"a").unwrap();
    // Refused for another reason: costs nothing.
    assert_refused!(put(&store, 0, 0, b"a"), Overlap { .. });
    put(&store, 0, 1, &[0; 1]).unwrap();
    assert_refused!(put(&store, 0, 2, &[0; 4097]), OverBudget { budget: 12288 });
    store.close_stream(1, 0, Digest::of(&[])).unwrap();
    assert_refused!(store.close_stream(2, 0, Digest::of(&[])), OverBudget { .. });
    assert_refused!(put(&store, 0, 2, b"c"), OverBudget { .. });
}

#[test]
fn reserving_is_bounded_and_given_back() {
    let (dir, store) = store(3 << 20);
    let length = |dir: &TempDir| dir.path().join("image/chunks").metadata().unwrap().len();
    store.reserve(u64::MAX).unwrap();
    assert_eq!(length(&dir), 3 << 20);
    put(&store, 0, 0, b"abc").unwrap();
    store.complete(&[summary(0, "a", &[b"abc"])]).unwrap();
    assert_eq!(length(&dir), 4096);
}

#[test]
fn reserving_overwrites_nothing_that_comes_meanwhile() {
    let (_dir, store) = store(BUDGET);
    let chunk = vec![7; CHUNK_BYTES];
    std::thread::scope(|scope| {
        scope.spawn(|| store.reserve(32 << 20).unwrap());
        for number in 0..24u64 {
            put(&store, 0, number * CHUNK_BYTES as u64, &chunk).unwrap();
        }
    });
    let image = store.complete(&[summary(0, "a", &[&chunk[..]; 24])]).unwrap();
    assert!(image.read("a", BUDGET).unwrap().iter().all(|byte| *byte == 7));
}

#[test]
fn incomplete_is_no_image_and_a_directory_is_used_once() {
    let (dir, store) = store(BUDGET);
    put(&store, 0, 0, b"abc").unwrap();
    let path = dir.path().join("image");
    assert!(matches!(StoredImage::open(&path), Err(ImageError::Io { .. })));
    assert!(matches!(Store::create(&path, 1), Err(StoreError::Io { .. })));
    assert!(store.complete(&[summary(0, "a", &[b"abd"])]).is_err());
    assert!(StoredImage::open(&path).is_err());
}

#[test]
fn an_index_that_does_not_fit_is_refused() {
    let (dir, store) = store(BUDGET);
    put(&store, 0, 0, b"abc").unwrap();
    store.complete(&[summary(0, "a", &[b"abc"])]).unwrap();
    let path = dir.path().join("image");
    let index = std::fs::read_to_string(path.join("index.json")).unwrap();
    for (from, to) in [("\"version\":1", "\"version\":2"), ("[3,0]", "[3,4095]"), ("[3,0]", "[2,0]"), ("{", "")] {
        assert!(index.contains(from));
        std::fs::write(path.join("index.json"), index.replace(from, to)).unwrap();
        assert!(matches!(StoredImage::open(&path), Err(ImageError::BadIndex { .. })), "{to}");
    }
}

/// Found by fuzzing: this was only asserted, and only where assertions are on.
#[test]
fn an_index_with_a_part_that_no_chunk_can_have_is_refused() {
    let (dir, store) = store(BUDGET);
    put(&store, 0, 0, &vec![0; CHUNK_BYTES]).unwrap();
    store.complete(&[summary(0, "a", &[&vec![0; CHUNK_BYTES]])]).unwrap();
    let path = dir.path().join("image");
    let index = std::fs::read_to_string(path.join("index.json")).unwrap();
    let longer = (CHUNK_BYTES + 1).to_string();
    std::fs::write(path.join("index.json"), index.replace(&CHUNK_BYTES.to_string(), &longer)).unwrap();
    assert!(matches!(StoredImage::open(&path), Err(ImageError::BadIndex { .. })));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let (_dir, store) = store(BUDGET);
    let chunk = vec![9; CHUNK_BYTES];
    for number in 0..8u64 {
        put(&store, 0, number << 20, &chunk).unwrap();
    }
    put(&store, 1, 0, &[0; CHUNK_BYTES]).unwrap();
    let zeros = StreamSummary {
        digest: stream_digest(&[zero_digest(CHUNK_BYTES)]),
        ..summary(1, "zeros", &[&[0; CHUNK_BYTES]])
    };
    let image = store.complete(&[summary(0, "a", &[&chunk[..]; 8]), zeros]).unwrap();
    for name in ["a", "zeros"] {
        let (read, write) = io::pipe().unwrap();
        drop(read);
        assert_eq!(image.serve(name, write.into()).unwrap(), Served::ClosedEarly);
    }
}

#[test]
fn what_is_still_being_written_cannot_be_named() {
    use super::streams::Streams;
    use crate::chunk::{AHEAD_STREAM, PAGE_BYTES};
    use crate::refs::{Run, What};
    let mut streams = Streams::new(BUDGET);
    let (ahead, image) = (raw(AHEAD_STREAM, 0, &[1; 2 * PAGE_BYTES]), raw(0, 0, &[1; PAGE_BYTES]));
    let second = [Run { what: What::Known(1), len: PAGE_BYTES }];
    let place = streams.place(&ahead).unwrap();
    assert!(matches!(streams.origins(&image, &second), Err(StreamError::NotAhead { stream: 0, page: 1 })));
    streams.written(&ahead);
    assert_eq!(streams.origins(&image, &second), Ok(vec![(4096, Origin::Stored(place + 4096))]));
}
