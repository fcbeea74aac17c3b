//! A node's core that remembers what it was asked, and ways to ask an API over it.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::pending;
use futures_util::stream;
use http_body_util::BodyExt;
use migrate_ownership::Backup;
use migrate_proto::api::*;
use migrate_proto::cluster::record::{CheckpointKind, ClusterPolicy, Record};
use migrate_proto::cluster::{CheckpointId, ClusterId};
use migrate_proto::id::Epoch;
use migrate_proto::message::Severity;
use migrate_proto::name::{NodeName, WorkloadName};
use migrate_proto::phase::Phase;
use serde_json::Value;
use tokio::sync::watch;

use super::super::*;
use crate::control::{ByteStream, EventQuery, Health, Lines, LogQuery, Scope};

/// Nothing in the tests takes this long; it only ends a test that would hang.
pub(super) const LONG: Duration = Duration::from_secs(30);

pub(super) struct Fake {
    node: NodeName,
    calls: Mutex<Vec<String>>,
    /// Answers what is forwarded, under the name `node2`.
    other: Option<Router>,
    /// How many moves were cancelled.
    pub(super) cancelled: watch::Sender<u32>,
    /// How many requests have begun to run: moves, and stops of `slow`.
    pub(super) begun: watch::Sender<u32>,
    /// Lets a stop of `slow` come to its end.
    pub(super) release: watch::Sender<bool>,
}

impl Fake {
    pub(super) fn new(node: &str) -> Arc<Fake> {
        Fake::with_other(node, None)
    }

    pub(super) fn with_other(node: &str, other: Option<Router>) -> Arc<Fake> {
        Arc::new(Fake {
            node: node.parse().unwrap(),
            calls: Mutex::default(),
            other,
            cancelled: watch::Sender::new(0),
            begun: watch::Sender::new(0),
            release: watch::Sender::new(false),
        })
    }

    pub(super) fn router(self: &Arc<Fake>) -> Router {
        self.router_until(CancellationToken::new())
    }

    pub(super) fn router_until(self: &Arc<Fake>, closing: CancellationToken) -> Router {
        router(self.clone(), self.node.clone(), closing)
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn view(&self, name: &WorkloadName) -> Result<WorkloadView, Problem> {
        match name.as_str() {
            "missing" => Err(Problem::new(Code::UnknownWorkload, "there is no missing").hint("migrate ps")),
            _ => Ok(workload(name, &self.node)),
        }
    }
}

#[async_trait]
impl Control for Fake {
    async fn run(&self, request: RunRequest) -> Result<WorkloadView, Problem> {
        self.called(format!("run {} {:?}", request.spec.name, request.spec.argv));
        self.view(&request.spec.name)
    }

    async fn list(&self, scope: Scope) -> Result<Vec<WorkloadView>, Problem> {
        self.called(format!("list {scope:?}"));
        Ok(vec![self.view(&"web".parse().unwrap())?])
    }

    async fn stop(&self, name: &WorkloadName, timeout: Option<Duration>) -> Result<WorkloadView, Problem> {
        self.called(format!("stop {name} {timeout:?}"));
        if name.as_str() == "slow" {
            self.begun.send_modify(|begun| *begun += 1);
            self.release.subscribe().wait_for(|released| *released).await.unwrap();
        }
        self.view(name)
    }

    async fn start(&self, name: &WorkloadName) -> Result<WorkloadView, Problem> {
        self.called(format!("start {name}"));
        self.view(name)
    }

    async fn remove(&self, name: &WorkloadName, force: bool) -> Result<(), Problem> {
        self.called(format!("remove {name} {force}"));
        self.view(name).map(drop)
    }

    async fn logs(&self, name: &WorkloadName, LogQuery { from, follow }: LogQuery) -> Result<Lines<ExecLine>, Problem> {
        self.called(format!("logs {name} {from:?} {follow}"));
        self.view(name)?;
        let lines = stream::iter([ExecLine::Stdout(STANDARD.encode("a\n")), ExecLine::Stderr(STANDARD.encode("b\n"))]);
        Ok(if follow { lines.chain(stream::pending()).boxed() } else { lines.boxed() })
    }

    /// Sends back what comes.
    async fn exec(
        &self,
        name: &WorkloadName,
        request: ExecRequest,
        stdin: ByteStream,
    ) -> Result<Lines<ExecLine>, Problem> {
        self.called(format!("exec {name} {:?}", request.argv));
        self.view(name)?;
        let echo = stdin.map(|chunk| match chunk {
            Ok(bytes) => ExecLine::Stdout(STANDARD.encode(bytes)),
            Err(error) => ExecLine::Error(Problem::new(Code::Cancelled, error.to_string())),
        });
        Ok(echo.chain(stream::iter([ExecLine::Exit(Exit::Code(7))])).boxed())
    }

    /// A move to `node2` arrives; any other never ends, and one of `stuck` does not even begin.
    async fn migrate(
        &self,
        name: &WorkloadName,
        request: MoveRequest,
        cancel: CancellationToken,
    ) -> Result<Lines<MoveLine>, Problem> {
        self.called(format!("move {name} {request:?}"));
        self.view(name)?;
        let cancelled = self.cancelled.clone();
        tokio::spawn(async move {
            cancel.cancelled().await;
            cancelled.send_modify(|count| *count += 1);
        });
        self.begun.send_modify(|begun| *begun += 1);
        if name.as_str() == "stuck" {
            pending::<()>().await;
        }
        let progress = stream::iter([MoveLine::Progress(progress())]);
        let report = MoveLine::Report(Box::new(report(name, &self.node)));
        Ok(match request.to {
            Some(node) if node.as_str() == "node2" => progress.chain(stream::iter([report])).boxed(),
            _ => progress.chain(stream::pending()).boxed(),
        })
    }

    async fn whereabouts(&self, name: &WorkloadName) -> Result<Option<NodeName>, Problem> {
        Ok((name.as_str() == "away").then(|| "node2".parse().unwrap()))
    }

    async fn nodes(&self, scope: Scope) -> Result<Vec<NodeView>, Problem> {
        self.called(format!("nodes {scope:?}"));
        Ok(vec![node()])
    }

    async fn check(&self, name: &WorkloadName, to: Option<NodeName>) -> Result<CheckReport, Problem> {
        self.called(format!("check {name} {to:?}"));
        self.view(name)?;
        Ok(checked(name))
    }

    async fn checkpoint(&self, name: &WorkloadName) -> Result<CheckpointView, Problem> {
        self.called(format!("checkpoint {name}"));
        self.view(name)?;
        Ok(checkpoint(name, &self.node))
    }

    async fn checkpoints(&self, workload: Option<WorkloadName>, scope: Scope) -> Result<Vec<CheckpointView>, Problem> {
        self.called(format!("checkpoints {workload:?} {scope:?}"));
        Ok(workload.iter().map(|name| checkpoint(name, &self.node)).collect())
    }

    async fn prove(&self, workload: &WorkloadName, scope: Scope) -> Result<CheckpointView, Problem> {
        self.called(format!("prove {workload} {scope:?}"));
        Ok(checkpoint(workload, &self.node))
    }

    async fn restore(&self, name: &WorkloadName, request: RestoreRequest) -> Result<WorkloadView, Problem> {
        self.called(format!("restore {name} {:?} {:?}", request.checkpoint, request.r#as));
        self.view(name)
    }

    async fn why(&self, name: &WorkloadName, scope: Scope) -> Result<WhyView, Problem> {
        self.called(format!("why {name} {scope:?}"));
        self.view(name)?;
        Ok(why(name, &self.node))
    }

    async fn events(&self, query: EventQuery) -> Result<Lines<Event>, Problem> {
        let about = query.workload.map(|name| format!(" {name}")).unwrap_or_default();
        let after = if query.after.is_empty() { String::new() } else { format!(" after {}", query.after) };
        self.called(format!("events {:?} {} {:?}{about}{after}", query.since, query.follow, query.scope));
        let lines = stream::iter([event()]);
        Ok(if query.follow { lines.chain(stream::pending()).boxed() } else { lines.boxed() })
    }

    async fn forget(&self, node: &NodeName) -> Result<(), Problem> {
        self.called(format!("forget {node}"));
        Ok(())
    }

    async fn backup(&self) -> Result<Backup, Problem> {
        self.called("backup".to_owned());
        Ok(backup())
    }

    async fn rebuild(&self, request: RebuildRequest) -> Result<RebuildView, Problem> {
        self.called(format!("rebuild {}", request.sure));
        Ok(rebuilt(&self.node))
    }

    async fn reload_keys(&self) -> Result<NodeView, Problem> {
        self.called("reload keys".to_owned());
        Ok(node())
    }

    async fn drain(&self, node: Option<NodeName>, deadline: Option<Duration>) -> Result<DrainReport, Problem> {
        self.called(format!("drain {node:?} {deadline:?}"));
        let name: WorkloadName = "web".parse().unwrap();
        let node = node.unwrap_or_else(|| self.node.clone());
        Ok(DrainReport { node, moved: vec![name], handed_over: vec![], checkpointed: vec![], left: vec![] })
    }

    async fn undrain(&self, node: Option<NodeName>) -> Result<(), Problem> {
        self.called(format!("undrain {node:?}"));
        Ok(())
    }

    async fn health(&self) -> Result<Health, Problem> {
        self.called("health".to_owned());
        Ok(health(&self.node))
    }

    async fn forward(&self, node: &NodeName, request: ForwardedRequest) -> Result<ForwardedResponse, Problem> {
        self.called(format!("forward {node} {} {}", request.method, request.path));
        match &self.other {
            Some(other) if node.as_str() == "node2" => Ok(answer(other, request).await),
            _ => Err(Problem::new(Code::UnknownNode, format!("there is no node {node}"))),
        }
    }
}

pub(super) fn workload(name: &WorkloadName, node: &NodeName) -> WorkloadView {
    WorkloadView {
        name: name.clone(),
        state: State::Running,
        node: node.clone(),
        epoch: Epoch::FIRST,
        pid: Some(1),
        started: None,
        restarts: 0,
        cpu_percent: 0.5,
        rss_bytes: 1,
        layer_bytes: 2,
        health: "none".to_owned(),
        group: None,
        ip: None,
        last_checkpoint: None,
        exit: None,
        reason: None,
    }
}

pub(super) fn last_checkpoint() -> LastCheckpoint {
    let at: String = "2026-11-21T10:11:12.345Z".into();
    LastCheckpoint { id: CheckpointId([1; 32]), at, age_s: 1, replicas: 1, tested: Some(recovery_test()) }
}

pub(super) fn recovery_test() -> RecoveryTest {
    RecoveryTest { at: "2026-11-21T10:11:13.345Z".into(), age_s: 1, took_ms: 310, failed: None }
}

pub(super) fn checkpoint(name: &WorkloadName, node: &NodeName) -> CheckpointView {
    let LastCheckpoint { id, at, age_s, tested, .. } = last_checkpoint();
    CheckpointView {
        id,
        workload: name.clone(),
        number: 1,
        at,
        age_s,
        bytes: 2,
        bytes_stored: 1,
        nodes: vec![node.clone()],
        depots: Vec::new(),
        verified: None,
        damaged: None,
        tested,
        kind: CheckpointKind::Asked,
        epoch: Epoch::FIRST,
        healthy: true,
    }
}

pub(super) fn node() -> NodeView {
    NodeView {
        name: "node1".parse().unwrap(),
        address: "127.0.0.1:1".to_owned(),
        state: NodeState::Alive,
        leader: false,
        voter: false,
        cpu_percent: None,
        memory_used_bytes: None,
        memory_total_bytes: None,
        disk_free_bytes: None,
        workloads: Some(1),
        agent_version: None,
        criu_version: None,
        keys: vec![],
    }
}

pub(super) fn checked(name: &WorkloadName) -> CheckReport {
    CheckReport {
        workload: name.clone(),
        to: Some("node2".parse().unwrap()),
        verdict: Verdict::No,
        reasons: vec![Reason { severity: Severity::No, what: "it is red".to_owned(), hint: "paint it".to_owned() }],
        predicted_downtime_ms: Some(100.0),
        predicted_total_ms: None,
    }
}

pub(super) fn unsettled() -> Unsettled {
    Unsettled {
        on: "node1".parse().unwrap(),
        peer: "node2".parse().unwrap(),
        leaves: true,
        phase: Phase::Commit,
        waits_for: "an answer".to_owned(),
    }
}

pub(super) fn why(name: &WorkloadName, node: &NodeName) -> WhyView {
    WhyView {
        workload: name.clone(),
        node: node.clone(),
        state: State::Running,
        epoch: Epoch::FIRST,
        since: None,
        came_from: None,
        held: Some(Problem::new(Code::Unknown, "it is held")),
        unsettled: vec![unsettled()],
        history: vec![event()],
        silent: vec![],
        prediction: PredictionView::default(),
    }
}

pub(super) fn event() -> Event {
    Event {
        number: 1,
        at: "2025-11-21T10:11:12.345Z".to_owned(),
        node: "node1".parse().unwrap(),
        workload: None,
        kind: "warning".to_owned(),
        phase: None,
        message: "mind".to_owned(),
        figures: Some(MoveFigures {
            downtime_ms: None,
            predicted_downtime_ms: None,
            total_ms: 1.0,
            predicted_total_ms: None,
        }),
    }
}

pub(super) fn health(node: &NodeName) -> Health {
    Health { node: node.clone(), version: "1".to_owned(), criu_version: None, ready: true }
}

pub(super) fn progress() -> MoveProgress {
    MoveProgress { phase: Phase::Negotiate, bytes: 1, bytes_sent: 2, bytes_expected: 3, elapsed_ms: 4 }
}

pub(super) fn report(name: &WorkloadName, from: &NodeName) -> MoveReport {
    MoveReport {
        workload: name.clone(),
        from: from.clone(),
        to: None,
        outcome: Outcome::Moved,
        mode: Mode::Stream,
        downtime_ms: None,
        total_ms: 1.0,
        rounds: 0,
        bytes_memory: 0,
        bytes_files: 0,
        bytes_sent: 0,
        epoch: Epoch::FIRST,
        phases: vec![],
        error: None,
        predicted_downtime_ms: None,
        predicted_total_ms: None,
    }
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) content_type: String,
    pub(super) body: String,
}

impl Answered {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(super) fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) fn problem(&self) -> Problem {
        serde_json::from_str::<ErrorBody>(&self.body).unwrap().error
    }
}

pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let builder = Request::builder().method(method.parse::<Method>().unwrap()).uri(path);
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(body.into()).unwrap()
}

pub(super) async fn ask(router: &Router, request: Request<Body>) -> Answered {
    let Ok(response) = router.clone().oneshot(request).await;
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap()).to_owned();
    let body: Bytes = tokio::time::timeout(LONG, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    Answered { status, content_type, body: String::from_utf8(body.into()).unwrap() }
}

pub(super) fn backup() -> Backup {
    Backup::of(&Record::new(ClusterId([7; 16]), ClusterPolicy::default()))
}

pub(super) fn rebuilt(node: &NodeName) -> RebuildView {
    RebuildView {
        node: node.clone(),
        was: ClusterId([7; 16]),
        cluster: None,
        others: Vec::new(),
        workloads: 0,
        done: false,
    }
}
