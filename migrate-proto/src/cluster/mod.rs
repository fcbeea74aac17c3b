//! What the nodes of a cluster agree about, and what follows from it: pure machines, like those of a handover.
//!
//! - [`record`]: what is agreed: which nodes there are, and who owns which workload. The same commands in the same order make
//!   the same bytes on every node.
//! - [`command`]: how it changes. Every command says what it expects, and is refused where something else is true.
//! - [`place`]: which node a workload should go to.
//! - [`steward`]: what the leader does: it fences, brings back, assigns, and says who votes.
//! - [`drain`]: what a node does that is to be empty by some time.
//! - [`lease`]: whether a node may let its workloads run, by a majority of voters and without the record.
//!
//! Nothing in here knows how the commands get their order: raft, etcd or a test hand them to [`record::Record::apply`].

pub mod command;
pub mod drain;
pub mod lease;
pub mod place;
pub mod record;
pub mod steward;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, StateMark};
use crate::name::NodeName;

/// A node in one of its sessions: who says something that only the holder of that lease may say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The node.
    pub node: NodeName,
    /// Its session: how often a lease has been opened under this name.
    pub session: u64,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in session {}", self.node, self.session)
    }
}

/// Tells one request to run a workload from every other; drawn by whoever asks. It is what makes it safe to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticket(pub u64);

/// A member that votes: the mark of its state directory as a number, so that a node without its memory is another voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VoterId(pub u64);

impl From<StateMark> for VoterId {
    fn from(mark: StateMark) -> VoterId {
        VoterId(u64::from_be_bytes(mark.0))
    }
}

/// Tells a cluster from every other, also from one that was rebuilt from it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub [u8; 16]);

/// A checkpoint: the digest of the file that describes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckpointId(pub [u8; 32]);

impl From<Digest> for CheckpointId {
    fn from(digest: Digest) -> CheckpointId {
        CheckpointId(digest.0)
    }
}

/// Why a string is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an identity here has {digits} digits of 0-9 and a-f")]
pub struct InvalidIdentity {
    digits: usize,
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], InvalidIdentity> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let invalid = InvalidIdentity { digits: 2 * N };
    if text.len() != 2 * N {
        return Err(invalid);
    }
    let mut bytes = [0; N];
    for (to, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *to = byte(pair).ok_or_else(|| invalid.clone())?;
    }
    Ok(bytes)
}

macro_rules! written_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidIdentity;
            fn try_from(text: String) -> Result<$name, InvalidIdentity> {
                from_hex(&text).map($name)
            }
        }
    )*};
}
written_as_hex!(ClusterId, CheckpointId);
