//! The log and the vote, as raft asks for them.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{Entry, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogReader, StorageError, Vote};

use super::database::Database;
use super::error::StoreError;
use super::writer::{Change, Writer};
use crate::types::Types;

/// As much as goes to another node at once: far below the largest message of a session.
const MOST_BYTES_TO_SEND: usize = 512 << 10;

/// The vote and the log.
pub(crate) struct Log {
    reader: LogReader,
    writer: Writer,
    committed: Option<LogId<u64>>,
}

/// Reads the log, also while it is written.
#[derive(Clone)]
pub(crate) struct LogReader {
    database: Arc<Database>,
}

impl Log {
    pub(super) fn new(database: Arc<Database>, writer: Writer) -> Log {
        Log { reader: LogReader { database }, writer, committed: None }
    }

    /// Together with how far the log is committed: that alone would not be worth a commit.
    async fn write(&mut self, change: Change) -> Result<(), StoreError> {
        let changes = self.committed.map(Change::Committed).into_iter().chain([change]).collect();
        self.writer.write(changes).await
    }
}

/// A node that is stopped in peace remembers how far it was.
impl Drop for Log {
    fn drop(&mut self) {
        if let Some(committed) = self.committed {
            self.writer.write_some_time(Change::Committed(committed));
        }
    }
}

impl LogReader {
    fn read(&self, from: Bound<u64>, to: Bound<u64>, at_most: usize) -> Result<Vec<Entry<Types>>, StoreError> {
        self.database.entries((from, to), at_most)
    }
}

fn unread(error: StoreError) -> StorageError<u64> {
    error.in_raft(ErrorSubject::Logs, ErrorVerb::Read)
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        self.read(range.start_bound().cloned(), range.end_bound().cloned(), usize::MAX).map_err(unread)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        self.read(Bound::Included(start), Bound::Excluded(end), MOST_BYTES_TO_SEND).map_err(unread)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        self.reader.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        self.reader.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let ends = self.reader.database.log_ends();
        let (last_purged_log_id, last) = ends.map_err(unread)?;
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.write(Change::Vote(*vote)).await.map_err(|e| e.in_raft(ErrorSubject::Vote, ErrorVerb::Write))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        self.reader.database.vote().map_err(|e| e.in_raft(ErrorSubject::Vote, ErrorVerb::Read))
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError<u64>> {
        self.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        let stored = self.reader.database.committed().map_err(unread)?;
        Ok(self.committed.or(stored))
    }

    /// Returns when the entries are on the disk: raft 0.9 waits for that anyhow before it does anything else.
    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows: Result<Vec<_>, _> = entries.into_iter().map(|entry| self.reader.database.entry_row(&entry)).collect();
        let written = match rows {
            Ok(rows) => self.write(Change::Append(rows)).await,
            Err(error) => Err(error),
        };
        flushed.log_io_completed(match &written {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        });
        written.map_err(|e| e.in_raft(ErrorSubject::Logs, ErrorVerb::Write))
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError<u64>> {
        let change = Change::Truncate(from.index);
        self.write(change).await.map_err(|e| e.in_raft(ErrorSubject::Log(from), ErrorVerb::Delete))
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.write(Change::Purge(upto)).await.map_err(|e| e.in_raft(ErrorSubject::Log(upto), ErrorVerb::Delete))
    }
}
