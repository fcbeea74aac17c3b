//! The record in an etcd that a site already runs: its servers agree, and the nodes of this cluster need not vote.
//!
//! ```text
//!            ┌ follow    the copy: everything under the prefix, and what happens to it     mirror   what is known of it
//!  start ────┤ seat      who leads: the key `leader`, kept by beats
//!            └ joining   into the record
//!  propose ── change    reads the entries that a command names, carries it out here, writes them if they are still the same
//!  beat, lapsed ─ beats  leases without voters
//!                  all of them ── kv ── http ──► etcd's JSON gateway
//! ```
//!
//! Only linearizable reads and transactions are used, none of etcd's leases, locks or elections: a keep-alive is answered from
//! the memory of a server that may have been deposed.
//!
//! Who else can write these keys can do everything: what protects them is etcd's network. There is no TLS and no password yet.

mod address;
mod beats;
mod change;
mod follow;
mod http;
mod joining;
mod kv;
mod mirror;
mod seat;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{Terms, Voters};
use migrate_proto::cluster::record::{Applied, ClusterPolicy, Record, Standing as Membership};
use migrate_proto::cluster::{Claim, ClusterId, VoterId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::address::{BadAddress, EtcdAddress};
pub use self::beats::BeatError;
use self::beats::Pulse;
use self::http::{CallError, within};
use self::kv::Store;
use self::mirror::Mirror;
use crate::ownership::{BadVoter, Joiner, Ownership, ProposeError, Standing, State};
use crate::types::Place;

/// Everything that a node needs to know to keep its record in etcd.
#[derive(Debug, Clone)]
pub struct EtcdSetup {
    /// Where.
    pub address: EtcdAddress,
    /// This node.
    pub joiner: Joiner,
    /// Whether it founds a cluster where there is none. Who was told to join must not.
    pub founds: bool,
    /// To which cluster it has belonged before.
    pub known: Option<ClusterId>,
    /// The number of the cluster if this node founds one; drawn at random each time.
    pub fresh: ClusterId,
    /// What holds in a cluster that this node founds.
    pub policy: ClusterPolicy,
    /// How long leases are, and the seat of the leader is kept.
    pub terms: Terms,
    /// How long whoever proposes waits for an answer.
    pub answer: Duration,
}

/// A node whose record is in etcd. It stops when it is dropped.
pub struct Etcd {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What all the tasks of a node have in common.
struct Shared {
    setup: EtcdSetup,
    store: Store,
    state: Mutex<Known>,
    /// Told when the mirror has changed.
    moved: watch::Sender<()>,
    record: watch::Sender<Arc<Record>>,
    standing: watch::Sender<Standing>,
    pulse: tokio::sync::Mutex<Option<Pulse>>,
}

/// What this node knows.
#[derive(Default)]
struct Known {
    mirror: Option<Mirror>,
    /// Until when nobody else can have taken this node's seat, and in which term it took it.
    leads: Option<(Instant, u64)>,
    /// Why nothing is done any more until a person has done something.
    stopped: Option<String>,
    /// Why it is not in the record.
    unwelcome: Option<String>,
    /// What etcd says that a person should know.
    complaint: Option<String>,
}

impl Etcd {
    /// Takes part from now on. That etcd does not answer is no error: it is asked again.
    pub fn start(setup: EtcdSetup) -> Etcd {
        let unknown = Record::new(ClusterId([0; 16]), ClusterPolicy::default());
        let shared = Arc::new(Shared {
            store: Store::new(setup.address.servers().to_vec()),
            state: Mutex::default(),
            moved: watch::channel(()).0,
            record: watch::channel(Arc::new(unknown)).0,
            standing: watch::channel(Standing::forming(setup.joiner.id())).0,
            pulse: tokio::sync::Mutex::default(),
            setup,
        });
        let mut tasks = JoinSet::new();
        for task in [Task::Follow, Task::Sit, Task::SettleIn] {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                match task {
                    Task::Follow => shared.follow().await,
                    Task::Sit => shared.sit().await,
                    Task::SettleIn => shared.settle_in().await,
                }
            });
        }
        Etcd { shared, _tasks: tasks }
    }
}

enum Task {
    Follow,
    Sit,
    SettleIn,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn me(&self) -> VoterId {
        self.setup.joiner.id()
    }

    fn in_time(&self) -> Instant {
        within(self.setup.answer)
    }

    /// So that another server can be asked before a lease is over.
    fn in_time_for_a_beat(&self) -> Instant {
        within(self.setup.answer.min(Duration::from_nanos(self.setup.terms.lease() / 3)))
    }

    /// With which revision the cluster's entry was made.
    fn made(&self) -> Result<u64, ProposeError> {
        let known = self.known();
        if let Some(why) = &known.stopped {
            return Err(ProposeError::Stopped(why.clone()));
        }
        known.mirror.as_ref().map(|mirror| mirror.made).ok_or(ProposeError::NotReady)
    }

    /// Changes what is known, and tells everybody.
    fn note<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known();
        let done = change(&mut known);
        let standing = self.stands(&known);
        if let Some(mirror) = known.mirror.as_ref().filter(|_| known.stopped.is_none()) {
            self.record.send_if_modified(|shown| {
                let newer = mirror.record.revision > shown.revision;
                if newer {
                    shown.clone_from(&mirror.record);
                }
                newer
            });
        }
        drop(known);
        self.standing.send_if_modified(|shown| {
            let other = *shown != standing;
            if other {
                *shown = standing;
            }
            other
        });
        self.moved.send_replace(());
        done
    }

    fn stands(&self, known: &Known) -> Standing {
        let trouble = known.stopped.clone().or(known.unwelcome.clone()).or(known.complaint.clone());
        let mut standing = Standing { trouble, ..Standing::forming(self.me()) };
        if known.stopped.is_some() {
            standing.state = State::Stopped;
        }
        let Some(mirror) = &known.mirror else { return standing };
        let is_member = |standing: Membership| matches!(standing, Membership::Member | Membership::Draining);
        let members = mirror.record.nodes.iter().filter(|(_, node)| is_member(node.standing));
        let place = |name: &migrate_proto::name::NodeName, address: &str| Place {
            name: name.clone(),
            address: address.to_owned(),
        };
        standing.cluster = Some(mirror.record.cluster.id);
        standing.members = members.map(|(name, node)| (VoterId::from(node.mark), place(name, &node.address))).collect();
        standing.caught_up = standing.members.keys().copied().collect();
        standing.voters = Voters::default();
        if known.stopped.is_some() {
            return standing;
        }
        let now = Instant::now();
        if let Some(seat) = &mirror.seat {
            standing.term = seat.what.term;
            let kept = now.duration_since(seat.since) < seat::worth(seat, self.setup.terms);
            standing.leader = kept.then(|| VoterId::from(seat.what.by));
        }
        if let Some((_, term)) = known.leads.filter(|(until, _)| now < *until) {
            // This node knows it before it sees it in etcd.
            (standing.leads, standing.leader, standing.term) = (true, Some(self.me()), term);
        }
        standing.state = if standing.leads { State::Leader } else { State::Learner };
        standing
    }

    /// Why something was surely not done, or may have been.
    fn failed(&self, error: CallError) -> ProposeError {
        if !error.undone() {
            return ProposeError::Unknown;
        }
        match error {
            CallError::Refused { message, .. } if !message.ends_with("no leader") => {
                let why = format!("etcd: {message}");
                self.note(|known| known.complaint = Some(why.clone()));
                ProposeError::Stopped(why)
            }
            _ => ProposeError::NoQuorum,
        }
    }
}

#[async_trait]
impl Ownership for Etcd {
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.shared.change(&command).await
    }

    fn record(&self) -> watch::Receiver<Arc<Record>> {
        self.shared.record.subscribe()
    }

    async fn confirm(&self) -> Result<Arc<Record>, ProposeError> {
        self.shared.confirmed().await
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    async fn set_voters(&self, voters: BTreeSet<VoterId>) -> Result<(), ProposeError> {
        Err(if voters.is_empty() { BadVoter::Nobody } else { BadVoter::Elsewhere }.into())
    }

    async fn admit(&self, joiner: Joiner) -> Result<(), ProposeError> {
        self.shared.admit(&joiner).await
    }

    /// A `Fence` is carried out only if this is so.
    fn has_lapsed(&self, claim: &Claim) -> Option<bool> {
        Some(self.shared.lapsed(claim).is_some())
    }

    /// Nothing is sent to anybody: each node looks for itself.
    async fn retire(&self, _: VoterId) -> Result<(), ProposeError> {
        Ok(())
    }
}
