//! Who the other nodes are, where they are reached, and how they seem to be.
//!
//! Two kinds: [`StaticPeers`], a list that does not change (the setting `peers`), and the members of a cluster that are found by
//! SWIM. Nothing here says who may run a workload.

use std::collections::BTreeSet;

use migrate_proto::api::{NodeState, NodeView};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use migrate_transport::link::PeerAddress;
use tokio::sync::watch;

use crate::config::Peer;

/// What is known of another node.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberView {
    /// Who, and where.
    pub peer: PeerAddress,
    /// How it seems to be; `None` where only its answer can tell.
    pub state: Option<NodeState>,
    /// What it said about itself last; `None` where it has to be asked.
    pub said: Option<Box<NodeView>>,
}

/// The other nodes. Answers at once, from what is known.
pub trait Membership: Send + Sync {
    /// All that may answer; never this node.
    fn all(&self) -> Vec<PeerAddress>;

    /// Where a node is, also one that does not seem to live.
    fn address(&self, node: &NodeName) -> Result<PeerAddress, Problem>;

    /// Everybody else that was ever heard of.
    fn views(&self) -> Vec<MemberView>;

    /// Counts the changes of all this.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Where the others reach this node, where they were told.
    fn own_address(&self) -> Option<String> {
        None
    }

    /// Who leads, and who votes, where there is such a thing.
    fn offices(&self) -> Offices {
        Offices::default()
    }
}

/// Who does what for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offices {
    /// Who leads, as far as is known here.
    pub leader: Option<NodeName>,
    /// Who votes.
    pub voters: BTreeSet<NodeName>,
}

/// The nodes of the configuration, in its order.
pub struct StaticPeers {
    known: Vec<PeerAddress>,
    /// Never changed; held so that those who follow do not take it for the end.
    changes: watch::Sender<u64>,
}

impl StaticPeers {
    /// These.
    pub fn new(listed: &[Peer]) -> StaticPeers {
        let address = |peer: &Peer| PeerAddress { node: peer.node.clone(), address: peer.address.clone() };
        StaticPeers { known: listed.iter().map(address).collect(), changes: watch::Sender::new(0) }
    }
}

impl Membership for StaticPeers {
    fn all(&self) -> Vec<PeerAddress> {
        self.known.clone()
    }

    fn address(&self, node: &NodeName) -> Result<PeerAddress, Problem> {
        let found = self.known.iter().find(|peer| peer.node == *node).cloned();
        found.ok_or_else(|| unknown(node, self.known.iter().map(|peer| &peer.node)))
    }

    fn views(&self) -> Vec<MemberView> {
        self.known.iter().map(|peer| MemberView { peer: peer.clone(), state: None, said: None }).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// There is no node of that name; there are these.
pub fn unknown<'a>(node: &NodeName, known: impl Iterator<Item = &'a NodeName>) -> Problem {
    let names: Vec<&str> = known.map(NodeName::as_str).collect();
    let hint =
        if names.is_empty() { "this agent has no peers".into() } else { format!("known nodes: {}", names.join(", ")) };
    Problem::new(Code::UnknownNode, format!("there is no node {node}")).hint(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_stays_as_it_is_and_names_what_it_knows() {
        let listed = ["node3", "node2"].map(|name| Peer { node: name.parse().unwrap(), address: format!("{name}:1") });
        let peers = StaticPeers::new(&listed);
        let names: Vec<String> = peers.all().iter().map(|peer| peer.node.to_string()).collect();
        assert_eq!(names, ["node3", "node2"]);
        assert_eq!(peers.address(&"node2".parse().unwrap()).unwrap().address, "node2:1");
        let problem = peers.address(&"node4".parse().unwrap()).unwrap_err();
        assert_eq!((problem.code, problem.hint.as_str()), (Code::UnknownNode, "known nodes: node3, node2"));
        assert!(peers.views().iter().all(|view| view.state.is_none() && view.said.is_none()));
        assert!(!peers.changes().has_changed().unwrap());
        assert_eq!(unknown(&listed[0].node, std::iter::empty()).hint, "this agent has no peers");
    }
}
