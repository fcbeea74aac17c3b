//! What a leader hears of, and what it does.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Figures, Note};
use crate::cluster::command::Command;
use crate::cluster::lease::LogId;
use crate::cluster::record::Record;
use crate::cluster::{CheckpointId, Claim, VoterId};
use crate::id::{Epoch, HandoverId};
use crate::name::{NodeName, WorkloadName};

/// How a member seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Alive,
    /// It does not, and may yet contradict.
    Suspect,
    /// It did not contradict.
    Down,
    /// It has said goodbye.
    Left,
}

impl Health {
    /// Not known to be gone.
    pub fn lives(self) -> bool {
        matches!(self, Health::Alive | Health::Suspect)
    }
}

/// The image of a move, on a target that is in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who has it.
    pub node: NodeName,
    /// Of which move.
    pub handover: HandoverId,
    /// The epoch in which it was taken.
    pub epoch: Epoch,
    /// The highest number of a checkpoint that was taken before it.
    pub numbered: u64,
}

/// What a leader hears of.
#[derive(Debug, Clone)]
pub enum Event {
    /// The record of this node has changed.
    Record(Arc<Record>),
    /// How a member seems to be.
    Member {
        /// Who.
        node: NodeName,
        /// How.
        health: Health,
    },
    /// What a node says of itself.
    Figures {
        /// Who.
        node: NodeName,
        /// What.
        figures: Figures,
    },
    /// A lease is over for ever.
    Lapsed {
        /// Whose.
        claim: Claim,
        /// The configuration by which that was judged.
        voters: LogId,
    },
    /// A voter on this node has not heard of this lease for as long as it promises: a node that seems to live may not renew. Said as
    /// long as it is so.
    Quiet(Claim),
    /// Somebody has the image of a move that is not decided.
    Holds {
        /// The workload.
        load: WorkloadName,
        /// Who, and which.
        held: Held,
    },
    /// Somebody has a checkpoint, or has it no more.
    Copy {
        /// The workload.
        load: WorkloadName,
        /// Which.
        checkpoint: CheckpointId,
        /// Who.
        node: NodeName,
        /// Whether all of it is there, verified.
        whole: bool,
    },
    /// A node has made everything ready to bring a workload back.
    Ready {
        /// The workload.
        load: WorkloadName,
        /// Who.
        node: NodeName,
    },
    /// Time has passed.
    Tick {
        /// Milliseconds since 1970 on this node's clock; only people are told what is reckoned from it.
        wall_ms: u64,
    },
}

/// What a leader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Propose this, once; it comes again if nothing comes of it.
    Propose(Command),
    /// Ask the voters about these leases from now on, and about no others.
    Watch(BTreeSet<Claim>),
    /// Have everything ready on this node, up to the first instruction: it may soon be brought back there.
    Prepare {
        /// The workload.
        load: WorkloadName,
        /// Where.
        node: NodeName,
        /// From what.
        from: CheckpointId,
    },
    /// Tell this node that it owns a workload now.
    Nudge {
        /// The node.
        node: NodeName,
        /// The workload.
        load: WorkloadName,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Tell this node, which drains, where a workload would be taken.
    Move {
        /// The node.
        from: NodeName,
        /// The workload.
        load: WorkloadName,
        /// In which epoch.
        epoch: Epoch,
        /// Where.
        to: NodeName,
    },
    /// Make these the voters.
    Voters(BTreeSet<VoterId>),
    /// Tell people.
    Say(Note),
}
