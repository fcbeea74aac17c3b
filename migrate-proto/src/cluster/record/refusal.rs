//! Why a command was refused: what is true instead.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Life, MAX_CHECKPOINTS, Standing, Wanted};
use crate::cluster::CheckpointId;
use crate::cluster::lease::LogId;
use crate::id::{Epoch, HandoverId, StateMark};
use crate::name::{NodeName, WorkloadName};
use crate::version::{Version, Versions};

/// What is true instead of what a command expected. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the fields are named by the sentences")]
pub enum Refusal {
    /// The command is older than the record.
    #[error("the record has already taken command {revision}")]
    Behind { revision: u64 },
    /// What was to be replaced is something else by now.
    #[error("{entry} has changed meanwhile, with command {since}")]
    Changed { entry: String, since: u64 },

    /// There is no such node.
    #[error("there is no node '{node}'")]
    UnknownNode { node: NodeName },
    /// Another machine bears the name, and may still be there.
    #[error("the name '{node}' belongs to the machine with the mark {mark}")]
    OtherMachine { node: NodeName, mark: StateMark },
    /// A machine that was given up for ever.
    #[error("the machine with the mark {mark} was forgotten: it must join with an empty state directory")]
    ForgottenMachine { mark: StateMark },
    /// The node's agent is too old, or too new.
    #[error("'{node}' speaks {} to {}, the cluster {speaks}", .versions.min, .versions.max)]
    Versions { node: NodeName, versions: Versions, speaks: Version },
    /// The node is in another session.
    #[error("'{node}' is in session {session}")]
    OtherSession { node: NodeName, session: u64 },
    /// The node's lease has lapsed for ever.
    #[error("session {session} of '{node}' is fenced")]
    Fenced { node: NodeName, session: u64 },
    /// The node may still run what it owns.
    #[error("session {session} of '{node}' is not fenced")]
    NotFenced { node: NodeName, session: u64 },
    /// The node's lease has no end.
    #[error("session {session} of '{node}' does not end")]
    Endless { node: NodeName, session: u64 },
    /// Others vote by now, so that those who were asked may not be a majority.
    #[error("who votes has changed: since entry {} of term {}", .now.index, .now.term)]
    OtherVoters { now: LogId },
    /// The node is no member, or takes nothing.
    #[error("'{node}' is {standing}")]
    Standing { node: NodeName, standing: Standing },
    /// The node still owns workloads.
    #[error("'{node}' owns {loads} workloads")]
    Owns { node: NodeName, loads: u32 },

    /// There is no such workload.
    #[error("there is no workload '{load}'")]
    UnknownLoad { load: WorkloadName },
    /// The name is in use.
    #[error("there is a workload '{load}' already")]
    NameTaken { load: WorkloadName },
    /// The owner has changed, or begun again.
    #[error("'{load}' is in epoch {epoch}, {}", owned_by(.owner.as_ref()))]
    OtherEpoch { load: WorkloadName, epoch: Epoch, owner: Option<NodeName>, via: Option<HandoverId> },
    /// Somebody else owns it.
    #[error("'{load}' is {}", owned_by(.owner.as_ref()))]
    OtherOwner { load: WorkloadName, owner: Option<NodeName> },
    /// The move was decided the other way.
    #[error("the move {handover} of '{load}' was refused")]
    HandoverRefused { load: WorkloadName, handover: HandoverId },
    /// An image is held by one node; nobody was named.
    #[error("'{load}' cannot begin from an image that nobody holds")]
    Nobody { load: WorkloadName },
    /// Its state does not allow it.
    #[error("'{load}' is {life}")]
    InLife { load: WorkloadName, life: Life },
    /// Something else is wanted of it.
    #[error("'{load}' is wanted to {wish}")]
    Wished { load: WorkloadName, wish: Wanted },

    /// There is no such checkpoint, or not any more.
    #[error("'{load}' has no checkpoint {checkpoint}")]
    UnknownCheckpoint { load: WorkloadName, checkpoint: CheckpointId },
    /// It cannot be used.
    #[error("the checkpoint {checkpoint} of '{load}' is damaged")]
    Damaged { load: WorkloadName, checkpoint: CheckpointId },
    /// Its number is not above those that there were.
    #[error("the checkpoints of '{load}' are numbered up to {number}")]
    OldNumber { load: WorkloadName, number: u64 },
    /// It would be gone with one node.
    #[error("a checkpoint that only one node has is not kept")]
    OneHolder { checkpoint: CheckpointId },
    /// There is no room in the record.
    #[error("'{load}' has {MAX_CHECKPOINTS} checkpoints, the most there may be")]
    TooMany { load: WorkloadName },
    /// Without it there would be nothing to recover from, or something is just being recovered from it.
    #[error("the checkpoint {checkpoint} of '{load}' is needed")]
    Needed { load: WorkloadName, checkpoint: CheckpointId },

    /// One of several that must all be applied.
    #[error("command {at} of several: {refusal}")]
    OneOfMany { at: usize, refusal: Box<Refusal> },
}

fn owned_by(owner: Option<&NodeName>) -> String {
    owner.map_or_else(|| "owned by nobody".to_owned(), |owner| format!("owned by '{owner}'"))
}
