//! Answers that are streams: one JSON object a line.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, future};
use serde::Serialize;

/// The type of an answer of lines.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Answers with these values, each on a line and sent at once.
pub(super) fn ndjson<T: Serialize>(values: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = values.filter_map(|value| future::ready(line(&value))).map(Ok::<_, Infallible>);
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

fn line<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    match serde_json::to_vec(value) {
        Ok(mut line) => {
            line.push(b'\n');
            Some(line)
        }
        Err(error) => {
            // Only a map with keys that are no strings could do this, and no line has one.
            tracing::error!("a line of an answer is no JSON and was left out: {error}");
            None
        }
    }
}
