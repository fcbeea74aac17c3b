//! Against real etcd servers, which are killed, stopped and started anew.

#![allow(clippy::unwrap_used)]

mod contract;
mod leases;
mod servers;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::lease::Terms;
use migrate_proto::cluster::record::ClusterPolicy;
use migrate_proto::cluster::{Claim, ClusterId};
use migrate_proto::version::SPOKEN;
use tokio::time::timeout;

use self::servers::Servers;
use super::{Etcd, EtcdSetup};
use crate::ownership::{Joiner, Ownership, Standing};
use crate::suite::{mark, node, until_done};
use crate::types::Place;

const PATIENCE: Duration = Duration::from_secs(30);
/// Of those that nobody lets end.
const LONG: Duration = Duration::from_secs(120);
/// Of those that are to end.
const SHORT: Duration = Duration::from_millis(900);

fn joiner(number: u8) -> Joiner {
    let place = Place { name: node(&format!("node{number}")), address: format!("node{number}:7000") };
    Joiner { mark: mark(number + 1), place, versions: SPOKEN }
}

fn terms(lease: Duration) -> Terms {
    Terms::new(lease.as_nanos() as u64, 10_000).unwrap()
}

fn setup(servers: &Servers, number: u8) -> EtcdSetup {
    EtcdSetup {
        address: servers.address("/test/cluster").parse().unwrap(),
        joiner: joiner(number),
        founds: number == 0,
        known: None,
        fresh: ClusterId([number + 1; 16]),
        policy: ClusterPolicy::default(),
        terms: terms(SHORT),
        answer: Duration::from_secs(2),
    }
}

/// Nodes that all are members, and some etcd.
struct Nodes {
    servers: Servers,
    nodes: Vec<Arc<Etcd>>,
    lease: Duration,
}

impl Nodes {
    async fn of(nodes: u8, servers: usize) -> Nodes {
        Nodes::with(nodes, servers, SHORT).await
    }

    async fn with(nodes: u8, servers: usize, lease: Duration) -> Nodes {
        let mut all = Nodes { servers: Servers::start(servers).await, nodes: Vec::new(), lease };
        all.start(nodes).await;
        all
    }

    async fn start(&mut self, nodes: u8) {
        let setup = |number| EtcdSetup { terms: terms(self.lease), ..setup(&self.servers, number) };
        self.nodes = (0..nodes).map(|number| Arc::new(Etcd::start(setup(number)))).collect();
        for node in &self.nodes {
            stands(node, |standing| standing.members.len() == usize::from(nodes)).await;
        }
    }
}

async fn stands(node: &Etcd, how: impl FnMut(&Standing) -> bool) -> Standing {
    let mut standing = node.standing();
    let stands = timeout(PATIENCE, standing.wait_for(how)).await.map(|stands| stands.unwrap().clone());
    stands.unwrap_or_else(|_| panic!("{:?}", node.standing().borrow()))
}

/// A session that ends where nobody keeps it.
async fn finite(node: &Etcd, number: u8) -> Claim {
    let Joiner { mark, place, .. } = joiner(number);
    let after = until_done(|| node.confirm()).await.unwrap().nodes[&place.name].session;
    let open =
        migrate_proto::cluster::command::Command::OpenSession { node: place.name.clone(), mark, after, finite: true };
    until_done(|| node.propose(open.clone())).await.unwrap();
    Claim { node: place.name, session: after + 1 }
}
