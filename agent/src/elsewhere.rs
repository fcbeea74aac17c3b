//! What this agent itself asks of other agents' APIs.

use axum::http::Method;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use migrate_proto::api::{ErrorBody, NodeState, NodeView, RunRequest, WorkloadView};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use migrate_transport::link::PeerAddress;
use serde::de::DeserializeOwned;

use crate::control::ForwardedRequest;
use crate::peers::Peers;
use crate::proxy;

/// An answer may be this long.
const LARGEST_ANSWER: usize = 16 << 20;

/// The workloads of a node.
pub async fn workloads(peers: &Peers, node: &NodeName) -> Result<Vec<WorkloadView>, Problem> {
    ask(peers, node, Method::GET, "/v1/workloads?scope=node", Bytes::new()).await
}

/// How a node is.
pub async fn node(peers: &Peers, node: &NodeName) -> Result<NodeView, Problem> {
    let views: Vec<NodeView> = ask(peers, node, Method::GET, "/v1/nodes?scope=node", Bytes::new()).await?;
    views.into_iter().next().ok_or_else(|| Problem::new(Code::Corrupt, format!("{node} says nothing about itself")))
}

/// A node that does not answer.
pub fn silent(peer: &PeerAddress) -> NodeView {
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

/// Starts a workload there.
pub async fn run(peers: &Peers, node: &NodeName, request: &RunRequest) -> Result<WorkloadView, Problem> {
    let body = serde_json::to_vec(request).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    ask(peers, node, Method::POST, "/v1/workloads", body.into()).await
}

async fn ask<T: DeserializeOwned>(
    peers: &Peers,
    node: &NodeName,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, Problem> {
    let body = stream::once(async move { Ok(body) }).boxed();
    let response = proxy::ask(peers, node, ForwardedRequest { method, path: path.to_owned(), body }).await?;
    let gather = |mut all: Vec<u8>, piece: Bytes| async move {
        if all.len() + piece.len() > LARGEST_ANSWER {
            return Err(std::io::Error::other("an answer that is too long"));
        }
        all.extend_from_slice(&piece);
        Ok(all)
    };
    let odd = |what: String| Problem::new(Code::Corrupt, format!("{node} answered oddly: {what}"));
    let answer = response.body.try_fold(Vec::new(), gather).await.map_err(|error| odd(error.to_string()))?;
    if response.status.is_success() {
        return serde_json::from_slice(&answer).map_err(|error| odd(error.to_string()));
    }
    Err(serde_json::from_slice::<ErrorBody>(&answer).map_or_else(|error| odd(error.to_string()), |body| body.error))
}
