//! The agent's API: HTTP/1.1 with JSON, for `migrate` on this node and for other agents.
//!
//! [`routes`] is the one table of what can be asked: the router and `GET /v1/openapi.json` are made from it.
//! [`handlers`] turn a request into one call of [`Control`]; [`forward`] hands it to another node where the header
//! `x-migrate-node` asks for that; [`server`] puts the router on a Unix socket and looks at who connects.
//!
//! An answer is JSON, or a stream of JSON objects, one a line. Every failure is an [`ErrorBody`] with a fitting status.
//!
//! [`ErrorBody`]: migrate_proto::api::ErrorBody

mod admission;
mod failure;
mod forward;
mod handlers;
mod input;
mod lines;
mod openapi;
mod routes;
pub mod server;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use futures_util::{StreamExt, TryStreamExt};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::control::{Control, ForwardedRequest, ForwardedResponse};
use failure::Failure;

pub use forward::NODE_HEADER;

/// JSON bodies may be this large, and the first line of an exec.
pub const LARGEST_JSON: usize = 16 << 20;

/// What every handler needs.
#[derive(Clone)]
struct Api {
    control: Arc<dyn Control>,
    node: NodeName,
    /// Fires when the agent ends: what follows then comes to its end.
    closing: CancellationToken,
}

/// The API of `node`. When `closing` fires, streams that follow something end.
pub fn router(control: Arc<dyn Control>, node: NodeName, closing: CancellationToken) -> Router {
    let api = Api { control, node, closing };
    let mut router = Router::new();
    for route in &routes::ROUTES {
        let forwarding = from_fn_with_state((api.clone(), route), forward::forward);
        router = router.route(route.path, (route.handler)().route_layer(forwarding));
    }
    router.fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(api)
}

/// Answers another agent's request: the other end of [`Control::forward`]. Whoever asks has been authenticated.
pub async fn answer(router: &Router, request: ForwardedRequest) -> ForwardedResponse {
    let mut local = Request::new(Body::from_stream(request.body));
    *local.method_mut() = request.method;
    local.extensions_mut().insert(forward::HandedOn);
    let response = match request.path.parse() {
        Ok(uri) => {
            *local.uri_mut() = uri;
            let Ok(response) = router.clone().oneshot(local).await;
            response
        }
        Err(_) => Failure::from(Problem::new(Code::Usage, format!("'{}' is not a path", request.path.escape_debug())))
            .into_response(),
    };
    let status = response.status();
    ForwardedResponse { status, body: response.into_body().into_data_stream().map_err(std::io::Error::other).boxed() }
}

async fn unknown_path(uri: Uri) -> Failure {
    let problem = Problem::new(Code::Usage, format!("the agent's API has no {}", uri.path().escape_debug()));
    Failure { status: StatusCode::NOT_FOUND, problem: problem.hint("GET /v1/openapi.json lists what there is") }
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> Failure {
    let problem = Problem::new(Code::Usage, format!("{} does not take {method}", uri.path().escape_debug()));
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        problem: problem.hint("GET /v1/openapi.json lists what there is"),
    }
}
