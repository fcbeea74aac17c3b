//! The other nodes, and how to talk to them. Who they are is [`Membership`]'s to say.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::api::NodeState;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use migrate_transport::link::{PeerAddress, Transport};
use migrate_transport::session::{Session, SessionId, Timing};

use crate::cluster::membership::{MemberView, Membership, Offices};
use crate::host::Host;
use crate::random;
use crate::talk::{self, Purpose, Talk};

/// A peer that says nothing for this long has lost the link.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a member that is called is tried to be reached: who calls again begins anew.
const CALLS: Duration = Duration::from_secs(1);
/// How long a question that a person waits for tries to reach a peer.
const QUESTION: Duration = Duration::from_secs(3);

/// The other nodes.
pub struct Peers {
    host: Arc<Host>,
    transport: Arc<dyn Transport>,
    membership: Arc<dyn Membership>,
}

impl Peers {
    /// These nodes, reached in this way.
    pub fn new(host: Arc<Host>, transport: Arc<dyn Transport>, membership: Arc<dyn Membership>) -> Peers {
        Peers { host, transport, membership }
    }

    /// All other nodes that may answer.
    pub fn all(&self) -> Vec<PeerAddress> {
        self.membership.all()
    }

    /// Where a node is.
    pub fn address(&self, node: &NodeName) -> Result<PeerAddress, Problem> {
        self.membership.address(node)
    }

    /// Everybody else that was ever heard of.
    pub fn views(&self) -> Vec<MemberView> {
        self.membership.views()
    }

    /// Until a node that seemed to live does not seem so any more.
    pub async fn is_doubted(&self, node: &NodeName) {
        let mut changes = self.membership.changes();
        loop {
            changes.mark_unchanged();
            let lives = |view: &MemberView| view.peer.node == *node && view.state == Some(NodeState::Alive);
            if !self.membership.views().iter().any(lives) {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Those that are taken for dead: nobody asks them, and they may have something.
    pub fn gone(&self) -> Vec<NodeName> {
        let dead = |view: &MemberView| view.state == Some(NodeState::Dead);
        self.views().into_iter().filter(dead).map(|view| view.peer.node).collect()
    }

    /// Where the others reach this node, where they were told.
    pub fn own_address(&self) -> Option<String> {
        self.membership.own_address()
    }

    /// Who leads, and who votes.
    pub fn offices(&self) -> Offices {
        self.membership.offices()
    }

    /// How sessions of this purpose deal with time.
    pub fn timing(&self, purpose: Purpose) -> Timing {
        let give_up = match purpose {
            Purpose::Request | Purpose::Preflight => QUESTION,
            Purpose::Cluster => CALLS,
            Purpose::Handover | Purpose::Checkpoint => self.host.config.link_timeout,
        };
        Timing { silence: SILENCE, give_up }
    }

    /// Begins a conversation with a node.
    pub async fn call(&self, node: &NodeName, purpose: Purpose) -> Result<Talk, Problem> {
        self.call_at(self.address(node)?, purpose).await
    }

    /// The same, at this address.
    pub async fn call_at(&self, peer: PeerAddress, purpose: Purpose) -> Result<Talk, Problem> {
        let node = peer.node.clone();
        let id = SessionId(random::bytes().map_err(Problem::internal)?);
        let opened = Session::open(self.transport.clone(), peer, id, purpose as u8, self.timing(purpose)).await;
        let session = opened.map_err(|error| match &error {
            migrate_transport::session::SessionError::NoLink(error) => error.problem(),
            _ => {
                Problem::new(Code::PeerDown, error.to_string()).hint("is its agent running, and is the address right?")
            }
        })?;
        let greeted = talk::greet(session, self.host.facts());
        let late = || Problem::new(Code::PeerDown, format!("{node} takes connections and does not answer"));
        tokio::time::timeout(self.timing(purpose).give_up, greeted).await.unwrap_or_else(|_| Err(late()))
    }
}
