//! What is done to every chunk and every message, in isolation: `scripts/bench hot-paths`.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use migrate_image::chunk::{CHUNK_BYTES, ChunkHeader, Decoder, Encoding};
use migrate_image::outgoing::{Options, Outgoing};
use migrate_image::pace::Probe;
use migrate_proto::codec;
use migrate_proto::id::Digest;
use migrate_proto::message::{self, Message};

const IMAGE_CHUNKS: usize = 64;

/// A pseudo-random sequence (xorshift): the same in every run.
fn numbers() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(0x9E37_79B9_7F4A_7C15_u64), |last| {
        let mixed = last ^ (last << 13);
        let mixed = mixed ^ (mixed >> 7);
        Some(mixed ^ (mixed << 17))
    })
}

fn random(len: usize) -> Vec<u8> {
    numbers().flat_map(u64::to_le_bytes).take(len).collect()
}

/// Lines as a log has them.
fn text(len: usize) -> Vec<u8> {
    let line = |number: u64| format!("GET /item/{} status=200 took {} ms\n", number % 9973, number % 811);
    numbers().flat_map(|number| line(number).into_bytes()).take(len).collect()
}

fn kinds() -> [(&'static str, Vec<u8>); 3] {
    [("zero", vec![0; CHUNK_BYTES]), ("text", text(CHUNK_BYTES)), ("random", random(CHUNK_BYTES))]
}

/// Pages of an image into chunks, with all threads, nobody waiting for a link.
fn encode(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("encode an image");
    group.throughput(Throughput::Bytes((IMAGE_CHUNKS * CHUNK_BYTES) as u64));
    for (kind, chunk) in kinds() {
        let image = Bytes::from(chunk.repeat(IMAGE_CHUNKS));
        group.bench_with_input(BenchmarkId::from_parameter(kind), &image, |bencher, image| {
            bencher.iter(|| runtime.block_on(encode_all(image.clone())));
        });
    }
}

async fn encode_all(image: Bytes) {
    let (mut outgoing, mut chunks) = Outgoing::start(Options::default()).expect("encoders start");
    outgoing.add_bytes("pages", image).expect("a stream");
    let taken = tokio::spawn(async move { while chunks.recv().await.is_some() {} });
    outgoing.finish().await.expect("the stream ends");
    taken.await.expect("all is taken");
}

/// A chunk as it arrives, verified.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode a chunk");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    let mut decoder = Decoder::new().expect("a decoder");
    for (kind, raw) in kinds() {
        let (encoding, body) = match kind {
            "zero" => (Encoding::Zero, Vec::new()),
            "text" => (Encoding::Zstd, zstd::bulk::compress(&raw, 1).expect("zstd")),
            _ => (Encoding::Raw, raw.clone()),
        };
        let digest = Digest::of(&raw);
        let header = ChunkHeader { stream: 0, offset: 0, raw_len: CHUNK_BYTES as u32, encoding, digest };
        group.bench_function(kind, |bencher| {
            bencher.iter(|| black_box(decoder.decode(&header, &body)).is_ok());
        });
    }
}

/// Whether a chunk is worth compressing.
fn probe(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("probe a chunk");
    let mut probe = Probe::new().expect("a probe");
    for (kind, raw) in kinds() {
        group.bench_function(kind, |bencher| bencher.iter(|| probe.compressible(black_box(&raw))));
    }
}

/// The message that announces a chunk: one for each mebibyte.
fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let announced = Message::Chunk {
        stream: 7,
        offset: 1 << 30,
        raw_len: CHUNK_BYTES as u32,
        encoding: message::Encoding::Zstd,
        digest: Digest::of(b"chunk"),
    };
    let frame = codec::encode(&announced).expect("it can be sent");
    group.bench_function("encode", |bencher| bencher.iter(|| codec::encode(black_box(&announced)).is_ok()));
    group.bench_function("decode", |bencher| bencher.iter(|| codec::decode(black_box(&frame)).is_ok()));
}

criterion_group! {
    name = hot_paths;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = encode, decode, probe, codec
}
criterion_main!(hot_paths);
