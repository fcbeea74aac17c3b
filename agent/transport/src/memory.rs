//! The twin of the real transport, in memory: named nodes, links of bounded channels, no I/O.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use migrate_proto::name::NodeName;
use tokio::sync::mpsc;

use crate::link::{Frames, Link, LinkCut, LinkReceiver, LinkSender, PeerAddress, Transport, TransportError};

/// How many messages a link holds: like a socket's buffer, small.
const LINK_CAPACITY: usize = 16;
const ACCEPT_CAPACITY: usize = 64;

/// Nodes that can reach each other.
#[derive(Clone, Default)]
pub struct Network {
    nodes: Arc<Mutex<HashMap<NodeName, mpsc::Sender<Link>>>>,
}

impl Network {
    /// A network without nodes.
    pub fn new() -> Network {
        Network::default()
    }

    /// Adds a node, or replaces it as a restart would.
    pub fn node(&self, name: NodeName) -> Arc<MemoryTransport> {
        let (sender, incoming) = mpsc::channel(ACCEPT_CAPACITY);
        self.lock().insert(name.clone(), sender);
        Arc::new(MemoryTransport { name, network: self.clone(), incoming: tokio::sync::Mutex::new(incoming) })
    }

    /// Takes a node away: nobody reaches it any more; its links stay.
    pub fn remove(&self, name: &NodeName) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, mpsc::Sender<Link>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node's view of a [`Network`].
pub struct MemoryTransport {
    name: NodeName,
    network: Network,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Link>>,
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn connect(&self, peer: &PeerAddress) -> Result<Link, TransportError> {
        let unreachable = || TransportError::Unreachable {
            node: peer.node.clone(),
            address: peer.address.clone(),
            source: Arc::new(io::ErrorKind::ConnectionRefused.into()),
        };
        let door = self.network.lock().get(&peer.node).cloned().ok_or_else(unreachable)?;
        let (here, there) = pair(&self.name, &peer.node);
        door.send(there).await.map_err(|_| unreachable())?;
        Ok(here)
    }

    async fn accept(&self) -> Result<Link, TransportError> {
        self.incoming.lock().await.recv().await.ok_or(TransportError::ShutDown)
    }
}

/// Two ends of one link: the first is held by `left` and speaks to `right`.
fn pair(left: &NodeName, right: &NodeName) -> (Link, Link) {
    let (to_right, from_left) = mpsc::channel(LINK_CAPACITY);
    let (to_left, from_right) = mpsc::channel(LINK_CAPACITY);
    let end = |peer: &NodeName, sender, receiver| Link {
        peer: peer.clone(),
        sender: Box::new(MemorySender(sender)),
        receiver: Box::new(MemoryReceiver(receiver)),
    };
    (end(right, to_right, from_right), end(left, to_left, from_left))
}

struct MemorySender(mpsc::Sender<Frames>);
struct MemoryReceiver(mpsc::Receiver<Frames>);

#[async_trait]
impl LinkSender for MemorySender {
    async fn send(&mut self, frames: Frames) -> Result<(), LinkCut> {
        self.0.send(frames).await.map_err(|_| LinkCut)
    }
}

#[async_trait]
impl LinkReceiver for MemoryReceiver {
    async fn recv(&mut self) -> Result<Frames, LinkCut> {
        self.0.recv().await.ok_or(LinkCut)
    }
}
