//! How the record changes: one command at a time, each a compare-and-swap.
//!
//! Every command carries what it expects: an epoch, a session, or *since* when something is as it is. So each can be proposed
//! again when the answer was lost, also late and out of order: it takes effect at most once.
//!
//! `since` is the number (`revision`) of the command that last set what is compared. Values can come back, numbers cannot.
//! That is also why a request to run has a ticket, and why a checkpoint has a number.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::lease::LogId;
use super::record::{CheckpointEntry, ClusterPolicy, LoadPolicy, Proof, Wanted};
use super::{CheckpointId, Claim, Ticket};
use crate::api::Exit;
use crate::id::{Epoch, HandoverId, StateMark};
use crate::name::{NodeName, WorkloadName};
use crate::spec::WorkloadSpec;
use crate::version::Versions;

/// A change of the record. What each is applied only if, and what it then does, stands at the function that does it
/// (`record/nodes.rs`, `record/owners.rs`, `record/lives.rs`, `record/checkpoints.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// A node becomes a member, or its address or agent has changed. By the leader, for whoever joins.
    Admit {
        /// Its name.
        node: NodeName,
        /// The mark of its state directory.
        mark: StateMark,
        /// Where its agent listens.
        address: String,
        /// What its agent speaks.
        versions: Versions,
        /// Of the entry under this name; 0 where there is none.
        since: u64,
    },
    /// A node opens a lease. By the node itself.
    OpenSession {
        /// The node.
        node: NodeName,
        /// The mark of its state directory.
        mark: StateMark,
        /// The session that it follows.
        after: u64,
        /// Whether the lease ends where nobody keeps it; it does not for a node that is alone.
        finite: bool,
    },
    /// A node goes for good. By the node itself, which owns nothing any more.
    Leave(Claim),
    /// A node is not waited for any more: its name is free, its mark is refused for ever. By a person, through the leader.
    Forget {
        /// The node.
        node: NodeName,
        /// The mark of its state directory.
        mark: StateMark,
    },
    /// A node takes no more workloads and gives its own away, or does again as the others do. By anybody.
    Drain {
        /// The node.
        node: NodeName,
        /// Of its standing.
        since: u64,
        /// Whether it drains.
        draining: bool,
    },
    /// The lease of a node has lapsed for ever. By a leader that holds the lapses of a majority of voters.
    Fence {
        /// Whose lease.
        lapsed: Claim,
        /// The configuration by which these voters are a majority: a leader that was deposed does not know of a newer one.
        voters: LogId,
    },

    /// A workload is to run. By anybody.
    Declare {
        /// Of this request.
        ticket: Ticket,
        /// Of the last removal of any workload, as the asker knew it.
        since: u64,
        /// What to run.
        spec: Box<WorkloadSpec>,
        /// What is wished for it beyond that.
        policy: LoadPolicy,
        /// Who runs it; it is queued where nobody is named.
        owner: Option<Claim>,
        /// The higher, the sooner.
        priority: i16,
    },
    /// A move is decided: the target owns. By the source.
    Transfer {
        /// The workload.
        load: WorkloadName,
        /// In which the source owns it.
        epoch: Epoch,
        /// The source.
        from: Claim,
        /// The target.
        to: NodeName,
        /// The move.
        handover: HandoverId,
    },
    /// A move is decided: the source keeps it. By the source, or for a person.
    Refuse {
        /// The workload.
        load: WorkloadName,
        /// In which the source owns it.
        epoch: Epoch,
        /// The move.
        handover: HandoverId,
    },
    /// The owner begins again, after it has ended its own copy.
    Revive {
        /// The workload.
        load: WorkloadName,
        /// In which it owns it.
        epoch: Epoch,
        /// The owner.
        by: Claim,
        /// From what; from its files where nothing is named.
        from: Option<CheckpointId>,
        /// How much work is lost, for people.
        lost_ms: Option<u64>,
    },
    /// A workload is taken from an owner that cannot run it any more. By the leader.
    Reassign(Reassignment),
    /// A workload that nobody owns goes to a node. By the leader.
    Assign {
        /// The workload.
        load: WorkloadName,
        /// Its epoch.
        epoch: Epoch,
        /// The node.
        to: NodeName,
    },

    /// It runs. By the owner.
    Began {
        /// The workload.
        load: WorkloadName,
        /// Its epoch.
        epoch: Epoch,
        /// The owner.
        by: Claim,
    },
    /// It has ended, or was stopped: nothing of it runs there. By the owner.
    Ended {
        /// The workload.
        load: WorkloadName,
        /// Its epoch.
        epoch: Epoch,
        /// The owner.
        by: Claim,
        /// How, where that is known.
        exit: Option<Exit>,
    },
    /// It could not be begun, or went wrong: nothing of it runs there. By the owner.
    Broke {
        /// The workload.
        load: WorkloadName,
        /// Its epoch.
        epoch: Epoch,
        /// The owner.
        by: Claim,
        /// Whether it had begun. What is said late about an attempt to begin it is not taken for the end of what has begun since.
        began: bool,
        /// For people.
        reason: String,
    },
    /// Its node is gone, and there is nothing to bring it back from. By the leader. The owner stays: it may have it yet.
    Lose {
        /// The workload.
        load: WorkloadName,
        /// Its epoch.
        epoch: Epoch,
        /// The owner, in the session that is fenced.
        owner: Claim,
        /// For people.
        reason: String,
    },
    /// What somebody wants of it. Carried out by the owner, also when it comes back.
    Wish {
        /// The workload.
        load: WorkloadName,
        /// Its epoch.
        epoch: Epoch,
        /// Of the present wish.
        since: u64,
        /// What is wanted.
        wish: Wanted,
    },
    /// It was to be removed, and nothing is left of it. By the owner, or by the leader for one that is fenced.
    Gone {
        /// The workload.
        load: WorkloadName,
        /// Its epoch.
        epoch: Epoch,
        /// The owner.
        owner: NodeName,
        /// Its session; none where the leader says it.
        session: Option<u64>,
    },

    /// A checkpoint is complete where it says. By the owner.
    Kept {
        /// The workload.
        load: WorkloadName,
        /// In which it was taken.
        epoch: Epoch,
        /// The owner.
        by: Claim,
        /// Which.
        checkpoint: CheckpointEntry,
    },
    /// Who has a checkpoint has changed. By the leader.
    Held {
        /// The workload.
        load: WorkloadName,
        /// Which.
        checkpoint: CheckpointId,
        /// Of the checkpoint's entry.
        since: u64,
        /// All that have it.
        holders: BTreeSet<NodeName>,
    },
    /// Which depots have a checkpoint has changed. By the owner.
    Stored {
        /// The workload.
        load: WorkloadName,
        /// Which.
        checkpoint: CheckpointId,
        /// Of the checkpoint's entry.
        since: u64,
        /// All that have it.
        depots: BTreeSet<String>,
    },
    /// What a look at a checkpoint has shown. By a holder.
    Proved {
        /// The workload.
        load: WorkloadName,
        /// Which.
        checkpoint: CheckpointId,
        /// Of the checkpoint's entry.
        since: u64,
        /// What.
        proof: Proof,
    },
    /// A checkpoint is not kept any more. By the leader.
    Dropped {
        /// The workload.
        load: WorkloadName,
        /// Which.
        checkpoint: CheckpointId,
        /// Of the checkpoint's entry.
        since: u64,
    },

    /// What holds for the whole cluster.
    SetPolicy {
        /// Of the present policy.
        since: u64,
        /// The new one.
        policy: ClusterPolicy,
    },
    /// All of these, in this order, or none.
    Many(Vec<Command>),
}

/// A workload is taken from its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reassignment {
    /// The workload.
    pub load: WorkloadName,
    /// In which the present owner owns it.
    pub epoch: Epoch,
    /// The present owner.
    pub owner: NodeName,
    /// Who gets it; it waits for room where nobody is named.
    pub to: Option<NodeName>,
    /// From what.
    pub begin: Begin,
    /// The highest number of a checkpoint of it that the leader knows of: there may be a better one since.
    pub numbered: u64,
    /// How much work is lost, for people.
    pub lost_ms: Option<u64>,
}

/// From what a workload begins on its next node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Begin {
    /// From nothing, with an empty layer.
    Afresh,
    /// From a checkpoint.
    Checkpoint(CheckpointId),
    /// From the image of a move, which the next owner holds.
    Image(HandoverId),
}

/// A part of the record that is stored and compared as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKey {
    /// What there is once.
    Cluster,
    /// A node.
    Node(NodeName),
    /// A workload.
    Load(WorkloadName),
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryKey::Cluster => f.write_str("cluster"),
            EntryKey::Node(node) => write!(f, "node/{node}"),
            EntryKey::Load(load) => write!(f, "load/{load}"),
        }
    }
}

impl Command {
    /// The workload that it is about, if it is about one.
    pub fn load(&self) -> Option<&WorkloadName> {
        match self {
            Command::Declare { spec, .. } => Some(&spec.name),
            Command::Reassign(Reassignment { load, .. }) => Some(load),
            Command::Transfer { load, .. }
            | Command::Refuse { load, .. }
            | Command::Revive { load, .. }
            | Command::Assign { load, .. }
            | Command::Began { load, .. }
            | Command::Ended { load, .. }
            | Command::Broke { load, .. }
            | Command::Lose { load, .. }
            | Command::Wish { load, .. }
            | Command::Gone { load, .. }
            | Command::Kept { load, .. }
            | Command::Held { load, .. }
            | Command::Stored { load, .. }
            | Command::Proved { load, .. }
            | Command::Dropped { load, .. } => Some(load),
            Command::Admit { .. }
            | Command::OpenSession { .. }
            | Command::Leave(_)
            | Command::Forget { .. }
            | Command::Drain { .. }
            | Command::Fence { .. }
            | Command::SetPolicy { .. }
            | Command::Many(_) => None,
        }
    }

    /// The nodes that it names.
    pub(super) fn nodes(&self) -> Vec<&NodeName> {
        match self {
            Command::Admit { node, .. }
            | Command::OpenSession { node, .. }
            | Command::Forget { node, .. }
            | Command::Drain { node, .. } => vec![node],
            Command::Leave(by) | Command::Fence { lapsed: by, .. } => vec![&by.node],
            Command::Transfer { from, to, .. } => vec![&from.node, to],
            Command::Revive { by, .. }
            | Command::Began { by, .. }
            | Command::Ended { by, .. }
            | Command::Broke { by, .. }
            | Command::Kept { by, .. } => vec![&by.node],
            Command::Declare { owner, .. } => owner.iter().map(|by| &by.node).collect(),
            Command::Reassign(Reassignment { owner, to, .. }) => [owner].into_iter().chain(to).collect(),
            Command::Assign { to, .. } => vec![to],
            Command::Lose { owner, .. } => vec![&owner.node],
            Command::Gone { owner, .. } => vec![owner],
            Command::Refuse { .. }
            | Command::Wish { .. }
            | Command::Held { .. }
            | Command::Stored { .. }
            | Command::Proved { .. }
            | Command::Dropped { .. }
            | Command::SetPolicy { .. }
            | Command::Many(_) => Vec::new(),
        }
    }

    /// Whether it reads or writes what there is once: the policy, who votes, the epochs and marks that never come back.
    pub(super) fn concerns_cluster(&self) -> bool {
        matches!(
            self,
            Command::Admit { .. }
                | Command::Forget { .. }
                | Command::Fence { .. }
                | Command::Declare { .. }
                | Command::Wish { wish: Wanted::Remove, .. }
                | Command::Gone { .. }
                | Command::SetPolicy { .. }
        )
    }
}
