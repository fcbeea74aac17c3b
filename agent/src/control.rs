//! The contract between the API and the node's core.
//!
//! The API turns HTTP into calls of [`Control`] and its answers into JSON; it decides nothing. The core implements
//! the trait; the API's tests implement a fake. What fails is a [`Problem`], which the API shows as it is.
//!
//! Where a method returns a stream, an error in its place means that nothing has begun; what happens later is told by
//! the stream's last line. **A stream that is dropped means that the client has gone**: let go of what it was for.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use migrate_ownership::Backup;
use migrate_proto::api::{
    CheckReport, CheckpointView, DrainReport, Event, ExecLine, ExecRequest, MoveLine, MoveRequest, NodeView,
    RebuildRequest, RebuildView, RestoreRequest, RunRequest, WhyView, WorkloadView,
};
use migrate_proto::cursor::Cursor;
use migrate_proto::error::Problem;
use migrate_proto::name::{NodeName, WorkloadName};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Lines of an answer, as they come.
pub type Lines<T> = BoxStream<'static, T>;

/// Bytes from the network. An error means that they broke off: what came before it is not the whole.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// What a node can do for those who ask it.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Starts a workload, here or on the node that `request` names.
    async fn run(&self, request: RunRequest) -> Result<WorkloadView, Problem>;

    /// The workloads, ordered by name.
    async fn list(&self, scope: Scope) -> Result<Vec<WorkloadView>, Problem>;

    /// Ends a workload: politely, and after `timeout` by force. It stays known and can be started again.
    async fn stop(&self, name: &WorkloadName, timeout: Option<Duration>) -> Result<WorkloadView, Problem>;

    /// Starts a stopped workload again.
    async fn start(&self, name: &WorkloadName) -> Result<WorkloadView, Problem>;

    /// Forgets a workload and its files. A running one is refused, or with `force` ended first.
    async fn remove(&self, name: &WorkloadName, force: bool) -> Result<(), Problem>;

    /// What a workload has written: the last `tail` lines, or all; with `follow` it goes on.
    async fn logs(&self, name: &WorkloadName, query: LogQuery) -> Result<Lines<ExecLine>, Problem>;

    /// Runs a command beside a workload. The end of `stdin` is the end of the command's input; an error in it means
    /// that the client is gone.
    async fn exec(
        &self,
        name: &WorkloadName,
        request: ExecRequest,
        stdin: ByteStream,
    ) -> Result<Lines<ExecLine>, Problem>;

    /// Moves a workload. `cancel` fires when the client has gone, also when all is over; a move that has committed
    /// goes on regardless.
    async fn migrate(
        &self,
        name: &WorkloadName,
        request: MoveRequest,
        cancel: CancellationToken,
    ) -> Result<Lines<MoveLine>, Problem>;

    /// Takes a checkpoint of a workload, which runs on.
    async fn checkpoint(&self, name: &WorkloadName) -> Result<CheckpointView, Problem>;

    /// The checkpoints that this node has, or any, of one workload or of all; of each the oldest first.
    async fn checkpoints(&self, workload: Option<WorkloadName>, scope: Scope) -> Result<Vec<CheckpointView>, Problem>;

    /// Restores a workload's newest checkpoint for a test, on this node or on one that has it.
    async fn prove(&self, workload: &WorkloadName, scope: Scope) -> Result<CheckpointView, Problem>;

    /// Brings a workload back from a checkpoint.
    async fn restore(&self, name: &WorkloadName, request: RestoreRequest) -> Result<WorkloadView, Problem>;

    /// Whether a workload would move to a node, or to the one that a move would choose. Changes nothing.
    async fn check(&self, name: &WorkloadName, to: Option<NodeName>) -> Result<CheckReport, Problem>;

    /// Why a workload is where it is, as this node knows it or as all do.
    async fn why(&self, name: &WorkloadName, scope: Scope) -> Result<WhyView, Problem>;

    /// The node that has a workload; `None` where it is this one, or where nobody knows.
    async fn whereabouts(&self, name: &WorkloadName) -> Result<Option<NodeName>, Problem>;

    /// The members of the cluster, ordered by name; or this node alone.
    async fn nodes(&self, scope: Scope) -> Result<Vec<NodeView>, Problem>;

    /// A node that is lost for good is not waited for any more.
    async fn forget(&self, node: &NodeName) -> Result<(), Problem>;

    /// The cluster's record as of now.
    async fn backup(&self) -> Result<Backup, Problem>;

    /// A new cluster with this node, where no majority answers any more.
    async fn rebuild(&self, request: RebuildRequest) -> Result<RebuildView, Problem>;

    /// What happened, oldest first.
    async fn events(&self, query: EventQuery) -> Result<Lines<Event>, Problem>;

    /// Reads the cluster's keys again and puts them in force; this node then.
    async fn reload_keys(&self) -> Result<NodeView, Problem>;

    /// Has a node, this one where none is named, give all its workloads away; returns when that is done, or time is up.
    async fn drain(&self, node: Option<NodeName>, deadline: Option<Duration>) -> Result<DrainReport, Problem>;

    /// Lets a node take workloads again.
    async fn undrain(&self, node: Option<NodeName>) -> Result<(), Problem>;

    /// How this agent is.
    async fn health(&self) -> Result<Health, Problem>;

    /// Has another node's agent answer a request. An error means that there is no answer; an answer that tells of an
    /// error is `Ok`.
    async fn forward(&self, node: &NodeName, request: ForwardedRequest) -> Result<ForwardedResponse, Problem>;
}

/// Which of a workload's output is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogQuery {
    /// Where to begin.
    pub from: LogStart,
    /// Whether the answer goes on with what comes; it then says first at which bytes it begins.
    pub follow: bool,
}

/// Where output begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogStart {
    /// With all that there is.
    #[default]
    First,
    /// With the last so many lines.
    Lines(u64),
    /// At these bytes of stdout and stderr; at their ends where they are shorter.
    Bytes(u64, u64),
}

/// Which events are asked for.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Only what is not older; all that is kept where absent.
    pub since: Option<Duration>,
    /// Only what is about this one.
    pub workload: Option<WorkloadName>,
    /// Whether the answer goes on with what comes.
    pub follow: bool,
    /// What this node saw, or what all did.
    pub scope: Scope,
    /// Where the reader goes on.
    pub after: Cursor,
}

/// Whose workloads or nodes are listed, or whose word is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This node's.
    Node,
    /// Every node's.
    #[default]
    Cluster,
}

/// The answer of `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The node's name.
    pub node: NodeName,
    /// The agent's version.
    pub version: String,
    /// CRIU's version; null where there is no usable one.
    pub criu_version: Option<String>,
    /// Whether the agent takes requests: it has adopted what ran before it.
    pub ready: bool,
}

/// A request for another node's API. The other side gives it to its own router, where it is answered like a local one.
pub struct ForwardedRequest {
    /// The request's method.
    pub method: Method,
    /// The path with its query, as in `/v1/workloads?scope=node`.
    pub path: String,
    /// The body; for an exec it is still being written when the answer begins.
    pub body: ByteStream,
}

/// Another node's answer.
pub struct ForwardedResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body. When this is dropped the client has gone, and the other node must learn it.
    pub body: ByteStream,
}
