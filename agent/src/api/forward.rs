//! Requests for another node: the header `x-migrate-node` names it, or the workload that the path names is there. They are
//! handed on as they are; what comes back is handed back as it comes. What another agent has handed on stays here.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::Limited;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};

use super::failure::Failure;
use super::lines::NDJSON;
use super::routes::{Answer, Input, Route};
use super::{Api, LARGEST_JSON};
use crate::control::ForwardedRequest;

/// The node that is to answer; this one where the header is absent.
pub const NODE_HEADER: &str = "x-migrate-node";

/// Hands a request for another node on, and every other request to `next`.
pub(super) async fn forward(
    State((api, route)): State<(Api, &'static Route)>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let node = match asked_node(&request)? {
        Some(node) => Some(node),
        None if request.extensions().get::<HandedOn>().is_some() => None,
        None => match named_workload(route, &request) {
            Some(name) => api.control.whereabouts(&name).await?,
            None => None,
        },
    };
    match node {
        Some(node) if node != api.node => hand_on(&api, route, &node, request).await,
        _ => Ok(next.run(request).await),
    }
}

/// Marks a request that another agent has handed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct HandedOn;

/// The workload that the path names. A path that names it wrongly is the handler's to refuse.
fn named_workload(route: &Route, request: &Request) -> Option<WorkloadName> {
    let place = route.path.split('/').position(|part| part == "{name}")?;
    request.uri().path().split('/').nth(place)?.parse().ok()
}

fn asked_node(request: &Request) -> Result<Option<NodeName>, Problem> {
    let Some(value) = request.headers().get(NODE_HEADER) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let node = text.parse().map_err(|error| Problem::new(Code::Usage, format!("the header {NODE_HEADER}: {error}")))?;
    Ok(Some(node))
}

async fn hand_on(api: &Api, route: &Route, node: &NodeName, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or_else(|| parts.uri.path().to_owned(), ToString::to_string);
    let body = match route.input {
        Input::JsonThenBytes(_) => body,
        Input::Nothing | Input::Json(_) => Body::new(Limited::new(body, LARGEST_JSON)),
    };
    let body = body.into_data_stream().map_err(std::io::Error::other).boxed();
    let response = api.control.forward(node, ForwardedRequest { method: parts.method, path, body }).await?;

    let lines = response.status.is_success() && matches!(route.answer, Answer::Lines(_));
    let content_type = if lines { NDJSON } else { "application/json" };
    let follows = parts.uri.query().is_some_and(|query| query.split('&').any(|argument| argument == "follow=true"));
    let body = match follows {
        true => Body::from_stream(response.body.take_until(api.closing.clone().cancelled_owned())),
        false => Body::from_stream(response.body),
    };
    Ok((response.status, [(CONTENT_TYPE, content_type)], body).into_response())
}
