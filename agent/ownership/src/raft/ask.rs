//! One question to one node, and its answer.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::{ClusterId, VoterId};
use thiserror::Error;

use crate::carrier::{CallError, Carrier, Whom};
use crate::wire::{self, Answer, Ask, Message, Question, WireError};

/// Asks in the name of this node.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) me: VoterId,
    pub(crate) cluster: Option<ClusterId>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the question cannot be sent: {0}")]
    Unsent(#[source] WireError),
    /// Something came back that answers nothing.
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[source] WireError),
    #[error("a question came back instead of an answer")]
    NoAnswer,
}

impl AskError {
    /// Whether the other side has surely not seen the question.
    pub(crate) fn unseen(&self) -> bool {
        matches!(self, AskError::Call(CallError::Unreachable(_)) | AskError::Unsent(_))
    }
}

impl Asker {
    pub(crate) async fn ask(
        &self,
        to: Option<VoterId>,
        whom: Whom,
        ask: Ask,
        ttl: Duration,
    ) -> Result<Answer, AskError> {
        let question = Question { cluster: self.cluster, from: self.me, to, ask };
        let bytes = question.encode().map_err(AskError::Unsent)?;
        let answer = self.carrier.call(whom, bytes, ttl).await?;
        match wire::decode(&answer).map_err(AskError::Unreadable)? {
            Message::Answer(answer) => Ok(answer),
            Message::Question(_) => Err(AskError::NoAnswer),
        }
    }
}
