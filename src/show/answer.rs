//! The answer, on stdout.

use std::io::{self, Write};

use serde::Serialize;
use thiserror::Error;

/// Why an answer could not be given.
#[derive(Debug, Error)]
pub(crate) enum AnswerError {
    #[error("stdout: {0}")]
    Stdout(#[source] io::Error),
    #[error("stderr: {0}")]
    Stderr(#[source] io::Error),
    #[error("cannot be shown as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl AnswerError {
    /// Whether the reader simply has read enough, as `head` does.
    pub(crate) fn is_reader_gone(&self) -> bool {
        matches!(self, AnswerError::Stdout(e) | AnswerError::Stderr(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Text, as it is, with a line's end.
pub(crate) fn line(text: &str) -> Result<(), AnswerError> {
    bytes(format!("{text}\n").as_bytes())
}

/// One JSON value on a line.
pub(crate) fn json(value: &impl Serialize) -> Result<(), AnswerError> {
    line(&serde_json::to_string(value)?)
}

/// One JSON value over several lines, for a whole answer.
pub(crate) fn json_document(value: &impl Serialize) -> Result<(), AnswerError> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Bytes of a workload, at once.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), AnswerError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(AnswerError::Stdout)
}

/// Bytes that a workload wrote to its stderr.
pub(crate) fn error_bytes(bytes: &[u8]) -> Result<(), AnswerError> {
    io::stderr().lock().write_all(bytes).map_err(AnswerError::Stderr)
}
