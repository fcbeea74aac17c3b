//! The other nodes, and how to talk to them.
//!
//! Today a list that does not change; membership will come behind the same functions.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use migrate_transport::link::{PeerAddress, Transport};
use migrate_transport::session::{Session, SessionId, Timing};

use crate::host::Host;
use crate::random;
use crate::talk::{self, Purpose, Talk};

/// A peer that says nothing for this long has lost the link.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a question that a person waits for tries to reach a peer.
const QUESTION: Duration = Duration::from_secs(3);

/// The other nodes.
pub struct Peers {
    host: Arc<Host>,
    transport: Arc<dyn Transport>,
    known: Vec<PeerAddress>,
}

impl Peers {
    /// The nodes of the configuration.
    pub fn new(host: Arc<Host>, transport: Arc<dyn Transport>) -> Peers {
        let listed = host.config.peers.iter();
        let known = listed.map(|peer| PeerAddress { node: peer.node.clone(), address: peer.address.clone() }).collect();
        Peers { host, transport, known }
    }

    /// All other nodes, in the order of the configuration.
    pub fn all(&self) -> &[PeerAddress] {
        &self.known
    }

    /// Where a node is.
    pub fn address(&self, node: &NodeName) -> Result<&PeerAddress, Problem> {
        self.known.iter().find(|peer| peer.node == *node).ok_or_else(|| {
            let names: Vec<&str> = self.known.iter().map(|peer| peer.node.as_str()).collect();
            let hint = if names.is_empty() {
                "this agent has no peers".into()
            } else {
                format!("known nodes: {}", names.join(", "))
            };
            Problem::new(Code::UnknownNode, format!("there is no node {node}")).hint(hint)
        })
    }

    /// How sessions of this purpose deal with time.
    pub fn timing(&self, purpose: Purpose) -> Timing {
        let give_up = match purpose {
            Purpose::Request | Purpose::Preflight => QUESTION,
            Purpose::Handover => self.host.config.link_timeout,
        };
        Timing { silence: SILENCE, give_up }
    }

    /// Begins a conversation with a node.
    pub async fn call(&self, node: &NodeName, purpose: Purpose) -> Result<Talk, Problem> {
        let peer = self.address(node)?.clone();
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
