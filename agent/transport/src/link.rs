//! Links: one authenticated connection to one peer, without any promise.
//!
//! A link may lose everything at any time, and a `send` that returned `Ok` means nothing. Whatever arrives arrives whole, in
//! order, and from the peer that is named. Everything else is the business of [`crate::session`].

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use thiserror::Error;

/// One message: one to four frames.
pub type Frames = Vec<Bytes>;

/// Where a node can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Who must answer there.
    pub node: NodeName,
    /// `host:port`; the host may be a DNS name.
    pub address: String,
}

/// The link is gone. Nothing is known about what was sent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the link is cut")]
pub struct LinkCut;

/// The sending half of a link.
#[async_trait]
pub trait LinkSender: Send {
    /// Hands a message over. `Ok` means nothing; an error means that the link is gone.
    async fn send(&mut self, frames: Frames) -> Result<(), LinkCut>;
}

/// The receiving half of a link.
#[async_trait]
pub trait LinkReceiver: Send {
    /// The next message. Dropping the future loses nothing.
    async fn recv(&mut self) -> Result<Frames, LinkCut>;
}

/// A connection to an authenticated peer, in two halves. Dropping both ends it.
pub struct Link {
    /// Who is at the other end, proven.
    pub peer: NodeName,
    /// To the peer.
    pub sender: Box<dyn LinkSender>,
    /// From the peer.
    pub receiver: Box<dyn LinkReceiver>,
}

/// A way of making links.
#[async_trait]
pub trait Transport: Send + Sync {
    /// A new link to a peer. Success means that the peer is who it should be.
    async fn connect(&self, peer: &PeerAddress) -> Result<Link, TransportError>;

    /// The next link that a peer made to this node. Fails only when the transport is at its end.
    async fn accept(&self) -> Result<Link, TransportError>;
}

/// Why there is no link.
#[derive(Debug, Clone, Error)]
pub enum TransportError {
    /// Nothing answers at the address.
    #[error("{node} does not answer at {address}: {source}")]
    Unreachable {
        /// Who was wanted.
        node: NodeName,
        /// Where it was looked for.
        address: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Something answers, but too slowly.
    #[error("{node} at {address} did not finish the handshake in time")]
    TimedOut {
        /// Who was wanted.
        node: NodeName,
        /// Where it was looked for.
        address: String,
    },
    /// The peer has another cluster key, or is no agent at all.
    #[error("what answers at {address} is not of this cluster: {reason}")]
    Untrusted {
        /// Who was wanted.
        node: NodeName,
        /// Where it was looked for.
        address: String,
        /// What the check said.
        reason: String,
    },
    /// The peer is of this cluster, but another node.
    #[error("what answers at {address} is of this cluster, but it is not {node}")]
    WrongNode {
        /// Who was wanted.
        node: NodeName,
        /// Where it was looked for.
        address: String,
    },
    /// This node's own half of the transport does not work.
    #[error("cannot {doing} {object}: {source}")]
    Local {
        /// What was being done.
        doing: &'static str,
        /// To which path or address.
        object: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The transport was shut down.
    #[error("the transport is shut down")]
    ShutDown,
}

impl TransportError {
    /// Whether trying again could help.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            TransportError::Unreachable { .. } | TransportError::TimedOut { .. } | TransportError::Local { .. }
        )
    }

    /// The kind of problem, for the wire and the API.
    pub fn code(&self) -> Code {
        match self {
            TransportError::Unreachable { .. } | TransportError::TimedOut { .. } => Code::PeerDown,
            TransportError::Untrusted { .. } | TransportError::WrongNode { .. } => Code::PeerUntrusted,
            TransportError::Local { .. } => Code::Internal,
            TransportError::ShutDown => Code::Cancelled,
        }
    }

    /// The problem as a person is told it.
    pub fn problem(&self) -> Problem {
        let hint = match self {
            TransportError::Unreachable { .. } => "is its agent running, and is the address right?",
            TransportError::TimedOut { .. } => "is it overloaded, or does something else listen there?",
            TransportError::Untrusted { .. } => "do both nodes have the same cluster key?",
            TransportError::WrongNode { .. } => "check the peers' names and addresses",
            TransportError::Local { .. } | TransportError::ShutDown => "",
        };
        Problem::new(self.code(), self.to_string()).hint(hint)
    }
}
