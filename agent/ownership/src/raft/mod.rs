//! The record by agreement: openraft over the agents' connections, with its log in this node's state directory.
//!
//! ```text
//!            ┌ formation   which cluster: found one, join one, wait       life      forms, runs, opens a failed store anew
//! life ──────┤ joining     into the record and among the members
//!            └ running     one openraft node: as leader, or through it ── network ── ask ──► Carrier
//!                ├ standing   its figures for everybody else
//!                ├ hush       not while somebody leads, after a start
//!                └ candidacy  whose turn it is to stand up
//! Carrier ──► serve        what other nodes ask
//! ```
//!
//! A node is known by its mark: one that has lost its state directory is another one. Each question names the cluster and the node that is
//! meant, so that neither strangers nor a node at another's old address are taken for somebody else.

mod ask;
mod candidacy;
mod formation;
mod hush;
mod joining;
mod life;
mod network;
mod rebuild;
mod running;
mod serve;
mod settings;
mod standing;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Applied, ClusterPolicy, Record};
use migrate_proto::cluster::{ClusterId, VoterId};
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::formation::{BadRoots, Roots};
pub use self::rebuild::{RebuildError, from_here, rebuild};
use self::running::Running;
pub use self::settings::{BadTiming, Timing};
use crate::carrier::Carrier;
use crate::ownership::{Joiner, Ownership, ProposeError, Standing, State};
use crate::store::{Store, StoreError};
use crate::wire::{Answer, Ask};

/// Everything that a node needs to know to take part.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The file that keeps the log.
    pub store: PathBuf,
    /// This node.
    pub joiner: Joiner,
    /// Where to look for the cluster if the store does not know it.
    pub roots: Roots,
    /// The number of the cluster if this node founds one; drawn at random each time.
    pub fresh: ClusterId,
    /// What holds in a cluster that this node founds.
    pub policy: ClusterPolicy,
    /// Periods and limits.
    pub timing: Timing,
}

/// Why a node cannot take part.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its settings.
    #[error(transparent)]
    Timing(#[from] BadTiming),
    /// Where it is to look.
    #[error(transparent)]
    Roots(#[from] BadRoots),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node that keeps the record together with others. It stops when it is dropped; [`Raft::stop`] also waits for that.
pub struct Raft {
    shared: Arc<Shared>,
    life: Mutex<Option<JoinHandle<()>>>,
}

/// What all the tasks of a node have in common.
struct Shared {
    setup: Setup,
    carrier: Arc<dyn Carrier>,
    running: watch::Sender<Option<Arc<Running>>>,
    record: watch::Sender<Arc<Record>>,
    standing: watch::Sender<Standing>,
    trouble: watch::Sender<Option<String>>,
    /// The last that was heard of a node of another cluster.
    stranger: watch::Sender<Option<(ClusterId, Instant)>>,
    may_lead: watch::Sender<bool>,
    stop: watch::Sender<bool>,
}

impl Raft {
    /// Opens the store, and takes part from then on. That there is no cluster yet is no error.
    pub async fn start(setup: Setup, carrier: Arc<dyn Carrier>) -> Result<Raft, StartError> {
        setup.timing.check()?;
        setup.roots.check(&setup.joiner.place.name)?;
        let store = Store::open(&setup.store, setup.joiner.mark).await?;
        let shared = Arc::new(Shared {
            running: watch::channel(None).0,
            record: watch::channel(store.records().borrow().clone()).0,
            standing: watch::channel(Standing::forming(setup.joiner.id())).0,
            trouble: watch::channel(None).0,
            stranger: watch::channel(None).0,
            may_lead: watch::channel(true).0,
            stop: watch::channel(false).0,
            setup,
            carrier,
        });
        let life = tokio::spawn(life::live(Arc::clone(&shared), store));
        Ok(Raft { shared, life: Mutex::new(Some(life)) })
    }

    /// Answers a request that another node's [`Carrier`] has brought here. Only members of the cluster may get this far.
    pub async fn serve(&self, request: &[u8]) -> Bytes {
        self.shared.serve(request).await
    }

    /// Whether this node may try to lead. One that hears from no other voter must not: raft has no way to ask whether it would win, and its
    /// attempts would unseat the leader when it is back.
    pub fn may_lead(&self, may: bool) {
        self.shared.may_lead.send_replace(may);
    }

    /// Stops, and returns when the store is closed.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        if let Some(life) = self.life.lock().await.take() {
            // That it panicked was said when it did.
            let _ = life.await;
        }
    }
}

impl Drop for Raft {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

impl Shared {
    fn id(&self) -> VoterId {
        self.setup.joiner.id()
    }

    fn running(&self) -> Option<Arc<Running>> {
        self.running.borrow().clone()
    }

    fn ready(&self) -> Result<Arc<Running>, ProposeError> {
        self.running().ok_or_else(|| {
            let standing = self.standing.borrow();
            match standing.state {
                State::Stopped => ProposeError::Stopped(standing.trouble.clone().unwrap_or_default()),
                _ => ProposeError::NotReady,
            }
        })
    }

    /// Everybody's copy goes forward only, also when a store that is opened anew is a little behind.
    fn show(&self, record: &Arc<Record>) {
        self.record.send_if_modified(|shown| {
            let newer = record.revision > shown.revision;
            if newer {
                shown.clone_from(record);
            }
            newer
        });
    }

    async fn of_leader(&self, ask: Ask) -> Result<Answer, ProposeError> {
        self.ready()?.through_leader(ask).await
    }

    async fn done(&self, ask: Ask) -> Result<(), ProposeError> {
        match self.of_leader(ask).await? {
            Answer::Done => Ok(()),
            _ => Err(ProposeError::Unknown),
        }
    }
}

#[async_trait]
impl Ownership for Raft {
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        match self.shared.of_leader(Ask::Propose(command)).await? {
            Answer::Applied(applied) => Ok(applied),
            _ => Err(ProposeError::Unknown),
        }
    }

    fn record(&self) -> watch::Receiver<Arc<Record>> {
        self.shared.record.subscribe()
    }

    async fn confirm(&self) -> Result<Arc<Record>, ProposeError> {
        let running = self.shared.ready()?;
        let Answer::Confirmed(upto) = running.through_leader(Ask::Confirm).await? else {
            return Err(ProposeError::NoQuorum);
        };
        let record = running.applied(upto).await?;
        self.shared.show(&record);
        Ok(record)
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    async fn set_voters(&self, voters: BTreeSet<VoterId>) -> Result<(), ProposeError> {
        self.shared.done(Ask::Voters(voters)).await
    }

    async fn admit(&self, joiner: Joiner) -> Result<(), ProposeError> {
        self.shared.done(Ask::Admit(joiner)).await
    }

    async fn retire(&self, id: VoterId) -> Result<(), ProposeError> {
        self.shared.done(Ask::Retire(id)).await
    }
}
