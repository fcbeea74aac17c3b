//! Why the store cannot be used, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate_proto::cluster::ClusterId;
use migrate_proto::id::StateMark;
use openraft::{AnyError, ErrorSubject, ErrorVerb, StorageIOError};
use thiserror::Error;

use super::row::Row;
use super::snapshot::SnapshotError;

/// Why the store cannot be opened, read or written.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the fields are named by the sentences")]
pub enum StoreError {
    /// It was copied here from another node, or the node has another state directory than before.
    #[error(
        "{} belongs to the node with the mark {store}, and this is the node with the mark {node}: a state directory must not be \
         copied from one node to another; give this one its own, or an empty one",
        path.display()
    )]
    OtherMark { path: PathBuf, store: StateMark, node: StateMark },
    /// What came from the leader is of another cluster, or somebody wants to join another one with it.
    #[error("{} belongs to the cluster {store}, not to {other}", path.display())]
    OtherCluster { path: PathBuf, store: ClusterId, other: ClusterId },
    /// A later version has written it.
    #[error("{} was written by a newer agent (format {format}): start that one", path.display())]
    Newer { path: PathBuf, format: u32 },
    /// What it says cannot be true.
    #[error(
        "{} is damaged: {damage}; have this node forgotten ('migrate nodes forget') and let it join again with an empty state \
         directory. To remove this file alone is no way out: the node would not know whom it has voted for",
        path.display()
    )]
    Damaged { path: PathBuf, damage: Damage },
    /// There is no room.
    #[error("there is no room for {}: make some on its file system", path.display())]
    Full { path: PathBuf, source: io::Error },
    /// Somebody has it open.
    #[error("{} is in use: another agent runs on this state directory, or this one has not closed it yet", path.display())]
    InUse { path: PathBuf },
    /// There is something in it already.
    #[error("{} belongs to a cluster already: to begin another, start with an empty state directory", path.display())]
    NotEmpty { path: PathBuf },
    /// The file system fails.
    #[error("{} cannot be used", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The database fails in a way of its own.
    #[error("{} cannot be used", path.display())]
    Database { path: PathBuf, source: Box<redb::Error> },
    /// There is no way to write it down.
    #[error("{row} cannot be written into {}", path.display())]
    Encode { path: PathBuf, row: Row, source: serde_json::Error },
    /// Something failed before; nothing has been written since.
    #[error(transparent)]
    Failed { source: Arc<StoreError> },
    /// The thread that writes is gone.
    #[error("{} is not written any more: the thread that does it has ended", path.display())]
    Stopped { path: PathBuf },
}

/// What is wrong with a store.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the fields are named by the sentences")]
pub enum Damage {
    /// A row is not what was written.
    #[error("{0} is not what was written there")]
    Checksum(Row),
    /// A row has a checksum, but makes no sense.
    #[error("{row} cannot be understood ({source})")]
    Meaning { row: Row, source: serde_json::Error },
    /// A row is missing.
    #[error("{0} is missing")]
    Missing(Row),
    /// The log was cut without a snapshot of what was cut off.
    #[error("the log begins after entry {purged}, the record ends before it")]
    Gap { purged: u64 },
    /// The snapshot is none.
    #[error("its snapshot {0}")]
    Snapshot(#[source] SnapshotError),
    /// The database says so.
    #[error("{0}")]
    Pages(Box<redb::Error>),
    /// The database cannot even say what is wrong.
    #[error("nothing in it can be understood")]
    Senseless,
}

impl StoreError {
    /// What the database says about the file at `path`.
    pub(super) fn of(path: &Path, error: impl Into<redb::Error>) -> StoreError {
        let path = path.to_owned();
        match error.into() {
            redb::Error::Io(source) => StoreError::of_file(&path, source),
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path },
            error @ (redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted) => Damage::Pages(Box::new(error)).at(&path),
            error => StoreError::Database { path, source: Box::new(error) },
        }
    }

    /// What the file system says about the file at `path`.
    pub(super) fn of_file(path: &Path, source: io::Error) -> StoreError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path, source },
            // The file ends too early, or does not begin as it should.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Damage::Pages(Box::new(redb::Error::Io(source))).at(&path)
            }
            _ => StoreError::Io { path, source },
        }
    }

    /// As raft is told about it; raft stops for good then.
    pub(super) fn in_raft(&self, subject: ErrorSubject<u64>, verb: ErrorVerb) -> openraft::StorageError<u64> {
        StorageIOError::new(subject, verb, AnyError::new(self)).into()
    }
}

impl Damage {
    /// Of the file at `path`.
    pub(super) fn at(self, path: &Path) -> StoreError {
        StoreError::Damaged { path: path.to_owned(), damage: self }
    }
}
