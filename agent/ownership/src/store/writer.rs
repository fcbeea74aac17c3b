//! The one thread that writes: whatever waits becomes one commit, in the order in which it was asked for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use migrate_proto::cluster::ClusterId;
use openraft::{LogId, Vote};
use tokio::sync::oneshot;

use super::database::Database;
use super::error::StoreError;
use super::snapshot::Packed;

/// More in one commit would only make those wait that came first.
const MOST_IN_A_COMMIT: usize = 256;

/// Something to be written.
pub(super) enum Change {
    /// Of which cluster the node is.
    Cluster(ClusterId),
    /// Whom the node has voted for.
    Vote(Vote<u64>),
    /// Up to where the log is agreed.
    Committed(LogId<u64>),
    /// Entries, by index, as they are stored.
    Append(Vec<(u64, Vec<u8>)>),
    /// The entries from this index on go.
    Truncate(u64),
    /// The entries up to this one go.
    Purge(LogId<u64>),
    /// The record as it was after some entry.
    Snapshot(Packed),
}

struct Job {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Gives the thread something to do. It ends with the last of these.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: Sender<Job>,
    database: Arc<Database>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(database: Arc<Database>) -> Result<Writer, StoreError> {
        let (jobs, waiting) = channel();
        let written = Arc::clone(&database);
        std::thread::Builder::new()
            .name("ownership-store".to_owned())
            .spawn(move || write_all(&written, &waiting))
            .map_err(|source| StoreError::Io { path: database.path().to_owned(), source })?;
        Ok(Writer { jobs, database })
    }

    /// Writes all of `changes` or nothing. When this returns, they are on the disk.
    pub(super) async fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (done, written) = oneshot::channel();
        let stopped = || StoreError::Stopped { path: self.database.path().to_owned() };
        self.jobs.send(Job { changes, done }).map_err(|_| stopped())?;
        written.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Writes `change` some time, if nothing goes wrong.
    pub(super) fn write_some_time(&self, change: Change) {
        let (done, _) = oneshot::channel();
        // Where the thread is gone, somebody has been told already.
        let _ = self.jobs.send(Job { changes: vec![change], done });
    }
}

fn write_all(database: &Database, waiting: &Receiver<Job>) {
    let mut failed: Option<Arc<StoreError>> = None;
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(waiting.try_iter().take(MOST_IN_A_COMMIT - 1)).collect();
        if failed.is_none() {
            failed = database.commit(batch.iter().flat_map(|job| &job.changes)).err().map(Arc::new);
        }
        for job in batch {
            // Who asked may not wait any more.
            let _ = job.done.send(failed.clone().map_or(Ok(()), |source| Err(StoreError::Failed { source })));
        }
    }
}
