//! What raft is told about this cluster's commands, answers and nodes.

use std::fmt;
use std::io::Cursor;

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease;
use migrate_proto::cluster::record::{Applied, Refusal};
use migrate_proto::name::NodeName;
use openraft::LogId;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The record's commands, in the order that raft gives them. A node is the mark of its state directory as a number
    /// ([`migrate_proto::cluster::VoterId`]): one that has lost its disk is another node.
    pub Types:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = Place,
        SnapshotData = Cursor<Vec<u8>>
);

/// What became of an entry of the log. The same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was a command, and the record is as it says.
    Applied(Applied),
    /// It was a command, and the record is as it was.
    Refused(Refusal),
    /// It was none: raft's own entry, or the voters.
    Nothing,
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its name.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: String,
}

/// Raft's sources ask for it, for nodes of which only the number is known. Nobody adds such nodes here.
impl Default for Place {
    fn default() -> Place {
        Place { name: "nobody".parse().expect("a name"), address: String::new() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' at {}", self.name, self.address)
    }
}

/// The place of an entry in the log, as leases and the record name it. Two nodes may lead in one term, the one with the higher
/// number after the other; so the first digits of the leader's number count with the term.
pub(crate) fn config_id(entry: &LogId<u64>) -> lease::LogId {
    let leader = entry.leader_id;
    lease::LogId { term: leader.term << 24 | leader.node_id >> 40, index: entry.index }
}
