//! The asynchronous front of what takes chunks on the target: verified and written on blocking threads, a few at once.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{AcquireError, Semaphore};

use crate::chunk::ChunkHeader;
use crate::lock;

/// What takes chunks, from several threads at once, in any order.
pub trait Absorb: Send + Sync + 'static {
    /// Why it would refuse one.
    type Error: StdError + Send + 'static;

    /// Verifies a chunk and puts its bytes where they belong. Blocks.
    fn absorb(&self, header: &ChunkHeader, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Why chunks are no longer taken.
#[derive(Debug, Error)]
pub enum IncomingError<E: StdError + 'static> {
    /// A chunk was refused. It need not be the one that was pushed last.
    #[error(transparent)]
    Refused(E),
    /// One was refused before, and that was told.
    #[error("an earlier chunk was refused")]
    Failed,
}

/// Chunks in, in bounded parallelism.
pub struct Incoming<S: Absorb> {
    sink: Arc<S>,
    room: Arc<Semaphore>,
    parallel: u32,
    failure: Arc<Mutex<Option<S::Error>>>,
}

impl<S: Absorb> Incoming<S> {
    /// Up to `parallel` chunks are worked on at once.
    pub fn new(sink: Arc<S>, parallel: u32) -> Incoming<S> {
        let parallel = parallel.max(1);
        Incoming { sink, room: Arc::new(Semaphore::new(parallel as usize)), parallel, failure: Arc::default() }
    }

    /// Waits for room and hands the chunk over. A refusal is told by a later call.
    pub async fn push(&self, header: ChunkHeader, bytes: Bytes) -> Result<(), IncomingError<S::Error>> {
        let permit = self.room.clone().acquire_owned().await.map_err(|closed| self.failed(closed))?;
        let (sink, room, failure) = (self.sink.clone(), self.room.clone(), self.failure.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(refusal) = sink.absorb(&header, &bytes) {
                lock(&failure).get_or_insert(refusal);
                room.close();
            }
            // Whoever waits for the permit may rely on nothing else being held any more.
            drop((sink, bytes));
            drop(permit);
        });
        Ok(())
    }

    /// Waits until everything that was pushed is done. Between two rounds of the layer this is needed: the same block
    /// may come in both.
    pub async fn drained(&self) -> Result<(), IncomingError<S::Error>> {
        let all = self.room.acquire_many(self.parallel).await;
        all.map(drop).map_err(|closed| self.failed(closed))
    }

    fn failed(&self, _closed: AcquireError) -> IncomingError<S::Error> {
        lock(&self.failure).take().map_or(IncomingError::Failed, IncomingError::Refused)
    }
}
