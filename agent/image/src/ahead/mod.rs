//! Memory copied ahead, as content: pages of running processes, sent before anything is frozen, so that the image that is
//! taken later need only name them ([`crate::chunk::Encoding::Refs`]).
//!
//! Nothing is stopped, traced or tracked. What is sent is no part of the image and says nothing about where a page belongs:
//! the chunks of [`AHEAD_STREAM`](crate::chunk::AHEAD_STREAM) are pages that the image will probably contain. A page that changes while it is read, or
//! afterwards, or that belongs to a process that is gone, does no harm: it is never named, and was sent for nothing. So all
//! in all more bytes may cross than the memory is large: at worst, when everything changes, twice as many.
//!
//! The source remembers a hash of each page ([`KnownPages`]). The hash only proposes: the target compares the BLAKE3 digest
//! of every chunk that it puts together, so a collision ends the transfer and never changes a byte.

mod encoders;
mod pages;
mod process;

use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_128;

use self::encoders::Encoders;
pub use self::pages::KnownPages;
use self::process::Process;
use crate::buffers::{Buffer, Pool};
use crate::chunk::{CHUNK_BYTES, Chunk, PAGE_BYTES, is_zero};
use crate::encode::EncodeError;
use crate::pace::SharedPace;

/// Buffers, here and under way: enough for a link to be busy while the next pages are read.
const RAW_CHUNKS: usize = 8;

/// Why copying ahead ended before its end. That a process cannot be read is no reason.
#[derive(Debug, Error)]
pub enum AheadError {
    /// zstd failed.
    #[error("cannot compress memory: {0}")]
    Compress(std::io::Error),
    /// A thread could not be started.
    #[error("cannot start compressing memory: {0}")]
    Start(std::io::Error),
    /// A thread panicked.
    #[error("a thread that compresses memory panicked")]
    Panicked,
    /// Nobody takes chunks any more.
    #[error("copying memory ahead was stopped")]
    Stopped,
}

impl From<EncodeError> for AheadError {
    fn from(failure: EncodeError) -> AheadError {
        match failure {
            EncodeError::Zstd(source) => AheadError::Compress(source),
            EncodeError::Closed => AheadError::Stopped,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// What was read.
    pub read_bytes: u64,
    /// What of it was neither zero nor known already.
    pub copied_bytes: u64,
    /// What of that crossed, after compression.
    pub sent_bytes: u64,
    /// Processes that could not be looked at: gone, most of the time.
    pub skipped: u32,
}

/// Sends the content of the processes' private memory, each distinct page once, and blocks until all is handed over.
///
/// Ends early, with what it has, when [`KnownPages::LIMIT`] pages are known.
pub fn copy(pids: &[i32], pace: SharedPace, out: &mpsc::Sender<Chunk>) -> Result<(KnownPages, Stats), AheadError> {
    let raw = Pool::new(RAW_CHUNKS);
    let encoders = Encoders::start(&pace, &raw, out)?;
    let mut copying = Copying { known: KnownPages::default(), encoders, raw, offset: 0, stats: Stats::default() };
    let read = copying.all(pids);
    let Copying { known, encoders, mut stats, .. } = copying;
    // Why they stopped says more than that they did.
    stats.sent_bytes = encoders.finish()?;
    read.map(|()| (known.finish(), stats))
}

/// Pages for the next chunk.
struct Gathered {
    room: Buffer,
    len: usize,
}

struct Copying {
    known: KnownPages,
    encoders: Encoders,
    raw: Arc<Pool>,
    /// Where in the stream the next chunk begins.
    offset: u64,
    stats: Stats,
}

impl Copying {
    fn room(&self) -> Result<Buffer, AheadError> {
        self.raw.take().ok_or(AheadError::Stopped)
    }

    fn all(&mut self, pids: &[i32]) -> Result<(), AheadError> {
        let mut gathered = Gathered { room: self.room()?, len: 0 };
        for pid in pids {
            if self.process(*pid, &mut gathered)?.is_none() {
                self.stats.skipped += 1;
            }
        }
        self.send(gathered)
    }

    /// Takes all pages of a process that are there. `None` where it cannot be looked at.
    fn process(&mut self, pid: i32, gathered: &mut Gathered) -> Result<Option<()>, AheadError> {
        let Ok(process) = Process::open(pid) else { return Ok(None) };
        for mapping in process.mappings() {
            let Ok(runs) = process.present(mapping) else { return Ok(None) };
            for run in runs {
                self.run(&process, run, gathered)?;
            }
        }
        Ok(Some(()))
    }

    /// Takes a run of pages, up to the first that cannot be read.
    fn run(&mut self, process: &Process, run: Range<u64>, gathered: &mut Gathered) -> Result<(), AheadError> {
        let mut at = run.start;
        while at < run.end && !self.known.is_full() {
            if gathered.len == CHUNK_BYTES {
                let full = std::mem::replace(gathered, Gathered { room: self.room()?, len: 0 });
                self.send(full)?;
            }
            let wanted = (run.end - at).min((CHUNK_BYTES - gathered.len) as u64) as usize;
            let Ok(got) = process.read(at, &mut gathered.room[gathered.len..][..wanted]) else { break };
            let whole = got - got % PAGE_BYTES;
            self.keep(gathered, whole);
            if whole < wanted {
                break;
            }
            at += whole as u64;
        }
        Ok(())
    }

    /// Of the `read` bytes that follow what is gathered, gathers the pages that are new.
    fn keep(&mut self, gathered: &mut Gathered, read: usize) {
        self.stats.read_bytes += read as u64;
        let end = gathered.len + read;
        for from in (gathered.len..end).step_by(PAGE_BYTES) {
            let page = from..from + PAGE_BYTES;
            let content = &gathered.room[page.clone()];
            if is_zero(content) || !self.known.insert(xxh3_128(content)) {
                continue;
            }
            if from != gathered.len {
                gathered.room.copy_within(page, gathered.len);
            }
            gathered.len += PAGE_BYTES;
        }
    }

    fn send(&mut self, Gathered { room, len }: Gathered) -> Result<(), AheadError> {
        if len == 0 {
            return Ok(());
        }
        self.encoders.take(self.offset, room.freeze(len))?;
        self.offset += len as u64;
        self.stats.copied_bytes += len as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
