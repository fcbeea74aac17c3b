#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::thread;

use nix::poll::{PollFd, PollFlags, poll};

use super::*;
use crate::chunk::{ChunkHeader, Content, Decoder};

fn options() -> Options {
    Options { window_bytes: 4 << 20, pace: Pace::compressing(), ..Options::default() }
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Everything that comes, put together again, and the digests in order.
async fn collect(mut chunks: mpsc::Receiver<Chunk>) -> BTreeMap<u32, (Vec<u8>, Digest)> {
    let mut parts: BTreeMap<u32, BTreeMap<u64, (Vec<u8>, Digest)>> = BTreeMap::new();
    let mut decoder = Decoder::new().unwrap();
    while let Some((header, bytes)) = chunks.recv().await {
        let ChunkHeader { stream, offset, digest, .. } = header;
        let raw = match decoder.decode(&header, &bytes).unwrap() {
            Content::Zeros(len) => vec![0; len],
            Content::Bytes(raw) => raw.to_vec(),
        };
        assert!(parts.entry(stream).or_default().insert(offset, (raw, digest)).is_none());
    }
    let join = |parts: BTreeMap<u64, (Vec<u8>, Digest)>| {
        let digest = stream_digest(parts.values().map(|(_, digest)| digest));
        let mut whole = Vec::new();
        for (offset, (raw, _)) in parts {
            assert_eq!(offset, whole.len() as u64);
            whole.extend(raw);
        }
        (whole, digest)
    };
    parts.into_iter().map(|(stream, parts)| (stream, join(parts))).collect()
}

#[tokio::test]
async fn many_pipes_of_all_sizes_come_out_whole() {
    let (mut outgoing, chunks) = Outgoing::start(options()).unwrap();
    let contents: Vec<Vec<u8>> = vec![
        noise(5 << 20, 1),
        vec![],
        b"x".to_vec(),
        vec![0; 3 << 20],
        b"lorem ipsum ".repeat(200_000),
        noise(CHUNK_BYTES, 2),
        noise(CHUNK_BYTES + 1, 3),
    ];
    let mut writers = Vec::new();
    for (number, content) in contents.iter().cloned().enumerate() {
        let (read, mut write) = io::pipe().unwrap();
        assert_eq!(outgoing.add_pipe(format!("{number}.img"), read.into()).unwrap(), number as u32);
        writers.push(thread::spawn(move || write.write_all(&content).unwrap()));
    }
    let collected = tokio::spawn(collect(chunks));
    let summaries = outgoing.finish().await.unwrap();
    let collected = collected.await.unwrap();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(summaries.len(), contents.len());
    for (summary, content) in summaries.iter().zip(contents) {
        assert_eq!((summary.name.clone(), summary.length), (format!("{}.img", summary.stream), content.len() as u64));
        let nothing = (Vec::new(), Digest::of(&[]));
        let (got, digest) = collected.get(&summary.stream).unwrap_or(&nothing);
        assert!(*got == content, "stream {}", summary.stream);
        assert_eq!(summary.digest, *digest);
    }
}

#[tokio::test]
async fn memory_and_files_are_streams_too() {
    let (mut outgoing, chunks) = Outgoing::start(options()).unwrap();
    let content = noise(2_500_000, 4);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    outgoing.add_bytes("memory", Bytes::from(content.clone())).unwrap();
    outgoing.add_file_range("file", file, 100_000..2_400_001).unwrap();
    let collected = tokio::spawn(collect(chunks));
    outgoing.finish().await.unwrap();
    let collected = collected.await.unwrap();
    assert!(collected[&0].0 == content);
    assert!(collected[&1].0 == content[100_000..2_400_001]);
}

#[tokio::test]
async fn silent_pipes_starve_nobody() {
    let (mut outgoing, mut chunks) = Outgoing::start(options()).unwrap();
    // More than there are buffers, each with something in it, all kept open.
    let mut open = Vec::new();
    for number in 0..20 {
        let (read, mut write) = io::pipe().unwrap();
        write.write_all(&[number; 100]).unwrap();
        outgoing.add_pipe(number.to_string(), read.into()).unwrap();
        open.push(write);
    }
    for _ in 0..20 {
        assert_eq!(chunks.recv().await.unwrap().0.raw_len, 100);
    }
    // The one that matters still flows.
    let (read, mut write) = io::pipe().unwrap();
    let big = outgoing.add_pipe("big", read.into()).unwrap();
    let writer = thread::spawn(move || write.write_all(&noise(8 << 20, 5)).unwrap());
    let mut got = 0;
    while got < 8 << 20 {
        let (header, _) = chunks.recv().await.unwrap();
        assert_eq!(header.stream, big);
        got += header.raw_len;
    }
    writer.join().unwrap();
    drop(open);
    assert_eq!(outgoing.finish().await.unwrap().len(), 21);
}

#[tokio::test]
async fn memory_is_bounded_while_nobody_takes() {
    let (mut outgoing, chunks) = Outgoing::start(options()).unwrap();
    let (read, write) = io::pipe().unwrap();
    outgoing.add_pipe("endless", read.into()).unwrap();
    // Everything that is ever accepted without a taker: the window, the pipe, and what is in the writer's hand.
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let block = noise(64 << 10, 6);
    let limit = (4 << 20) + (8 << 20);
    let mut accepted = 0;
    // Until it has stayed full for a while.
    let writable = || poll(&mut [PollFd::new(write.as_fd(), PollFlags::POLLOUT)], 300u16).unwrap() > 0;
    while writable() {
        match rustix::io::write(&write, &block) {
            Ok(len) => accepted += len,
            Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => panic!("{errno}"),
        }
        assert!(accepted <= limit, "{accepted} bytes accepted");
    }
    assert!(accepted > 1 << 20, "{accepted} bytes accepted");
    drop(chunks);
    drop(write);
    assert!(matches!(outgoing.finish().await, Err(OutgoingError::Stopped)));
}

#[tokio::test]
async fn dropping_the_future_ends_the_reading_of_a_silent_pipe() {
    let (mut outgoing, _chunks) = Outgoing::start(options()).unwrap();
    let (read, mut write) = io::pipe().unwrap();
    outgoing.add_pipe("silent", read.into()).unwrap();
    let finish = tokio::spawn(outgoing.finish());
    finish.abort();
    assert!(finish.await.unwrap_err().is_cancelled());
    // The read end is closed once the thread has ended.
    tokio::task::spawn_blocking(move || while write.write_all(&[1; 4096]).is_ok() {}).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_too_short_is_an_error() {
    let (mut outgoing, chunks) = Outgoing::start(options()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 1000]).unwrap();
    outgoing.add_file_range("short", file, 10..2000).unwrap();
    let collected = tokio::spawn(collect(chunks));
    let failure = outgoing.finish().await.unwrap_err();
    assert!(matches!(failure, OutgoingError::Short { got: 990, expected: 1990, .. }), "{failure}");
    collected.await.unwrap();
}

#[tokio::test]
async fn a_pipe_that_cannot_be_read_is_an_error_with_its_name() {
    let (mut outgoing, chunks) = Outgoing::start(options()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let directory: OwnedFd = File::open(dir.path()).unwrap().into();
    outgoing.add_pipe("no-pipe", directory).unwrap();
    let collected = tokio::spawn(collect(chunks));
    outgoing.failed().await;
    let failure = outgoing.finish().await.unwrap_err();
    assert!(matches!(&failure, OutgoingError::Read { name, .. } if name == "no-pipe"), "{failure}");
    collected.await.unwrap();
}

/// What is under way holds its buffer, so a slow link leaves none long before its queue is full.
#[tokio::test]
async fn a_link_that_holds_all_buffers_is_compressed_for() {
    let options = Options { window_bytes: 8 << 20, ..Options::default() };
    let (mut outgoing, mut chunks) = Outgoing::start(options).unwrap();
    let (read, mut write) = io::pipe().unwrap();
    outgoing.add_pipe("text", read.into()).unwrap();
    // Ends when nobody reads any more.
    let writer = thread::spawn(move || while write.write_all(&b"lorem ipsum ".repeat(100_000)).is_ok() {});
    // This link has taken much and delivers slowly.
    let mut under_way = std::collections::VecDeque::new();
    loop {
        let (header, bytes) = chunks.recv().await.unwrap();
        if header.encoding == crate::chunk::Encoding::Zstd {
            break;
        }
        assert!(header.offset < 200 << 20, "200 MiB crossed a slow link uncompressed");
        under_way.push_back(bytes);
        if under_way.len() == 3 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            under_way.pop_front();
        }
    }
    drop((under_way, chunks, outgoing));
    writer.join().unwrap();
}

/// Credit is given for bytes and told in lumps: whatever has left compressed must not keep what comes after from leaving.
#[tokio::test]
async fn any_number_of_small_chunks_may_be_under_way() {
    let options = Options { pace: Pace::compressing(), ..Options::default() };
    let (mut outgoing, mut chunks) = Outgoing::start(options).unwrap();
    // Half of each chunk is noise: too much for a small allocation.
    let half = [noise(CHUNK_BYTES / 2, 6), vec![0; CHUNK_BYTES / 2]].concat();
    let mut under_way = Vec::new();
    outgoing.add_bytes("halves", Bytes::from(half.repeat(20))).unwrap();
    for _ in 0..20 {
        let (header, bytes) = chunks.recv().await.unwrap();
        assert_eq!(header.encoding, crate::chunk::Encoding::Zstd);
        under_way.push(bytes);
    }
    outgoing.finish().await.unwrap();
}
