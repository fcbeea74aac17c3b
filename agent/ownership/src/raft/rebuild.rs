//! The deliberate way back when a majority of the voters is lost for good.
//!
//! What it risks: everything that the lost majority agreed on after the backup, and two copies of a workload if a node of the old cluster
//! still runs. So whoever does this has made sure that those are off, or wiped.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use migrate_proto::cluster::{ClusterId, VoterId};
use migrate_proto::id::StateMark;
use thiserror::Error;

use super::ask::Asker;
use super::running::Running;
use super::settings::Timing;
use crate::backup::Backup;
use crate::carrier::{CallError, Carrier, Whom};
use crate::store::{Store, StoreError};
use crate::types::Place;

/// Why a cluster could not be rebuilt. The store is as it was.
#[derive(Debug, Error)]
pub enum RebuildError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it.
    #[error("the record on this node cannot be read: {0}")]
    Raft(String),
    /// Nothing is in it.
    #[error("{} has no record of a cluster", path.display())]
    Nothing {
        /// The store.
        path: std::path::PathBuf,
    },
}

/// Begins a new cluster with this node as its only member, from a backup. The store must be empty or not there, and the agent's cluster
/// part stopped. Says which cluster it is now: the one with the number `fresh`.
pub async fn rebuild(
    store: &Path,
    mark: StateMark,
    place: Place,
    backup: Backup,
    fresh: ClusterId,
) -> Result<ClusterId, RebuildError> {
    let mut store = Store::open(store, mark).await?;
    let closed = store.closed();
    let founded = store.found(backup.rebuilt(fresh), place).await;
    drop(store);
    closed.wait().await;
    Ok(founded.map(|()| fresh)?)
}

/// A backup of what this node has itself, where no majority can be asked any more. It may lack what was agreed last.
pub async fn from_here(store: &Path, mark: StateMark) -> Result<Backup, RebuildError> {
    let path = store.to_owned();
    let store = Store::open(store, mark).await?;
    let closed = store.closed();
    let Some(cluster) = store.cluster()? else {
        return Err(RebuildError::Nothing { path });
    };
    let asker = Asker { carrier: Arc::new(Nowhere), me: VoterId::from(mark), cluster: None };
    let running = Running::start(store, asker, cluster, &Timing::default()).await;
    // Starting has applied what was known to be agreed; more than that nobody can say without the others.
    let running = running.map_err(|fatal| RebuildError::Raft(fatal.to_string()))?;
    let record = running.record.borrow().clone();
    let _ = running.raft.shutdown().await;
    drop(running);
    closed.wait().await;
    if record.nodes.is_empty() {
        return Err(RebuildError::Nothing { path });
    }
    Ok(Backup::of(&record))
}

/// Reaches nobody.
struct Nowhere;

#[async_trait]
impl Carrier for Nowhere {
    async fn call(&self, _: Whom, _: Bytes, _: Duration) -> Result<Bytes, CallError> {
        Err(CallError::Unreachable("only what this node has is looked at".to_owned()))
    }
}
