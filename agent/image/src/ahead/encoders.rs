//! The threads that hash and compress what the reader has gathered: on a fast link one alone is slower than the link.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::AheadError;
use crate::buffers::Pool;
use crate::chunk::{AHEAD_STREAM, Chunk};
use crate::encode::Encoder;
use crate::lock;
use crate::pace::SharedPace;

const ENCODERS: usize = 2;
const STACK_BYTES: usize = 256 << 10;

/// Some pages, and where in the stream they belong.
type Job = (u64, Bytes);

/// Encoders at work; chunks leave in any order.
pub(super) struct Encoders {
    jobs: SyncSender<Job>,
    threads: Vec<JoinHandle<Result<u64, AheadError>>>,
}

impl Encoders {
    pub(super) fn start(pace: &SharedPace, raw: &Arc<Pool>, out: &mpsc::Sender<Chunk>) -> Result<Encoders, AheadError> {
        let (jobs, queue) = sync_channel(ENCODERS);
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for _ in 0..ENCODERS {
            let mut encoder = Encoder::new(pace.clone(), raw.clone(), out.clone())?;
            let (queue, raw) = (queue.clone(), raw.clone());
            let work = move || encode(&mut encoder, &queue).inspect_err(|_| raw.close());
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).name("ahead".into()).spawn(work);
            threads.push(thread.map_err(AheadError::Start)?);
        }
        Ok(Encoders { jobs, threads })
    }

    /// Hands over; waits while all are busy.
    pub(super) fn take(&self, offset: u64, raw: Bytes) -> Result<(), AheadError> {
        self.jobs.send((offset, raw)).map_err(|_| AheadError::Stopped)
    }

    /// Waits until everything is done; says how many bytes were handed on.
    pub(super) fn finish(self) -> Result<u64, AheadError> {
        drop(self.jobs);
        // All of them end before anything is said.
        let ends: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ends.into_iter().try_fold(0, |sent, end| Ok(sent + end.map_err(|_| AheadError::Panicked)??))
    }
}

fn encode(encoder: &mut Encoder, queue: &Mutex<Receiver<Job>>) -> Result<u64, AheadError> {
    let mut sent = 0;
    loop {
        // A statement of its own: the next one waits for a job while this one works.
        let job = lock(queue).recv();
        let Ok((offset, raw)) = job else { return Ok(sent) };
        sent += encoder.send(AHEAD_STREAM, offset, raw)?.bytes as u64;
    }
}
