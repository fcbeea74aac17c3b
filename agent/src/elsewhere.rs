//! What this agent itself asks of other agents' APIs.

use std::future::ready;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use migrate_proto::api::{
    CheckpointView, DrainReport, ErrorBody, Event, NodeView, RunRequest, Unsettled, WhyView, WorkloadView,
};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use crate::control::{EventQuery, ForwardedRequest, Lines};
use crate::events::everywhere;
use crate::peers::Peers;
use crate::proxy;

/// An answer may be this long.
const LARGEST_ANSWER: usize = 16 << 20;

/// A line of a stream may be this long.
const LONGEST_LINE: usize = 1 << 20;

/// How long an agent that can be reached may take to say what it has: it only has to look.
const LOOK: Duration = Duration::from_secs(10);

/// The same where it is only asked to be on the safe side.
const GLANCE: Duration = Duration::from_secs(1);

/// The workloads of a node.
pub async fn workloads(peers: &Peers, node: &NodeName) -> Result<Vec<WorkloadView>, Problem> {
    let views: Vec<WorkloadView> = look(peers, node, "/v1/workloads?scope=node").await?;
    match views.iter().find(|view| view.node != *node) {
        None => Ok(views),
        Some(view) => Err(speaks_for(node, &view.node)),
    }
}

/// What other nodes have under this name, but for `skipped` ones. Who does not answer soon cannot be asked.
pub async fn namesakes(peers: &Peers, name: &WorkloadName, skipped: &[&NodeName]) -> Vec<WorkloadView> {
    let others = peers.all();
    let others = others.iter().filter(|peer| !skipped.contains(&&peer.node));
    let asked = others.map(|peer| timeout(GLANCE, workloads(peers, &peer.node)));
    let answers = join_all(asked).await.into_iter().flatten().flatten();
    answers.flatten().filter(|view| view.name == *name).collect()
}

/// How a node is.
pub async fn node(peers: &Peers, node: &NodeName) -> Result<NodeView, Problem> {
    let views: Vec<NodeView> = look(peers, node, "/v1/nodes?scope=node").await?;
    match views.into_iter().next() {
        Some(view) if view.name == *node => Ok(view),
        Some(view) => Err(speaks_for(node, &view.name)),
        None => Err(Problem::new(Code::Corrupt, format!("{node} says nothing about itself"))),
    }
}

/// The checkpoints that a node has.
pub async fn checkpoints(
    peers: &Peers,
    node: &NodeName,
    workload: Option<&WorkloadName>,
) -> Result<Vec<CheckpointView>, Problem> {
    let of = workload.map(|name| format!("&workload={name}")).unwrap_or_default();
    let views: Vec<CheckpointView> = look(peers, node, &format!("/v1/checkpoints?scope=node{of}")).await?;
    match views.iter().flat_map(|view| &view.nodes).find(|named| *named != node) {
        None => Ok(views),
        Some(other) => Err(speaks_for(node, other)),
    }
}

/// A node is believed about itself only.
fn speaks_for(node: &NodeName, other: &NodeName) -> Problem {
    Problem::new(Code::Corrupt, format!("{node} speaks for {other}"))
}

async fn look<T: DeserializeOwned>(peers: &Peers, node: &NodeName, path: &str) -> Result<T, Problem> {
    let answer = timeout(LOOK, ask(peers, node, Method::GET, path, Bytes::new())).await;
    let late = || Problem::new(Code::PeerDown, format!("{node} takes questions and does not answer"));
    answer.unwrap_or_else(|_| Err(late()))
}

/// What a node remembers. It is believed about itself only.
pub async fn events(peers: &Peers, node: &NodeName, query: &EventQuery) -> Result<Vec<Event>, Problem> {
    let answer = answer(peers, node, Method::GET, &everywhere::path(query), Bytes::new()).await?;
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events: Vec<Event> = lines
        .map(|line| serde_json::from_slice(line).map_err(|error| odd(node, error)))
        .collect::<Result<_, Problem>>()?;
    match events.iter().find(|event| event.node != *node) {
        None => Ok(events),
        Some(event) => Err(speaks_for(node, &event.node)),
    }
}

/// What happens on a node from now on, until its agent or the link is gone.
pub async fn follow_events(peers: &Peers, node: &NodeName, query: &EventQuery) -> Result<Lines<Event>, Problem> {
    let body = stream::empty().boxed();
    let request = ForwardedRequest { method: Method::GET, path: everywhere::path(query), body };
    let response = proxy::ask(peers, node, request).await?;
    if !response.status.is_success() {
        return Err(odd(node, response.status));
    }
    let lines = FramedRead::new(StreamReader::new(response.body), LinesCodec::new_with_max_length(LONGEST_LINE));
    let node = node.clone();
    let events = lines.map(|line| serde_json::from_str::<Event>(&line.ok()?).ok());
    Ok(events
        .take_while(move |event| ready(event.as_ref().is_some_and(|event| event.node == node)))
        .filter_map(ready)
        .boxed())
}

/// What of a workload's handovers is not settled on a node.
pub async fn unsettled(peers: &Peers, node: &NodeName, workload: &WorkloadName) -> Result<Vec<Unsettled>, Problem> {
    match look::<WhyView>(peers, node, &format!("/v1/workloads/{workload}/why?scope=node")).await {
        Ok(view) => match view.unsettled.iter().find(|unsettled| unsettled.on != *node) {
            None => Ok(view.unsettled),
            Some(unsettled) => Err(speaks_for(node, &unsettled.on)),
        },
        // It has nothing of it.
        Err(problem) if problem.code == Code::UnknownWorkload => Ok(Vec::new()),
        Err(problem) => Err(problem),
    }
}

/// Has a node test the newest checkpoint of a workload that it has.
pub async fn prove(peers: &Peers, node: &NodeName, workload: &WorkloadName) -> Result<CheckpointView, Problem> {
    let path = format!("/v1/checkpoints/prove?workload={workload}&scope=node");
    ask(peers, node, Method::POST, &path, Bytes::new()).await
}

/// Starts a workload there.
pub async fn run(peers: &Peers, node: &NodeName, request: &RunRequest) -> Result<WorkloadView, Problem> {
    let body = serde_json::to_vec(request).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    ask(peers, node, Method::POST, "/v1/workloads", body.into()).await
}

/// Has a node give its workloads away, and waits until it has.
pub async fn drain(peers: &Peers, node: &NodeName, deadline: Option<Duration>) -> Result<DrainReport, Problem> {
    let deadline = deadline.map(|deadline| format!("?deadline_ms={}", deadline.as_millis())).unwrap_or_default();
    ask(peers, node, Method::POST, &format!("/v1/drain{deadline}"), Bytes::new()).await
}

async fn ask<T: DeserializeOwned>(
    peers: &Peers,
    node: &NodeName,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, Problem> {
    let answer = answer(peers, node, method, path, body).await?;
    serde_json::from_slice(&answer).map_err(|error| odd(node, error))
}

/// The body of an answer that is a success.
async fn answer(peers: &Peers, node: &NodeName, method: Method, path: &str, body: Bytes) -> Result<Vec<u8>, Problem> {
    let body = stream::once(async move { Ok(body) }).boxed();
    let response = proxy::ask(peers, node, ForwardedRequest { method, path: path.to_owned(), body }).await?;
    let gather = |mut all: Vec<u8>, piece: Bytes| async move {
        if all.len() + piece.len() > LARGEST_ANSWER {
            return Err(std::io::Error::other("an answer that is too long"));
        }
        all.extend_from_slice(&piece);
        Ok(all)
    };
    let answer = response.body.try_fold(Vec::new(), gather).await.map_err(|error| odd(node, error))?;
    if response.status.is_success() {
        return Ok(answer);
    }
    Err(serde_json::from_slice::<ErrorBody>(&answer).map_or_else(|error| odd(node, error), |body| body.error))
}

fn odd(node: &NodeName, what: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Corrupt, format!("{node} answered oddly: {what}"))
}
