//! What a voter must not forget, in one file (redb): its vote, the log, and the record as it was when the log was last cut.
//!
//! ```text
//! raft's core ──► Log ─────┐                       ┌─ log    index ─► entry
//!                          ├─► Writer: one thread ─┤─ meta   store, vote, purged, committed
//! its machine ──► Machine ─┘   a commit for all    └─ meta   snapshot and what it is of
//!                  │           that waits
//!                  └─► the record, in memory; everybody's to watch
//! ```
//!
//! - What raft is told is done, is on the disk: votes, appended entries, cuts, snapshots. Only how far the log is committed may be
//!   older on the disk than in memory; then a restarted node applies again what the leader tells it.
//! - The record itself is not written entry by entry: it is the snapshot and the log behind that. A snapshot is on the disk before
//!   the log in front of it is cut, and never replaced by an older one.
//! - A file belongs to the node whose mark it bears. Each row has a checksum: what is damaged is said and not voted with.
//! - After the first failure nothing is written any more. Raft stops for good; opening again is the way back.

mod database;
mod error;
mod log;
mod machine;
mod row;
mod snapshot;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate_proto::cluster::record::Record;
use migrate_proto::cluster::{ClusterId, VoterId};
use migrate_proto::id::StateMark;
use openraft::{CommittedLeaderId, LogId, SnapshotMeta, Vote};
use tokio::sync::watch;

pub(crate) use self::database::Closed;
use self::database::{Database, OpenDatabase};
use self::error::Damage;
pub use self::error::StoreError;
pub(crate) use self::log::Log;
pub(crate) use self::machine::Machine;
use self::writer::{Change, Writer};
use crate::types::Place;

/// Of whoever begins a cluster.
const FIRST_TERM: u64 = 1;

/// An open store, before raft begins with it.
pub(crate) struct Store {
    mark: StateMark,
    database: Arc<Database>,
    closed: Closed,
    writer: Writer,
    machine: Machine,
}

impl Store {
    /// Opens the store at `path`, or makes one, for the node with this mark.
    pub(crate) async fn open(path: &Path, mark: StateMark) -> Result<Store, StoreError> {
        let owned = path.to_owned();
        Store::on(path, mark, move || Database::open(&owned, mark)).await
    }

    async fn on(
        path: &Path,
        mark: StateMark,
        open: impl FnOnce() -> Result<OpenDatabase, StoreError> + Send + 'static,
    ) -> Result<Store, StoreError> {
        let opening = tokio::task::spawn_blocking(move || {
            let (database, closed) = open()?;
            let database = Arc::new(database);
            let writer = Writer::start(Arc::clone(&database))?;
            let machine = Machine::load(Arc::clone(&database), writer.clone())?;
            Ok(Store { mark, database, closed, writer, machine })
        });
        // The database's own code gives up in this way where a file makes no sense at all.
        opening.await.unwrap_or_else(|_| Err(Damage::Senseless.at(path)))
    }

    /// Whether raft has never begun with it.
    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        let (purged, last) = self.database.log_ends()?;
        Ok(purged.is_none() && last.is_none() && self.database.vote()?.is_none() && self.database.snapshot()?.is_none())
    }

    /// Of which cluster it is, if it is of any.
    pub(crate) fn cluster(&self) -> Result<Option<ClusterId>, StoreError> {
        self.database.cluster()
    }

    /// Makes this node one of `cluster`; it gets the record from the others. It stays in the cluster that it is in.
    pub(crate) async fn join(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        match self.cluster()? {
            Some(same) if same == cluster => Ok(()),
            Some(store) => Err(StoreError::OtherCluster { path: self.path(), store, other: cluster }),
            None => {
                self.writer.write(vec![Change::Cluster(cluster)]).await?;
                self.machine.begin_with(machine::nothing_agreed(Some(cluster)), &SnapshotMeta::default());
                Ok(())
            }
        }
    }

    /// Makes this node the only voter of a cluster that begins with `record`: a new one, or one that is rebuilt. The store must be
    /// empty. Whoever joins gets the record before the log, since there is no log in front of it.
    pub(crate) async fn found(&mut self, record: Record, place: Place) -> Result<(), StoreError> {
        if !self.is_empty()? || self.cluster()?.is_some() {
            return Err(StoreError::NotEmpty { path: self.path() });
        }
        let me = VoterId::from(self.mark).0;
        let begin = LogId::new(CommittedLeaderId::new(FIRST_TERM, me), record.revision);
        let (record, packed) = machine::beginning(begin, record, (me, place))
            .map_err(|reason| Damage::Snapshot(reason).at(self.database.path()))?;
        let changes = vec![
            Change::Cluster(record.cluster.id),
            Change::Vote(Vote::new(FIRST_TERM, me)),
            Change::Purge(begin),
            Change::Snapshot(packed.clone()),
        ];
        self.writer.write(changes).await?;
        self.machine.begin_with(record, &packed.of);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.database.path().to_owned()
    }

    /// The record, as far as this node has applied it. It never goes back.
    pub(crate) fn records(&self) -> watch::Receiver<Arc<Record>> {
        self.machine.records()
    }

    /// Ends when the file is closed, and can be opened again: when all that came of this store is dropped.
    pub(crate) fn closed(&self) -> Closed {
        self.closed.clone()
    }

    /// What raft begins with.
    pub(crate) fn split(self) -> (Log, Machine) {
        (Log::new(self.database, self.writer), self.machine)
    }
}
