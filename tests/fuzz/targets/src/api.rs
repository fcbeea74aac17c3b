//! The agent's API: any request gets an answer, an error is one that `migrate` can show, and what reaches the node's core says the
//! same when it is written again.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use migrate_agent::api::{self, NODE_HEADER};
use migrate_agent::control::{
    ByteStream, Control, EventQuery, ForwardedRequest, ForwardedResponse, Health, Lines, LogQuery, Scope,
};
use migrate_ownership::Backup;
use migrate_proto::api::{
    CheckReport, CheckpointView, DrainReport, ErrorBody, Event, ExecLine, ExecRequest, MoveLine, MoveRequest, NodeView,
    RebuildRequest, RebuildView, RestoreRequest, RunRequest, WhyView, WorkloadView,
};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::script::Script;

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::DELETE, Method::PUT, Method::HEAD];
const PATHS: [&str; 9] = [
    "",
    "/v1/health",
    "/v1/workloads",
    "/v1/workloads/a",
    "/v1/workloads/a/stop",
    "/v1/workloads/a/logs",
    "/v1/workloads/a/exec",
    "/v1/workloads/a/move",
    "/v1/events",
];
/// An answer to a request of some kilobytes has some more at most.
const LONGEST_ANSWER: usize = 1 << 20;

thread_local! {
    static SERVER: OnceCell<(Runtime, Router)> = const { OnceCell::new() };
}

/// How it comes, method, beginning and end of the path, a header, how the body is cut; then the body.
pub(crate) fn run(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    let how = script.byte();
    let method = METHODS[usize::from(script.byte()) % METHODS.len()].clone();
    let beginning = PATHS[usize::from(script.byte()) % PATHS.len()];
    let path = format!("{beginning}{}", String::from_utf8_lossy(script.piece()));
    let header = if how & 1 == 1 { script.piece() } else { &[] };
    let cut = usize::from(script.byte()).max(1);
    let body = script.rest().to_vec();
    others_answers(&body);

    let parts: Vec<Result<Bytes, Infallible>> = body.chunks(cut).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    SERVER.with(|server| {
        let (runtime, router) = server.get_or_init(server_of_nobody);
        runtime.block_on(async {
            let (status, answer) = if how & 2 == 0 {
                // As another agent hands it on.
                let body = stream::iter(parts).map_err(|never| match never {}).boxed();
                let answer = api::answer(router, ForwardedRequest { method, path, body }).await;
                (answer.status, Body::from_stream(answer.body))
            } else {
                let mut request = Request::builder().method(method).uri(path);
                if !header.is_empty() {
                    request = request.header(NODE_HEADER, header);
                }
                let Ok(request) = request.body(Body::from_stream(stream::iter(parts))) else { return };
                let Ok(answer) = router.clone().oneshot(request).await;
                (answer.status(), answer.into_body())
            };
            let answer = to_bytes(answer, LONGEST_ANSWER).await.expect("a short answer");
            if !status.is_success() && !answer.is_empty() {
                let error: ErrorBody = serde_json::from_slice(&answer).expect("an error is one of ours");
                assert!(!error.error.message.is_empty() && !status.is_server_error(), "{status}: {error:?}");
            }
        });
    });
}

fn server_of_nobody() -> (Runtime, Router) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let router = api::router(Arc::new(Nobody), "a".parse().expect("a name"), CancellationToken::new());
    (runtime, router)
}

/// What agents and the command read of others' answers.
fn others_answers(body: &[u8]) {
    same_again::<MoveRequest>(body);
    same_again::<ExecLine>(body);
    let _ = serde_json::from_slice::<MoveLine>(body);
    let _ = serde_json::from_slice::<Vec<NodeView>>(body);
    let _ = serde_json::from_slice::<Vec<WorkloadView>>(body);
    let _ = serde_json::from_slice::<WhyView>(body);
    let _ = serde_json::from_slice::<Event>(body);
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(json) {
        is_the_same_again(&value);
    }
}

fn is_the_same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let again = serde_json::to_vec(value).expect("what was read can be written");
    assert_eq!(&serde_json::from_slice::<T>(&again).expect("what is written can be read"), value);
}

fn unknown<T>(name: &WorkloadName) -> Result<T, Problem> {
    assert!((1..=63).contains(&name.as_str().len()));
    Err(Problem::new(Code::UnknownWorkload, format!("there is no workload {name}")))
}

/// A node without workloads. It looks at what it is asked.
struct Nobody;

#[async_trait]
impl Control for Nobody {
    async fn run(&self, request: RunRequest) -> Result<WorkloadView, Problem> {
        is_the_same_again(&request);
        unknown(&request.spec.name)
    }

    async fn list(&self, _: Scope) -> Result<Vec<WorkloadView>, Problem> {
        Ok(Vec::new())
    }

    async fn stop(&self, name: &WorkloadName, _: Option<Duration>) -> Result<WorkloadView, Problem> {
        unknown(name)
    }

    async fn start(&self, name: &WorkloadName) -> Result<WorkloadView, Problem> {
        unknown(name)
    }

    async fn remove(&self, name: &WorkloadName, _: bool) -> Result<(), Problem> {
        unknown(name)
    }

    async fn logs(&self, _: &WorkloadName, _: LogQuery) -> Result<Lines<ExecLine>, Problem> {
        Ok(stream::empty().boxed())
    }

    async fn exec(
        &self,
        _: &WorkloadName,
        request: ExecRequest,
        stdin: ByteStream,
    ) -> Result<Lines<ExecLine>, Problem> {
        is_the_same_again(&request);
        let echo = stdin.map(|part| ExecLine::Stdout(format!("{} bytes", part.map_or(0, |part| part.len()))));
        Ok(echo.boxed())
    }

    async fn migrate(
        &self,
        _: &WorkloadName,
        request: MoveRequest,
        _: CancellationToken,
    ) -> Result<Lines<MoveLine>, Problem> {
        is_the_same_again(&request);
        Ok(stream::empty().boxed())
    }

    async fn checkpoint(&self, name: &WorkloadName) -> Result<CheckpointView, Problem> {
        unknown(name)
    }

    async fn checkpoints(&self, _: Option<WorkloadName>, _: Scope) -> Result<Vec<CheckpointView>, Problem> {
        Ok(Vec::new())
    }

    async fn prove(&self, workload: &WorkloadName, _: Scope) -> Result<CheckpointView, Problem> {
        self.checkpoint(workload).await
    }

    async fn restore(&self, name: &WorkloadName, request: RestoreRequest) -> Result<WorkloadView, Problem> {
        is_the_same_again(&request);
        unknown(name)
    }

    async fn whereabouts(&self, _: &WorkloadName) -> Result<Option<NodeName>, Problem> {
        Ok(None)
    }

    async fn nodes(&self, _: Scope) -> Result<Vec<NodeView>, Problem> {
        Ok(Vec::new())
    }

    async fn check(&self, name: &WorkloadName, _: Option<NodeName>) -> Result<CheckReport, Problem> {
        unknown(name)
    }

    async fn why(&self, name: &WorkloadName, _: Scope) -> Result<WhyView, Problem> {
        unknown(name)
    }

    async fn events(&self, _: EventQuery) -> Result<Lines<Event>, Problem> {
        Ok(stream::empty().boxed())
    }

    async fn drain(&self, _: Option<NodeName>, _: Option<Duration>) -> Result<DrainReport, Problem> {
        Err(Problem::new(Code::Usage, "nobody is here"))
    }

    async fn undrain(&self, _: Option<NodeName>) -> Result<(), Problem> {
        Err(Problem::new(Code::Usage, "nobody is here"))
    }

    async fn forget(&self, node: &NodeName) -> Result<(), Problem> {
        Err(Problem::new(Code::UnknownNode, format!("there is no node {node}")))
    }

    async fn backup(&self) -> Result<Backup, Problem> {
        Err(Problem::new(Code::Usage, "nobody is here"))
    }

    async fn rebuild(&self, request: RebuildRequest) -> Result<RebuildView, Problem> {
        is_the_same_again(&request);
        Err(Problem::new(Code::Usage, "nobody is here"))
    }

    async fn health(&self) -> Result<Health, Problem> {
        Err(Problem::new(Code::Usage, "nobody is here"))
    }

    async fn reload_keys(&self) -> Result<NodeView, Problem> {
        Err(Problem::new(Code::Usage, "nobody is here"))
    }

    async fn forward(&self, node: &NodeName, _: ForwardedRequest) -> Result<ForwardedResponse, Problem> {
        Err(Problem::new(Code::UnknownNode, format!("there is no node {node}")))
    }
}
