//! A [`Problem`] as an answer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use migrate_proto::api::ErrorBody;
use migrate_proto::error::{Code, Problem};

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) problem: Problem,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure { status: status(problem.code), problem }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.problem })).into_response()
    }
}

/// 4xx where the request is at fault or comes at the wrong time, 5xx where this or another node is.
fn status(code: Code) -> StatusCode {
    match code {
        Code::Usage | Code::CannotExecute => StatusCode::BAD_REQUEST,
        Code::UnknownWorkload | Code::UnknownNode => StatusCode::NOT_FOUND,
        Code::SameNode | Code::NameTaken | Code::WrongState | Code::Busy => StatusCode::CONFLICT,
        Code::PeerDown | Code::PeerUntrusted | Code::PeerVersion | Code::LinkLost => StatusCode::BAD_GATEWAY,
        Code::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        Code::CriuMissing => StatusCode::SERVICE_UNAVAILABLE,
        Code::NoMemory | Code::NoDisk => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
