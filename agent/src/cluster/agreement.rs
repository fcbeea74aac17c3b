//! The record, kept together with the other members: [`migrate_ownership`] with this agent's calls under it, or in an etcd.
//!
//! Where it is in an etcd, leases are, too: the keeper's renewals are written there as beats.
//!
//! A store that cannot be used does not end the agent: workloads run on, a person is told why, and it is tried again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use migrate_ownership::{
    Backup, Carrier, Etcd, EtcdAddress, EtcdSetup, Joiner, Ownership, Place, Raft, Roots, Setup, Standing, Timing, Whom,
};
use migrate_proto::cluster::lease::Known;
use migrate_proto::cluster::record::{ClusterPolicy, NodeEntry, Record};
use migrate_proto::cluster::{ClusterId, VoterId};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use migrate_proto::version::SPOKEN;
use migrate_transport::link::PeerAddress;
use tokio::sync::{mpsc, watch};

use super::Cluster;
use super::calls::{Answers, CallError, Calls, What};
use super::keeper::{Bench, Order};
use super::membership::{Membership, Offices};
use super::session::Claimant;
use super::{lead, session, ways_back};
use crate::config::ClusterConfig;
use crate::events::Kind;
use crate::handover::Ground;
use crate::host::Host;
use crate::{durable, random};

/// How long the cluster may take to admit a node, when another of its name lives.
const ADMISSION: Duration = Duration::from_secs(5);
/// How soon a store that cannot be used is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// This node's part in keeping the record.
pub struct Agreement {
    host: Arc<Host>,
    ground: Ground,
    cluster: Arc<Cluster>,
    calls: Arc<Calls>,
    kept: watch::Sender<Option<Kept>>,
}

/// What keeps the record.
#[derive(Clone)]
enum Kept {
    Raft(Arc<Raft>),
    Etcd(Arc<Etcd>),
}

impl Kept {
    fn record(&self) -> Arc<dyn Ownership> {
        match self {
            Kept::Raft(raft) => raft.clone(),
            Kept::Etcd(etcd) => etcd.clone(),
        }
    }
}

impl Agreement {
    /// Nothing is kept yet: see [`Agreement::keep`].
    pub fn new(ground: Ground, cluster: Arc<Cluster>, calls: Arc<Calls>) -> Arc<Agreement> {
        let host = ground.host.clone();
        Arc::new(Agreement { host, ground, cluster, calls, kept: watch::Sender::new(None) })
    }

    /// Takes part for as long as the agent runs.
    pub async fn keep(self: Arc<Self>, told: ClusterConfig) {
        let mut said = None;
        let kept = loop {
            let problem = match self.start(&told).await {
                Ok(kept) => break kept,
                Err(problem) => problem.message,
            };
            if said.as_ref() != Some(&problem) {
                let what = format!("this node does not keep the cluster's record: {problem}");
                self.host.events.record(Kind::Warning, None, None, what);
                said = Some(problem);
            }
            tokio::time::sleep(AGAIN).await;
        };
        let record = kept.record();
        self.kept.send_replace(Some(kept.clone()));
        let post = lead::Post {
            ownership: record.clone(),
            cluster: self.cluster.clone(),
            calls: self.calls.clone(),
            ground: self.ground.clone(),
            terms: told.terms,
        };
        let me = Claimant { node: self.host.node().clone(), mark: self.ground.registry.mark() };
        let holding = session::Holding {
            record: &*record,
            cluster: &self.cluster,
            tenure: &self.host.tenure,
            registry: &self.ground.registry,
            me,
            terms: told.terms,
        };
        tokio::join!(
            self.host.tenure.keep(record.clone()),
            self.tell(&*record),
            self.sit(&*record),
            self.mind_being_cut_off(&kept),
            self.beat(&kept),
            self.mind_a_namesake(&*record),
            holding.hold(),
            async {
                self.host.tenure.taken_over().await;
                lead::lead(&post).await;
            },
        );
    }

    /// Ends this node's part, so that its store is closed.
    pub async fn stop(&self) {
        let kept = self.kept.borrow().clone();
        if let Some(Kept::Raft(raft)) = kept {
            raft.stop().await;
        }
    }

    /// Ends this node's part in its cluster, and begins a new one in its place, from a backup or from what this node has. The agent ends then.
    pub async fn found_anew(&self, backup: Option<Backup>) -> Result<ClusterId, Problem> {
        let kept = self.kept.borrow().clone();
        let Some(Kept::Raft(raft)) = kept else {
            let what = "this node's record is in an etcd: bring that back by its own means";
            return Err(Problem::new(Code::WrongState, what));
        };
        raft.stop().await;
        let address = self.cluster.members.own_address().unwrap_or_default();
        let place = Place { name: self.host.node().clone(), address };
        let founded = ways_back::replace_store(&self.ground, &self.store(), place, backup).await;
        ways_back::end(&self.cluster, &self.ground, founded.as_ref());
        founded
    }

    fn store(&self) -> PathBuf {
        self.host.config.state.join("cluster").join("record.redb")
    }

    async fn start(&self, told: &ClusterConfig) -> Result<Kept, Problem> {
        match &told.etcd {
            Some(address) => self.start_etcd(told, address.clone()),
            None => self.start_raft(told).await.map(|raft| Kept::Raft(Arc::new(raft))),
        }
    }

    /// Etcd orders the commands; this node only has to be in the record.
    fn start_etcd(&self, told: &ClusterConfig, address: EtcdAddress) -> Result<Kept, Problem> {
        let own = self.cluster.members.own_address().unwrap_or_default();
        let setup = EtcdSetup {
            address,
            joiner: Joiner {
                mark: self.ground.registry.mark(),
                place: Place { name: self.host.node().clone(), address: own },
                versions: SPOKEN,
            },
            founds: told.join.is_empty(),
            known: durable::read(&super::known_cluster(&self.host)).map_err(Problem::internal)?,
            fresh: ClusterId(random::bytes().map_err(Problem::internal)?),
            policy: ClusterPolicy::default(),
            terms: told.terms,
            answer: Timing::default().answer,
        };
        Ok(Kept::Etcd(Arc::new(Etcd::start(setup))))
    }

    async fn start_raft(&self, told: &ClusterConfig) -> Result<Raft, Problem> {
        let place = |node: &NodeName, address: &str| Place { name: node.clone(), address: address.to_owned() };
        let own = self.cluster.members.own_address().unwrap_or_default();
        let setup = Setup {
            store: self.store(),
            joiner: Joiner {
                mark: self.ground.registry.mark(),
                place: place(self.host.node(), &own),
                versions: SPOKEN,
            },
            roots: Roots {
                members: told.members.iter().map(|member| place(&member.node, &member.address)).collect(),
                join: told.join.clone(),
            },
            fresh: ClusterId(random::bytes().map_err(Problem::internal)?),
            policy: ClusterPolicy::default(),
            timing: Timing {
                heartbeat: told.raft.heartbeat,
                election_min: told.raft.election.0,
                election_max: told.raft.election.1,
                ..Timing::default()
            },
        };
        let carrier = Arc::new(Way { calls: self.calls.clone(), cluster: self.cluster.clone() });
        Raft::start(setup, carrier).await.map_err(|error| Problem::new(Code::Internal, error.to_string()))
    }

    /// Tells everybody on this node who leads and who votes.
    async fn tell(&self, record: &dyn Ownership) {
        let mut standing = record.standing();
        let (mut cluster, mut leader, mut trouble) = (None, None, None);
        loop {
            let now = standing.borrow_and_update().clone();
            if now.cluster.is_some() && now.cluster != cluster {
                cluster = now.cluster;
                self.belong_to(now.cluster).await;
            }
            let mut offices = offices(&now);
            // One that was cut off, or is started again, takes itself for the leader that it was until it hears of another.
            if offices.leader.as_ref() == Some(self.host.node()) && !now.leads {
                offices.leader = None;
            }
            if offices.leader.is_some() && offices.leader != leader {
                leader.clone_from(&offices.leader);
                let who = leader.as_ref().map_or("nobody", NodeName::as_str);
                self.host.events.record(Kind::Leader, None, None, format!("{who} leads, in term {}", now.term));
            }
            if now.trouble.is_some() && now.trouble != trouble {
                let what = now.trouble.clone().unwrap_or_default();
                self.host.events.record(Kind::Warning, None, None, what);
            }
            trouble = now.trouble;
            self.cluster.order(Order::Voters(offices.voters.clone()));
            self.cluster.members.note_offices(offices);
            if standing.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells the keeper, and remembers, which cluster this is.
    async fn belong_to(&self, cluster: Option<ClusterId>) {
        let Some(cluster) = cluster else { return };
        self.cluster.order(Order::Cluster(cluster));
        let path = super::known_cluster(&self.host);
        let kept = tokio::task::spawn_blocking(move || durable::write(&path, &cluster)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "the cluster's number could not be kept");
        }
    }

    /// Tells the keeper what leases depend on.
    async fn sit(&self, kept: &dyn Ownership) {
        let (mut standing, mut record) = (kept.standing(), kept.record());
        loop {
            let (stands, known) = (standing.borrow_and_update().clone(), record.borrow_and_update().clone());
            self.cluster.order(Order::Bench(Box::new(bench(&stands, &known))));
            self.cluster.members.note_forgotten(&known);
            let changed = tokio::select! {
                changed = standing.changed() => changed,
                changed = record.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Of two nodes of one name the one ends that the others have not admitted. That happens where it came in while they were cut off.
    async fn mind_a_namesake(&self, record: &dyn Ownership) {
        let mut namesakes = self.cluster.namesakes();
        if namesakes.wait_for(|heard| *heard).await.is_err() {
            return;
        }
        let mut standing = record.standing();
        let admitted = |standing: &Standing| standing.members.contains_key(&standing.me);
        let refused = |standing: &Standing| standing.cluster.is_some() && !admitted(standing);
        loop {
            if standing.wait_for(refused).await.is_err() {
                return;
            }
            match tokio::time::timeout(ADMISSION, standing.wait_for(admitted)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    let what =
                        format!("there is another node {} in the cluster, which was there before", self.host.node());
                    let hint = "give this one another name, with --node or NODE_ID";
                    return self.cluster.give_up(Problem::new(Code::NameTaken, what).hint(hint));
                }
            }
        }
    }

    /// Where etcd keeps the leases, the keeper's renewals are written there.
    async fn beat(&self, kept: &Kept) {
        let Kept::Etcd(etcd) = kept else { return };
        let (beats, mut renewals) = mpsc::channel(1);
        self.cluster.order(Order::Beats(beats));
        while let Some(renew) = renewals.recv().await {
            match etcd.beat(&renew.claim).await {
                Ok(()) => self.cluster.order(Order::Beaten(renew)),
                Err(error) => tracing::debug!(%error, "this node's lease was not renewed"),
            }
        }
    }

    /// Whoever hears from no other voter must not want to lead: it could not, and would unseat the leader when it is back.
    async fn mind_being_cut_off(&self, kept: &Kept) {
        let Kept::Raft(raft) = kept else { return };
        let mut hears = self.cluster.hears_voters();
        loop {
            let may = *hears.borrow_and_update();
            raft.may_lead(may);
            tracing::debug!(may, "whether this node may want to lead");
            if hears.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Who leads and who votes, by name.
fn offices(standing: &Standing) -> Offices {
    let name = |id: &VoterId| standing.members.get(id).map(|place| place.name.clone());
    let voters: BTreeSet<VoterId> = standing.voters.sets.iter().flatten().copied().collect();
    Offices { leader: standing.leader.as_ref().and_then(name), voters: voters.iter().filter_map(name).collect() }
}

fn bench(standing: &Standing, record: &Record) -> Bench {
    let known = |node: &NodeEntry| Known { session: node.session, fenced: node.fenced };
    Bench {
        voters: standing.voters.clone(),
        addresses: standing.members.iter().map(|(id, place)| (*id, place.address.clone())).collect(),
        known: record.nodes.iter().map(|(name, node)| (name.clone(), known(node))).collect(),
        // `leads` says that the whole log is in the record.
        alone: standing.leads && record.cluster.voters.are_only(standing.me),
    }
}

#[async_trait]
impl Answers for Agreement {
    fn is_called_by(&self, member: &NodeName) {
        self.calls.is_there(member);
    }

    async fn answer(&self, _: &NodeName, what: What, body: Vec<u8>) -> Result<Vec<u8>, Problem> {
        if what == What::Leader {
            return lead::errand::carry_out(&self.ground, &body).await;
        }
        let kept = self.kept.borrow().clone();
        match kept {
            Some(Kept::Raft(raft)) => Ok(raft.serve(&body).await.into()),
            Some(Kept::Etcd(_)) => {
                let hint = "say the same with --ownership on all nodes of a cluster";
                Err(Problem::new(Code::Usage, "this node's record is in an etcd").hint(hint))
            }
            None => Err(Problem::new(Code::Busy, "this node does not keep the record at the moment")),
        }
    }
}

/// How the record's questions reach other members.
struct Way {
    calls: Arc<Calls>,
    cluster: Arc<Cluster>,
}

impl Way {
    /// Where no name is known: who listens at that address, else any member.
    fn somebody(&self, address: &str) -> Option<PeerAddress> {
        let all = self.cluster.members.all();
        all.iter().find(|peer| peer.address == address).or(all.first()).cloned()
    }
}

#[async_trait]
impl Carrier for Way {
    async fn call(&self, to: Whom, request: Bytes, ttl: Duration) -> Result<Bytes, migrate_ownership::CallError> {
        use migrate_ownership::CallError as Error;
        let Whom { name, address } = to;
        let peer = match name {
            Some(node) => PeerAddress { node, address },
            None => self.somebody(&address).ok_or_else(|| Error::Unreachable("no member is known yet".to_owned()))?,
        };
        let answer = self.calls.call(&peer, What::Ownership, request.into(), ttl).await;
        answer.map(Bytes::from).map_err(|error| match error {
            CallError::Unreachable(problem) => Error::Unreachable(problem.message),
            CallError::Late(after) => Error::Late(after),
            CallError::Lost(problem) | CallError::Refused(problem) => Error::Lost(problem.message),
        })
    }
}
