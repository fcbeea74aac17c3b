//! How requests reach other nodes: the agent's business.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use migrate_proto::name::NodeName;
use thiserror::Error;

/// Carries a request to another agent and its answer back. What is asked and answered is opaque to it: the other side hands the request to
/// [`Raft::serve`](crate::Raft::serve).
///
/// Requests may be lost, doubled and reordered. But a carrier must not keep those that were given up: a burst of stale requests after
/// a pause costs elections. It should fail at once where it knows that there is no way.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Asks, and waits for the answer for at most `ttl`.
    async fn call(&self, to: Whom, request: Bytes, ttl: Duration) -> Result<Bytes, CallError>;
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whom {
    /// Its name, which is to be proven by its certificate; whoever answers where none is given.
    pub name: Option<NodeName>,
    /// Where its agent listened when this was last heard. The carrier may know better.
    pub address: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// Nothing was sent.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, and may have been done.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// It was sent, and may have been done; the connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(String),
}
