//! `migrate nodes`: the others, as they answer and as they seem to be.

use std::time::Duration;

use futures_util::future::join_all;
use migrate_proto::api::{NodeState, NodeView};
use migrate_proto::cluster::record::{Record, Standing};
use migrate_transport::link::PeerAddress;
use tokio::time::timeout;

use super::membership::{MemberView, Offices};
use crate::elsewhere;
use crate::peers::Peers;

/// How long a member may take to answer before what it said last is shown.
const GLANCE: Duration = Duration::from_secs(1);

/// Everybody else.
pub async fn others(peers: &Peers) -> Vec<NodeView> {
    join_all(peers.views().into_iter().map(|member| one(peers, member))).await
}

/// Who leads and who votes, as this node knows it: a node that led and was cut off may still say that it does.
pub fn mark_offices(views: &mut [NodeView], offices: &Offices) {
    for view in views {
        view.leader = offices.leader.as_ref() == Some(&view.name);
        view.voter = offices.voters.contains(&view.name);
    }
}

/// Says who drains, as the cluster's record has it. How a node is that does not answer says more.
pub fn mark_draining(views: &mut [NodeView], record: &Record) {
    for view in views.iter_mut().filter(|view| view.state == NodeState::Alive) {
        if record.nodes.get(&view.name).is_some_and(|node| node.standing == Standing::Draining) {
            view.state = NodeState::Draining;
        }
    }
}

async fn one(peers: &Peers, member: MemberView) -> NodeView {
    let MemberView { peer, state, said } = member;
    let answer = match state {
        // Only its answer tells how it is.
        None => elsewhere::node(peers, &peer.node).await.ok(),
        Some(NodeState::Alive) => tokio::select! {
            answer = timeout(GLANCE, elsewhere::node(peers, &peer.node)) => answer.ok().and_then(Result::ok),
            // The others know more by now than it will say.
            () = peers.is_doubted(&peer.node) => None,
        },
        Some(_) => None,
    };
    if answer.is_none() && matches!(state, None | Some(NodeState::Alive)) {
        tracing::info!(peer = %peer.node, "a node does not answer");
    }
    let now = peers.views().into_iter().find(|view| view.peer.node == peer.node).and_then(|view| view.state);
    let seems = now.or(state).or(answer.as_ref().map(|view| view.state)).unwrap_or(NodeState::Suspect);
    let view = answer.or(said.map(|said| *said)).unwrap_or_else(|| silent(&peer));
    NodeView { address: peer.address, state: seems, ..view }
}

/// A node of which nothing is known but its name.
fn silent(peer: &PeerAddress) -> NodeView {
    NodeView {
        name: peer.node.clone(),
        address: peer.address.clone(),
        state: NodeState::Suspect,
        leader: false,
        voter: false,
        cpu_percent: None,
        memory_used_bytes: None,
        memory_total_bytes: None,
        disk_free_bytes: None,
        workloads: None,
        agent_version: None,
        criu_version: None,
        keys: Vec::new(),
    }
}
