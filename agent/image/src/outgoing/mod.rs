//! The source's side: many byte streams in, chunks out, in a fixed window of memory.
//!
//! One thread drains each pipe; a few encoder threads hash and compress; chunks leave in any order through a bounded
//! queue. The window is made of a pool of buffers for raw bytes. A chunk that has left uncompressed still holds its buffer
//! until its [`Bytes`] is dropped, so a slow link reaches back to CRIU's pipes. The receiver must therefore drop what it has
//! sent, and copy what it means to keep. Compressed chunks are as large as they are; their number is bounded by the queue,
//! and by how many bytes the receiver keeps under way.
//!
//! A pipe that is silent holds no buffer: it takes one when bytes are there, and what it has gathered leaves as a short
//! chunk when no more come for a moment. So any number of open pipes cannot starve the one that CRIU waits for.

mod feed;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::mpsc as sync;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use migrate_proto::id::Digest;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use self::feed::{Feed, Stop};
use crate::ahead::KnownPages;
use crate::buffers::Pool;
use crate::chunk::{CHUNK_BYTES, Chunk, StreamSummary, stream_digest};
use crate::encode::{EncodeError, Encoder};
use crate::lock;
use crate::pace::{Pace, SharedPace};

/// The most memory that an [`Outgoing`] holds in buffers for raw bytes, with those that have left and are not yet dropped.
pub const WINDOW_BYTES: usize = 32 << 20;

/// How many chunks wait for the link.
const QUEUE_CHUNKS: usize = 8;
/// Threads here need no deep stack, and there are as many as pipes.
const STACK_BYTES: usize = 256 << 10;

/// Why streams could not be read or encoded.
#[derive(Debug, Error)]
pub enum OutgoingError {
    /// A stream could not be read.
    #[error("cannot read image '{name}': {source}")]
    Read {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A file ended before the announced range did.
    #[error("image '{name}' ended after {got} of {expected} bytes")]
    Short {
        /// Its name.
        name: String,
        /// What was there.
        got: u64,
        /// What should have been.
        expected: u64,
    },
    /// zstd failed.
    #[error("cannot compress: {0}")]
    Compress(io::Error),
    /// A thread could not be started, or a descriptor not be made.
    #[error("cannot start reading image '{name}': {source}")]
    Start {
        /// For which stream.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A thread panicked.
    #[error("a thread of the image stream panicked")]
    Panicked,
    /// It was stopped, or nobody takes chunks any more.
    #[error("the image stream was stopped")]
    Stopped,
}

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many threads hash and compress.
    pub encoders: usize,
    /// The window; at most [`WINDOW_BYTES`] count, and a few chunks is the least.
    pub window_bytes: usize,
    /// The pace, shared with whatever else uses the link.
    pub pace: SharedPace,
    /// What the target has of memory already; may be filled later, at best before the freeze.
    pub known: Arc<OnceLock<KnownPages>>,
}

impl Default for Options {
    fn default() -> Options {
        Options { encoders: 2, window_bytes: WINDOW_BYTES, pace: Pace::shared(), known: Arc::default() }
    }
}

/// A piece of a stream on its way to an encoder.
struct Job {
    stream: u32,
    offset: u64,
    raw: Bytes,
}

#[derive(Default)]
struct Stream {
    name: String,
    length: u64,
    digests: BTreeMap<u64, Digest>,
}

/// What all threads share.
struct Shared {
    streams: Mutex<BTreeMap<u32, Stream>>,
    failure: Mutex<Option<OutgoingError>>,
    failed: Notify,
    raw: Arc<Pool>,
    stop: Stop,
}

impl Shared {
    /// Ends every thread at its next step. The first failure is the one that is told.
    fn fail(&self, failure: OutgoingError) {
        lock(&self.failure).get_or_insert(failure);
        self.failed.notify_one();
        self.stop.stop();
        self.raw.close();
    }
}

/// Stops everything when dropped; after the end that has no effect.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.fail(OutgoingError::Stopped);
    }
}

/// The streams of one image on their way out. Dropping it stops it.
pub struct Outgoing {
    shared: Arc<Shared>,
    jobs: sync::SyncSender<Job>,
    threads: Vec<JoinHandle<()>>,
    next_stream: u32,
    stopper: StopOnDrop,
}

impl Outgoing {
    /// Starts the encoders and touches the window's memory, which takes some 20 ms: do it before the freeze. The receiver
    /// yields chunks, and `None` after the last.
    pub fn start(options: Options) -> Result<(Outgoing, mpsc::Receiver<Chunk>), OutgoingError> {
        let encoders = options.encoders.max(1);
        let buffers = options.window_bytes.min(WINDOW_BYTES) / CHUNK_BYTES;
        // The rest is for small and for compressed chunks, which have allocations of their own, and for encoding.
        let raw = (buffers * 3 / 4).max(2);
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            failure: Mutex::new(None),
            failed: Notify::new(),
            raw: Pool::new(raw),
            stop: Stop::new().map_err(|source| OutgoingError::Start { name: String::new(), source })?,
        });
        let (jobs, jobs_out) = sync::sync_channel(encoders * 2);
        let (chunks, chunks_out) = mpsc::channel(QUEUE_CHUNKS);
        let stopper = StopOnDrop(shared.clone());
        let mut outgoing = Outgoing { shared: shared.clone(), jobs, threads: Vec::new(), next_stream: 0, stopper };
        let jobs_out = Arc::new(Mutex::new(jobs_out));
        for _ in 0..encoders {
            let encoder = Encoder::new(options.pace.clone(), shared.raw.clone(), chunks.clone());
            let encoder = encoder.map_err(encode_failure)?.naming(options.known.clone());
            let (shared, jobs_out) = (shared.clone(), jobs_out.clone());
            outgoing.spawn("image-encode", "", move || run_encoder(&shared, encoder, &jobs_out))?;
        }
        Ok((outgoing, chunks_out))
    }

    /// The number that the next stream will have.
    pub fn next_stream(&self) -> u32 {
        self.next_stream
    }

    /// Drains a pipe until its end. Returns the stream's number.
    pub fn add_pipe(&mut self, name: impl Into<String>, pipe: OwnedFd) -> Result<u32, OutgoingError> {
        self.add(name.into(), move |feed| feed.pipe(pipe))
    }

    /// Sends bytes that are already in memory.
    pub fn add_bytes(&mut self, name: impl Into<String>, bytes: Bytes) -> Result<u32, OutgoingError> {
        self.add(name.into(), move |feed| feed.bytes(bytes))
    }

    /// Sends a range of a file, which must be there whole.
    pub fn add_file_range(
        &mut self,
        name: impl Into<String>,
        file: File,
        range: Range<u64>,
    ) -> Result<u32, OutgoingError> {
        self.add(name.into(), move |feed| feed.file(&file, range))
    }

    /// Returns when it has failed, for the one who waits here; never where it does not. `finish` then says why. Whoever fills
    /// a pipe learns of it too, since pipes break: what they say is no cause.
    pub async fn failed(&self) {
        self.shared.failed.notified().await;
    }

    /// Waits until every stream has ended and every chunk has been taken. Dropping the future stops everything.
    pub async fn finish(self) -> Result<Vec<StreamSummary>, OutgoingError> {
        let Outgoing { shared, jobs, threads, stopper, .. } = self;
        drop(jobs);
        let joined = tokio::task::spawn_blocking(move || {
            // Every one is waited for, also after a panic in another.
            let panics = threads.into_iter().filter_map(|thread| thread.join().err());
            panics.count() == 0
        });
        let all_well = joined.await.unwrap_or(false);
        let failure = lock(&shared.failure).take();
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !all_well {
            return Err(OutgoingError::Panicked);
        }
        drop(stopper);
        Ok(summaries(std::mem::take(&mut *lock(&shared.streams))))
    }

    fn add(
        &mut self,
        name: String,
        source: impl FnOnce(&mut Feed) -> Result<(), OutgoingError> + Send + 'static,
    ) -> Result<u32, OutgoingError> {
        let stream = self.next_stream;
        self.next_stream += 1;
        lock(&self.shared.streams).insert(stream, Stream { name: name.clone(), ..Stream::default() });
        let shared = self.shared.clone();
        let mut feed = Feed::new(stream, name.clone(), shared.clone(), self.jobs.clone());
        self.spawn("image-feed", &name, move || {
            if let Err(failure) = source(&mut feed) {
                shared.fail(failure);
            }
        })?;
        Ok(stream)
    }

    fn spawn(&mut self, thread: &str, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OutgoingError> {
        let builder = std::thread::Builder::new().name(thread.into()).stack_size(STACK_BYTES);
        let thread = builder.spawn(run).map_err(|source| OutgoingError::Start { name: name.into(), source })?;
        self.threads.push(thread);
        Ok(())
    }
}

fn run_encoder(shared: &Shared, mut encoder: Encoder, jobs: &Mutex<sync::Receiver<Job>>) {
    loop {
        // One encoder waits at the queue, the others at the lock.
        let Ok(job) = lock(jobs).recv() else { return };
        let (length, number) = (job.raw.len() as u64, job.stream);
        match encoder.send(job.stream, job.offset, job.raw) {
            Ok(sent) => {
                if let Some(stream) = lock(&shared.streams).get_mut(&number) {
                    stream.length += length;
                    stream.digests.insert(job.offset, sent.digest);
                }
            }
            Err(failure) => return shared.fail(encode_failure(failure)),
        }
    }
}

fn encode_failure(failure: EncodeError) -> OutgoingError {
    match failure {
        EncodeError::Zstd(source) => OutgoingError::Compress(source),
        EncodeError::Closed => OutgoingError::Stopped,
    }
}

fn summaries(streams: BTreeMap<u32, Stream>) -> Vec<StreamSummary> {
    let summary = |(stream, Stream { name, length, digests })| StreamSummary {
        stream,
        name,
        length,
        digest: stream_digest(digests.values()),
    };
    streams.into_iter().map(summary).collect()
}

#[cfg(test)]
mod tests;
