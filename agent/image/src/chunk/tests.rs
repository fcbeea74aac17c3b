#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::buffers::Pool;
use crate::encode::Encoder;
use crate::pace::Pace;

/// Some bytes that compress, some that do not, some zeros.
pub(crate) fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..3000),
        (any::<u8>(), 1..100_000usize).prop_map(|(byte, len)| vec![byte; len]),
        (1..50_000usize).prop_map(|len| vec![0; len]),
    ];
    proptest::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
}

fn encode(raw: &[u8]) -> Chunk {
    let (out, mut chunks) = mpsc::channel(1);
    let mut encoder = Encoder::new(Pace::compressing(), Pool::new(1), out).unwrap();
    let sent = encoder.send(7, 4096, Bytes::copy_from_slice(raw)).unwrap();
    let chunk = chunks.try_recv().unwrap();
    assert_eq!((sent.digest, sent.bytes), (chunk.0.digest, chunk.1.len()));
    chunk
}

fn decode(header: &ChunkHeader, bytes: &[u8]) -> Result<Vec<u8>, ChunkError> {
    Ok(match Decoder::new()?.decode(header, bytes)? {
        Content::Zeros(len) => vec![0; len],
        Content::Bytes(bytes) => bytes.to_vec(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_comes_back_is_what_went_in(raw in content()) {
        let (header, bytes) = encode(&raw);
        prop_assert_eq!((header.stream, header.offset, header.raw_len as usize), (7, 4096, raw.len()));
        prop_assert_eq!(header.digest, Digest::of(&raw));
        prop_assert!(bytes.len() <= raw.len());
        prop_assert_eq!(decode(&header, &bytes).unwrap(), raw);
    }

    #[test]
    fn a_changed_byte_never_changes_the_content(raw in content(), at: proptest::sample::Index, with in 1..=255u8) {
        let (header, bytes) = encode(&raw);
        prop_assume!(!bytes.is_empty());
        let mut bytes = bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        // zstd has bits that mean nothing; whoever flips one gets the true bytes, and nothing else.
        if let Ok(got) = decode(&header, &bytes) {
            prop_assert_eq!(header.encoding, Encoding::Zstd);
            prop_assert_eq!(got, raw);
        }
    }

    #[test]
    fn truncated_is_refused(raw in content(), at: proptest::sample::Index) {
        let (header, bytes) = encode(&raw);
        prop_assume!(!bytes.is_empty());
        prop_assert!(decode(&header, &bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_changed_header_is_refused(raw in content(), len in any::<u32>(), bit in 0..256usize) {
        let (header, bytes) = encode(&raw);
        if len != header.raw_len {
            let changed = ChunkHeader { raw_len: len, ..header.clone() };
            prop_assert!(decode(&changed, &bytes).is_err());
        }
        let mut digest = header.digest;
        digest.0[bit / 8] ^= 1 << (bit % 8);
        let changed = ChunkHeader { digest, ..header.clone() };
        prop_assert!(decode(&changed, &bytes).is_err());
        for encoding in [Encoding::Raw, Encoding::Zstd, Encoding::Zero] {
            let changed = ChunkHeader { encoding, ..header.clone() };
            prop_assert!(encoding == header.encoding || decode(&changed, &bytes).is_err());
        }
    }
}

#[test]
fn each_kind_of_data_takes_its_way() {
    let mut noise = vec![0; CHUNK_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    for (raw, encoding) in [
        (noise, Encoding::Raw),
        (b"abcdefgh".repeat(CHUNK_BYTES / 8), Encoding::Zstd),
        (vec![0; CHUNK_BYTES], Encoding::Zero),
        (vec![0; 5], Encoding::Zero),
    ] {
        let (header, bytes) = encode(&raw);
        assert_eq!(header.encoding, encoding);
        assert_eq!(bytes.is_empty(), encoding == Encoding::Zero);
        assert_eq!(decode(&header, &bytes).unwrap(), raw);
    }
}

#[test]
fn more_than_announced_is_not_decompressed() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let header =
        ChunkHeader { stream: 0, offset: 0, raw_len: 1000, encoding: Encoding::Zstd, digest: zero_digest(1000) };
    assert!(matches!(decode(&header, &bomb), Err(ChunkError::Corrupt { .. })));
}

#[test]
fn impossible_lengths_are_refused() {
    let header = ChunkHeader { stream: 0, offset: 0, raw_len: 0, encoding: Encoding::Zero, digest: zero_digest(0) };
    assert!(matches!(decode(&header, &[]), Err(ChunkError::BadLength { .. })));
    let raw_len = CHUNK_BYTES as u32 + 1;
    let long = vec![1; raw_len as usize];
    let header = ChunkHeader { raw_len, encoding: Encoding::Raw, digest: Digest::of(&long), ..header };
    assert!(matches!(decode(&header, &long), Err(ChunkError::BadLength { .. })));
    let header = ChunkHeader { offset: u64::MAX, raw_len: 1, digest: Digest::of(b"a"), ..header };
    assert!(matches!(decode(&header, b"a"), Err(ChunkError::BadLength { .. })));
}

#[test]
fn zero_means_every_byte() {
    for len in [1, 2, 63, 4096, CHUNK_BYTES] {
        let mut bytes = vec![0; len];
        assert!(is_zero(&bytes));
        for at in [0, len / 2, len - 1] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at} of {len}");
            bytes[at] = 0;
        }
    }
    assert!(is_zero(&[]));
}

#[test]
fn the_receiver_gone_is_told() {
    let (out, chunks) = mpsc::channel(1);
    drop(chunks);
    let mut encoder = Encoder::new(Pace::shared(), Pool::new(1), out).unwrap();
    assert!(encoder.send(0, 0, Bytes::from_static(b"x")).is_err());
}
