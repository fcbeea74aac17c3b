//! What travels between the nodes that keep the record: questions and answers, to bytes and back.
//!
//! ```text
//! version (1) │ kind: 1 question, 2 answer (1) │ length of the head (4, little-endian) │ head: JSON │ bulk: raw bytes
//! ```
//!
//! JSON because commands and records are JSON wherever they are kept, with the same rules for fields that are added later. The bulk is a
//! piece of a snapshot. What arrives is not trusted: lengths are judged first, and what raft would stumble over is refused here.

use std::collections::BTreeSet;

use bytes::Bytes;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::Applied;
use migrate_proto::cluster::{ClusterId, VoterId};
use openraft::error::SnapshotMismatch;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{EntryPayload, Membership};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ownership::{Joiner, ProposeError};
use crate::types::{Place, Types};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 6;

/// The longest message. It fits into one body of the agents' protocol, with what that puts around it.
pub const MAX_MESSAGE_BYTES: usize = (1 << 20) - 1024;

/// The longest command, as JSON. A message with just one must not be too long.
pub const MAX_COMMAND_BYTES: usize = 512 << 10;

/// How much of a snapshot is sent at once.
pub const SNAPSHOT_PIECE_BYTES: u64 = 256 << 10;

const MAX_VOTERS: usize = 64;
const MAX_MEMBERS: usize = 4096;

/// Everything that travels.
#[derive(Debug)]
pub enum Message {
    /// From one that wants to know.
    Question(Question),
    /// From the one that was asked.
    Answer(Answer),
}

/// What one node asks another.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// Which cluster the asker belongs to, if it knows.
    pub cluster: Option<ClusterId>,
    /// Who asks.
    pub from: VoterId,
    /// Who is meant; whoever it reaches where nobody is named.
    pub to: Option<VoterId>,
    /// What.
    pub ask: Ask,
}

/// The questions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// Raft: a vote is asked for.
    Vote(VoteRequest<u64>),
    /// Raft: entries of the log, or a heartbeat.
    Append(AppendEntriesRequest<Types>),
    /// Raft: a piece of a snapshot. Its bytes are the bulk.
    Snapshot(InstallSnapshotRequest<Types>),
    /// For the leader: a command.
    Propose(Command),
    /// For the leader: up to where the log must be applied to be current.
    Confirm,
    /// For the leader: these are to vote.
    Voters(BTreeSet<VoterId>),
    /// For the leader: a node wants to be a member.
    Admit(Joiner),
    /// For the leader: a node gets the record no more.
    Retire(VoterId),
    /// Who are you, and which cluster do you know?
    Who,
}

/// The answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To a vote.
    Vote(VoteResponse<u64>),
    /// To entries.
    Append(AppendEntriesResponse<u64>),
    /// To a piece of a snapshot.
    Snapshot(InstallSnapshotResponse<u64>),
    /// To a piece of a snapshot that does not follow what is there.
    OtherPiece(SnapshotMismatch),
    /// To a command.
    Applied(Applied),
    /// To [`Ask::Confirm`]: the place in the log.
    Confirmed(Option<u64>),
    /// To everything else that a leader does.
    Done,
    /// To [`Ask::Who`].
    Who(Who),
    /// Why there is no other answer.
    Failed(Failure),
}

/// A node introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Its mark.
    pub id: VoterId,
    /// Its name and address.
    pub place: Place,
    /// Its cluster, if it has one.
    pub cluster: Option<ClusterId>,
    /// Who leads there.
    pub leader: Option<(VoterId, Place)>,
}

/// Why a question was not answered as it should.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Failure {
    /// Somebody else was meant.
    #[error("another node is there, with the mark {:016x}", .0.0)]
    NotMe(VoterId),
    /// Strangers.
    #[error("it belongs to the cluster {0}")]
    OtherCluster(ClusterId),
    /// It does not take part yet.
    #[error("it has not joined yet")]
    Forming,
    /// It does not lead. Nothing was done.
    #[error("it does not lead")]
    NotLeader,
    /// The leader could not, or would not.
    #[error("{0}")]
    Propose(#[from] ProposeError),
    /// What it was sent.
    #[error("it could not read the question: {0}")]
    Unreadable(String),
}

/// Why bytes are no message, or a message cannot be bytes.
#[derive(Debug, Error)]
pub enum WireError {
    /// Too short to have a head, or shorter than it says.
    #[error("a message that ends early, after {bytes} bytes")]
    Short {
        /// What there is.
        bytes: usize,
    },
    /// Too long.
    #[error("a message of {bytes} bytes: at most {MAX_MESSAGE_BYTES} are read or sent")]
    Long {
        /// What it has.
        bytes: usize,
    },
    /// Of another version of this protocol.
    #[error("a message of version {version}: {VERSION} is spoken here")]
    Version {
        /// Which.
        version: u8,
    },
    /// Neither question nor answer.
    #[error("a message of the unknown kind {kind}")]
    Kind {
        /// Which.
        kind: u8,
    },
    /// The head.
    #[error("a message that is none: {0}")]
    Json(#[from] serde_json::Error),
    /// What raft must not see.
    #[error("a message that makes no sense: {0}")]
    Nonsense(&'static str),
}

impl Question {
    /// To be sent.
    pub fn encode(mut self) -> Result<Bytes, WireError> {
        let bulk = match &mut self.ask {
            Ask::Snapshot(piece) => std::mem::take(&mut piece.data),
            _ => Vec::new(),
        };
        frame(1, &serde_json::to_vec(&self)?, &bulk)
    }
}

impl Answer {
    /// To be sent. What cannot be is replaced by an answer that says so.
    pub fn encode(&self) -> Bytes {
        let encoded = |answer: &Answer| frame(2, &serde_json::to_vec(answer)?, &[]);
        encoded(self)
            .or_else(|error| encoded(&Answer::Failed(Failure::Unreadable(error.to_string()))))
            .unwrap_or_default()
    }
}

/// Whether a command can be carried: one that is too long would never reach the others.
pub(crate) fn fits(command: &Command) -> Result<(), ProposeError> {
    let bytes = serde_json::to_vec(command).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_COMMAND_BYTES {
        return Err(ProposeError::TooLarge { bytes, limit: MAX_COMMAND_BYTES });
    }
    Ok(())
}

fn frame(kind: u8, head: &[u8], bulk: &[u8]) -> Result<Bytes, WireError> {
    let bytes = HEADER_BYTES + head.len() + bulk.len();
    if bytes > MAX_MESSAGE_BYTES {
        return Err(WireError::Long { bytes });
    }
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(&[VERSION, kind]);
    // Below the limit, so it fits.
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(bulk);
    Ok(out.into())
}

/// What has arrived.
pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    let short = WireError::Short { bytes: bytes.len() };
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::Long { bytes: bytes.len() });
    }
    let Some((&[version, kind, a, b, c, d], rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(short);
    };
    if version != VERSION {
        return Err(WireError::Version { version });
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let (head, bulk) = rest.split_at_checked(length).ok_or(short)?;
    match kind {
        1 => question(serde_json::from_slice(head)?, bulk).map(Message::Question),
        2 if bulk.is_empty() => Ok(Message::Answer(serde_json::from_slice(head)?)),
        2 => Err(WireError::Nonsense("an answer has no bulk")),
        kind => Err(WireError::Kind { kind }),
    }
}

fn question(mut question: Question, bulk: &[u8]) -> Result<Question, WireError> {
    let no_bulk = if bulk.is_empty() { Ok(()) } else { Err(WireError::Nonsense("only snapshots have a bulk")) };
    match &mut question.ask {
        Ask::Snapshot(piece) if piece.data.is_empty() => {
            members_make_sense(piece.meta.last_membership.membership())?;
            piece.data = bulk.to_vec();
        }
        Ask::Snapshot(_) => return Err(WireError::Nonsense("a snapshot's bytes are its bulk")),
        Ask::Append(append) => {
            no_bulk?;
            entries_make_sense(append)?;
        }
        Ask::Voters(voters) if voters.len() > MAX_VOTERS => return Err(WireError::Nonsense("too many voters")),
        _ => no_bulk?,
    }
    Ok(question)
}

/// Raft takes for granted that they follow each other without a gap.
fn entries_make_sense(append: &AppendEntriesRequest<Types>) -> Result<(), WireError> {
    let mut before = append.prev_log_id;
    for entry in &append.entries {
        let follows = before.map_or(0, |before| before.index.saturating_add(1));
        if entry.log_id.index != follows || Some(entry.log_id) <= before {
            return Err(WireError::Nonsense("entries that do not follow each other"));
        }
        before = Some(entry.log_id);
        if let EntryPayload::Membership(members) = &entry.payload {
            members_make_sense(members)?;
        }
    }
    Ok(())
}

/// Raft takes for granted that it knows where each voter is.
fn members_make_sense(members: &Membership<u64, Place>) -> Result<(), WireError> {
    let known = |id: &u64| members.get_node(id).is_some();
    let sets = members.get_joint_config();
    if sets.len() > 2 || sets.iter().any(|set| set.len() > MAX_VOTERS) || members.nodes().count() > MAX_MEMBERS {
        return Err(WireError::Nonsense("too many members"));
    }
    if sets.iter().flatten().all(known) { Ok(()) } else { Err(WireError::Nonsense("a voter that is no member")) }
}

#[cfg(test)]
mod tests;
