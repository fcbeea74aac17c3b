//! What a request brings: a name in the path, arguments in the query, JSON in the body. Whatever is wrong with it is
//! said with its place.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};
use serde::de::DeserializeOwned;

use super::failure::Failure;
use super::{Api, LARGEST_JSON};
use crate::control::ByteStream;

/// `{name}` in the path.
pub(super) struct Name(pub(super) WorkloadName);

impl FromRequestParts<Api> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Name, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|error| usage(format!("the path is wrong: {}", error.body_text())))?;
        Ok(Name(text.parse().map_err(|error| usage(format!("{error}")))?))
    }
}

/// `{node}` in the path.
pub(super) struct Node(pub(super) NodeName);

impl FromRequestParts<Api> for Node {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Node, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|error| usage(format!("the path is wrong: {}", error.body_text())))?;
        Ok(Node(text.parse().map_err(|error| usage(format!("{error}")))?))
    }
}

/// The query.
pub(super) struct Arguments<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Arguments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Arguments<T>, Failure> {
        let Query(arguments) = Query::<T>::from_request_parts(parts, api)
            .await
            .map_err(|error| usage(format!("the query is wrong: {}", error.body_text())))?;
        Ok(Arguments(arguments))
    }
}

/// A body that is one JSON value. No content type is asked for.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &Api) -> Result<JsonBody<T>, Failure> {
        let bytes = to_bytes(request.into_body(), LARGEST_JSON).await.map_err(unreadable)?;
        Ok(JsonBody(json(&bytes)?))
    }
}

/// A body whose first line is a JSON value; the bytes after it come as they come.
pub(super) struct JsonThenBytes<T>(pub(super) T, pub(super) ByteStream);

impl<T: DeserializeOwned> FromRequest<Api> for JsonThenBytes<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &Api) -> Result<JsonThenBytes<T>, Failure> {
        let (line, rest) = first_line(request.into_body()).await?;
        Ok(JsonThenBytes(json(&line)?, rest))
    }
}

async fn first_line(body: Body) -> Result<(Bytes, ByteStream), Failure> {
    let mut body = body.into_data_stream();
    let mut line = BytesMut::new();
    let mut rest = Bytes::new();
    while let Some(mut chunk) = body.try_next().await.map_err(unreadable)? {
        let end = chunk.iter().position(|byte| *byte == b'\n');
        if line.len() + end.unwrap_or(chunk.len()) > LARGEST_JSON {
            return Err(too_large());
        }
        if let Some(end) = end {
            rest = chunk.split_off(end + 1);
            line.extend_from_slice(&chunk[..end]);
            break;
        }
        line.extend_from_slice(&chunk);
    }
    let first = stream::iter((!rest.is_empty()).then_some(Ok(rest)));
    Ok((line.freeze(), first.chain(body.map_err(std::io::Error::other)).boxed()))
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    // Its messages name the path of the field, the line and the column.
    Json::from_bytes(bytes).map(|Json(value)| value).map_err(|error: JsonRejection| usage(error.body_text()))
}

fn unreadable(error: axum::Error) -> Failure {
    let source = std::error::Error::source(&error);
    if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
        return too_large();
    }
    usage(format!("the body broke off: {error}"))
}

fn too_large() -> Failure {
    let problem = Problem::new(Code::Usage, format!("the JSON is larger than {LARGEST_JSON} bytes"));
    Failure { status: StatusCode::PAYLOAD_TOO_LARGE, problem }
}

fn usage(message: String) -> Failure {
    Problem::new(Code::Usage, message).into()
}
