//! Several nodes in one process, over a net with faults, each with its store in a directory of its own.

#![allow(clippy::unwrap_used)]

mod chaos;
mod contract;
mod elections;
mod forming;
mod growing;
mod history;
pub(crate) mod net;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::record::{ClusterPolicy, Record};
use migrate_proto::cluster::{ClusterId, VoterId};
use migrate_proto::name::NodeName;
use migrate_proto::version::SPOKEN;
use tokio::time::{Instant, sleep, timeout};

use self::net::Net;
use super::{Raft, Roots, Setup, Timing};
use crate::ownership::{Joiner, Ownership, Standing};
use crate::suite::{mark, until_done};
use crate::types::Place;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes, some of them running.
pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) nodes: Vec<Option<Arc<Raft>>>,
    pub(crate) timing: Timing,
    roots: Roots,
    dir: tempfile::TempDir,
}

pub(crate) fn name(number: usize) -> NodeName {
    format!("node{number}").parse().unwrap()
}

pub(crate) fn address(number: usize) -> String {
    format!("node{number}:7000")
}

pub(crate) fn place(number: usize) -> Place {
    Place { name: name(number), address: address(number) }
}

pub(crate) fn id(number: usize) -> VoterId {
    joiner(number).id()
}

pub(crate) fn joiner(number: usize) -> Joiner {
    Joiner { mark: mark(u8::try_from(number).unwrap() + 1), place: place(number), versions: SPOKEN }
}

impl Cluster {
    /// Nobody runs yet.
    pub(crate) fn new(members: usize, timing: Timing) -> Cluster {
        let roots = Roots { members: (0..members).map(place).collect(), join: Vec::new() };
        let dir = tempfile::tempdir().unwrap();
        Cluster { net: Net::new(1), nodes: vec![None; members], timing, roots, dir }
    }

    /// So many nodes, of which the first so many vote.
    pub(crate) async fn of(nodes: usize, voters: usize) -> Cluster {
        Cluster::with(nodes, voters, Timing::default()).await
    }

    pub(crate) async fn with(nodes: usize, voters: usize, timing: Timing) -> Cluster {
        let mut cluster = Cluster::new(nodes, timing);
        for number in 0..nodes {
            cluster.start(number).await;
        }
        cluster.everybody_is_in().await;
        cluster.vote((0..voters).collect()).await;
        cluster
    }

    pub(crate) fn setup(&self, number: usize) -> Setup {
        let in_roots = self.roots.members.iter().any(|place| place.name == name(number));
        let joining = Roots { members: Vec::new(), join: vec![address(0), address(1)] };
        Setup {
            store: self.store(number),
            joiner: joiner(number),
            roots: if in_roots { self.roots.clone() } else { joining },
            fresh: ClusterId([u8::try_from(number).unwrap() + 0x80; 16]),
            policy: ClusterPolicy::default(),
            timing: self.timing.clone(),
        }
    }

    pub(crate) fn store(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("node{number}.redb"))
    }

    pub(crate) async fn start(&mut self, number: usize) {
        let setup = self.setup(number);
        self.start_with(number, setup).await;
    }

    pub(crate) async fn start_with(&mut self, number: usize, setup: Setup) {
        let address = setup.joiner.place.address.clone();
        let node = Arc::new(Raft::start(setup, self.net.port(&address)).await.unwrap());
        self.net.attach(&address, &node);
        if self.nodes.len() <= number {
            self.nodes.resize(number + 1, None);
        }
        self.nodes[number] = Some(node);
    }

    /// From now on nobody hears of it. What it has on disk stays.
    pub(crate) async fn kill(&mut self, number: usize) {
        self.net.detach(&address(number));
        if let Some(node) = self.nodes[number].take() {
            node.stop().await;
        }
    }

    pub(crate) fn node(&self, number: usize) -> &Arc<Raft> {
        self.nodes[number].as_ref().unwrap()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Arc<Raft>)> {
        self.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.as_ref()?)))
    }

    pub(crate) fn standing(&self, number: usize) -> Standing {
        self.node(number).standing().borrow().clone()
    }

    pub(crate) fn record(&self, number: usize) -> Arc<Record> {
        self.node(number).record().borrow().clone()
    }

    pub(crate) async fn everybody_is_in(&self) {
        let all = self.nodes.len();
        let in_record = |record: &Record| record.nodes.len() == all;
        until("everybody is in", || {
            self.running()
                .all(|(number, node)| in_record(&self.record(number)) && node.standing().borrow().members.len() == all)
        })
        .await;
    }

    /// Exactly these vote, and everybody knows it.
    pub(crate) async fn vote(&self, voters: BTreeSet<usize>) {
        let ids: BTreeSet<VoterId> = voters.into_iter().map(id).collect();
        let node = Arc::clone(self.running().next().unwrap().1);
        until_done(|| node.set_voters(ids.clone())).await.unwrap();
        until("everybody knows who votes", || {
            self.running().all(|(_, node)| node.standing().borrow().voters.sets == [ids.clone()])
        })
        .await;
    }

    /// Who leads, once somebody does.
    pub(crate) async fn leader(&self) -> usize {
        let leads = || self.running().find(|(_, node)| node.standing().borrow().leads);
        until("somebody leads", || leads().is_some()).await;
        leads().map(|(number, _)| number).unwrap()
    }
}

pub(crate) async fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it never ends")
}
