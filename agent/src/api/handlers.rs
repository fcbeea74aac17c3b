//! One function for each route: read the request, call [`Control`](crate::control::Control), write the answer.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::StreamExt;
use migrate_ownership::Backup;
use migrate_proto::api::{
    CheckReport, CheckpointView, DrainReport, ExecRequest, MoveRequest, NodeView, RebuildRequest, RebuildView,
    RestoreRequest, RunRequest, WhyView, WorkloadView,
};
use migrate_proto::cursor::Cursor;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::input::{Arguments, JsonBody, JsonThenBytes, Name, Node};
use super::lines::ndjson;
use super::{Api, openapi};
use crate::control::{EventQuery, Health, Lines, LogQuery, LogStart, Scope};

type Answer<T> = Result<Json<T>, Failure>;

pub(super) async fn health(State(api): State<Api>) -> Answer<Health> {
    Ok(Json(api.control.health().await?))
}

pub(super) async fn openapi() -> Json<serde_json::Value> {
    Json(openapi::document())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScopeArguments {
    #[serde(default)]
    scope: Scope,
}

pub(super) async fn list(
    State(api): State<Api>,
    Arguments(arguments): Arguments<ScopeArguments>,
) -> Answer<Vec<WorkloadView>> {
    Ok(Json(api.control.list(arguments.scope).await?))
}

pub(super) async fn run(
    State(api): State<Api>,
    JsonBody(request): JsonBody<RunRequest>,
) -> Result<(StatusCode, Json<WorkloadView>), Failure> {
    Ok((StatusCode::CREATED, Json(api.control.run(request).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveArguments {
    #[serde(default)]
    force: bool,
}

pub(super) async fn remove(
    State(api): State<Api>,
    Name(name): Name,
    Arguments(arguments): Arguments<RemoveArguments>,
) -> Result<StatusCode, Failure> {
    api.control.remove(&name, arguments.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StopArguments {
    timeout_ms: Option<u64>,
}

pub(super) async fn stop(
    State(api): State<Api>,
    Name(name): Name,
    Arguments(arguments): Arguments<StopArguments>,
) -> Answer<WorkloadView> {
    Ok(Json(api.control.stop(&name, arguments.timeout_ms.map(Duration::from_millis)).await?))
}

pub(super) async fn start(State(api): State<Api>, Name(name): Name) -> Answer<WorkloadView> {
    Ok(Json(api.control.start(&name).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsArguments {
    #[serde(default)]
    follow: bool,
    tail: Option<u64>,
    from: Option<Places>,
}

/// `17,4`: bytes of stdout and stderr.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Places(u64, u64);

impl TryFrom<String> for Places {
    type Error = String;

    fn try_from(text: String) -> Result<Places, String> {
        let places = text.split_once(',').and_then(|(out, err)| Some(Places(out.parse().ok()?, err.parse().ok()?)));
        places.ok_or_else(|| format!("{text:?} has to be like 17,4: bytes of stdout and stderr"))
    }
}

impl LogsArguments {
    fn query(self) -> Result<LogQuery, Problem> {
        let from = match (self.tail, self.from) {
            (None, None) => LogStart::First,
            (Some(lines), None) => LogStart::Lines(lines),
            (None, Some(Places(out, err))) => LogStart::Bytes(out, err),
            (Some(_), Some(_)) => return Err(Problem::new(Code::Usage, "`tail` and `from` do not go together")),
        };
        Ok(LogQuery { from, follow: self.follow })
    }
}

pub(super) async fn logs(
    State(api): State<Api>,
    Name(name): Name,
    Arguments(arguments): Arguments<LogsArguments>,
) -> Result<Response, Failure> {
    let query = arguments.query()?;
    Ok(following(&api, query.follow, api.control.logs(&name, query).await?))
}

pub(super) async fn exec(
    State(api): State<Api>,
    Name(name): Name,
    JsonThenBytes(request, stdin): JsonThenBytes<ExecRequest>,
) -> Result<Response, Failure> {
    Ok(ndjson(api.control.exec(&name, request, stdin).await?))
}

pub(super) async fn migrate(
    State(api): State<Api>,
    Name(name): Name,
    JsonBody(request): JsonBody<MoveRequest>,
) -> Result<Response, Failure> {
    // Dropped with this future, or with the answer: either way the client has gone.
    let cancel = CancellationToken::new();
    let cancel_on_drop = cancel.clone().drop_guard();
    let lines = api.control.migrate(&name, request, cancel).await?;
    Ok(ndjson(lines.inspect(move |_| _ = &cancel_on_drop)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckArguments {
    to: Option<NodeName>,
}

pub(super) async fn checkpoint(State(api): State<Api>, Name(name): Name) -> Answer<CheckpointView> {
    Ok(Json(api.control.checkpoint(&name).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointsArguments {
    workload: Option<WorkloadName>,
    #[serde(default)]
    scope: Scope,
}

pub(super) async fn checkpoints(
    State(api): State<Api>,
    Arguments(arguments): Arguments<CheckpointsArguments>,
) -> Answer<Vec<CheckpointView>> {
    Ok(Json(api.control.checkpoints(arguments.workload, arguments.scope).await?))
}

pub(super) async fn prove(
    State(api): State<Api>,
    Arguments(arguments): Arguments<CheckpointsArguments>,
) -> Answer<CheckpointView> {
    let which = || Problem::new(Code::Usage, "say which workload's checkpoint is to be tested: ?workload=NAME");
    let workload = arguments.workload.ok_or_else(which)?;
    Ok(Json(api.control.prove(&workload, arguments.scope).await?))
}

pub(super) async fn restore(
    State(api): State<Api>,
    Name(name): Name,
    JsonBody(request): JsonBody<RestoreRequest>,
) -> Answer<WorkloadView> {
    Ok(Json(api.control.restore(&name, request).await?))
}

pub(super) async fn check(
    State(api): State<Api>,
    Name(name): Name,
    Arguments(arguments): Arguments<CheckArguments>,
) -> Answer<CheckReport> {
    Ok(Json(api.control.check(&name, arguments.to).await?))
}

pub(super) async fn why(
    State(api): State<Api>,
    Name(name): Name,
    Arguments(arguments): Arguments<ScopeArguments>,
) -> Answer<WhyView> {
    Ok(Json(api.control.why(&name, arguments.scope).await?))
}

pub(super) async fn nodes(
    State(api): State<Api>,
    Arguments(arguments): Arguments<ScopeArguments>,
) -> Answer<Vec<NodeView>> {
    Ok(Json(api.control.nodes(arguments.scope).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainArguments {
    node: Option<NodeName>,
    deadline_ms: Option<u64>,
}

pub(super) async fn drain(
    State(api): State<Api>,
    Arguments(arguments): Arguments<DrainArguments>,
) -> Answer<DrainReport> {
    let deadline = arguments.deadline_ms.map(Duration::from_millis);
    Ok(Json(api.control.drain(arguments.node, deadline).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UndrainArguments {
    node: Option<NodeName>,
}

pub(super) async fn undrain(
    State(api): State<Api>,
    Arguments(arguments): Arguments<UndrainArguments>,
) -> Result<StatusCode, Failure> {
    api.control.undrain(arguments.node).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn forget(State(api): State<Api>, Node(node): Node) -> Result<StatusCode, Failure> {
    api.control.forget(&node).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn backup(State(api): State<Api>) -> Answer<Backup> {
    Ok(Json(api.control.backup().await?))
}

pub(super) async fn rebuild(
    State(api): State<Api>,
    JsonBody(request): JsonBody<RebuildRequest>,
) -> Answer<RebuildView> {
    Ok(Json(api.control.rebuild(request).await?))
}

pub(super) async fn reload_keys(State(api): State<Api>) -> Answer<NodeView> {
    Ok(Json(api.control.reload_keys().await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventArguments {
    #[serde(default)]
    follow: bool,
    since_ms: Option<u64>,
    workload: Option<WorkloadName>,
    #[serde(default)]
    scope: Scope,
    #[serde(default)]
    after: Cursor,
}

pub(super) async fn events(
    State(api): State<Api>,
    Arguments(arguments): Arguments<EventArguments>,
) -> Result<Response, Failure> {
    let EventArguments { follow, since_ms, workload, scope, after } = arguments;
    let since = since_ms.map(Duration::from_millis);
    let lines = api.control.events(EventQuery { since, workload, follow, scope, after }).await?;
    Ok(following(&api, follow, lines))
}

/// What follows ends with the agent; what is finite comes to its end.
fn following<T: Serialize + Send + 'static>(api: &Api, follow: bool, lines: Lines<T>) -> Response {
    match follow {
        true => ndjson(lines.take_until(api.closing.clone().cancelled_owned())),
        false => ndjson(lines),
    }
}
