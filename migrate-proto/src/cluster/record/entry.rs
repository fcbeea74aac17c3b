//! What the record says about one node, one workload, one checkpoint.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::LoadPolicy;
use crate::api::Exit;
use crate::cluster::{CheckpointId, Ticket};
use crate::id::{Epoch, HandoverId, StateMark};
use crate::name::NodeName;
use crate::spec::WorkloadSpec;
use crate::version::Versions;

/// How many checkpoints of one workload the record lists at most.
pub const MAX_CHECKPOINTS: usize = 16;

/// A node that was admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// The mark of its state directory: the machine behind the name.
    pub mark: StateMark,
    /// Where its agent listens.
    pub address: String,
    /// What its agent speaks.
    pub versions: Versions,
    /// How it stands to the cluster.
    pub standing: Standing,
    /// When it was admitted, or its standing changed.
    pub since: u64,
    /// How often a lease was opened under this name, by whichever machine. 0: never.
    pub session: u64,
    /// Whether the lease ends where nobody keeps it.
    pub finite: bool,
    /// Whether the lease is over for ever. Who has left is fenced.
    pub fenced: bool,
    /// How many workloads it owns.
    pub owns: u32,
}

/// How a node stands to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// One of the members.
    Member,
    /// A member that takes no more workloads.
    Draining,
    /// Has gone for good, by itself.
    Left,
    /// Was given up, by a person.
    Forgotten,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Member => "a member",
            Standing::Draining => "draining",
            Standing::Left => "gone",
            Standing::Forgotten => "forgotten",
        })
    }
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadEntry {
    /// Of the request that it comes from.
    pub ticket: Ticket,
    /// What was asked for; it travels with the workload.
    pub spec: WorkloadSpec,
    /// What was asked for beyond that; it does not.
    pub policy: LoadPolicy,
    /// The higher, the sooner.
    pub priority: i16,
    /// When it was asked for.
    pub submitted: u64,
    /// How often its owner changed or began again.
    pub epoch: Epoch,
    /// Who owns it.
    pub owner: Option<NodeName>,
    /// How it is.
    pub life: Life,
    /// Whether it has ever run: who begins it from nothing may lose something.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ran: bool,
    /// What is wanted of it.
    pub wish: Wanted,
    /// When that was last said.
    pub wished: u64,
    /// How this epoch began.
    pub origin: Origin,
    /// The move that began this epoch, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<HandoverId>,
    /// The checkpoint that this epoch began from, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<CheckpointId>,
    /// How much work that lost, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<u64>,
    /// The moves that were refused in this epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<HandoverId>,
    /// Where it broke since it last ran.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tried: BTreeSet<NodeName>,
    /// By number, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<CheckpointEntry>,
    /// The highest number that a checkpoint of it has had.
    pub numbered: u64,
    /// How often it was begun again.
    pub restarts: Restarts,
}

impl LoadEntry {
    /// As it is asked for: nobody has it yet.
    pub(super) fn asked(ticket: Ticket, spec: &WorkloadSpec, policy: &LoadPolicy, priority: i16) -> LoadEntry {
        LoadEntry {
            ticket,
            spec: spec.clone(),
            policy: policy.clone(),
            priority,
            submitted: 0,
            epoch: Epoch(0),
            owner: None,
            origin: Origin::Declared,
            life: Life::Queued,
            ran: false,
            wish: Wanted::Run,
            wished: 0,
            via: None,
            from: None,
            lost_ms: None,
            refused: Vec::new(),
            tried: BTreeSet::new(),
            checkpoints: Vec::new(),
            numbered: 0,
            restarts: Restarts::default(),
        }
    }

    /// The checkpoint with this identity.
    pub fn checkpoint(&self, id: CheckpointId) -> Option<&CheckpointEntry> {
        self.checkpoints.iter().find(|checkpoint| checkpoint.id == id)
    }

    /// The newest checkpoint that is not known to be damaged.
    pub fn newest_sound(&self) -> Option<&CheckpointEntry> {
        self.checkpoints.iter().rev().find(|checkpoint| !checkpoint.damaged)
    }
}

/// How a workload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// Waits for a node.
    Queued,
    /// Its owner is starting it.
    Starting,
    /// It runs, as far as its owner has said.
    Running,
    /// It is being brought back, or waits for a node that does it.
    Recovering {
        /// From this checkpoint.
        from: CheckpointId,
    },
    /// It has ended.
    Stopped(Option<Exit>),
    /// It could not be begun: nothing of it runs where it was tried. Why is for people.
    Failed(String),
    /// Gone with its node, which still owns it. Why is for people.
    Lost(String),
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Life::Queued => f.write_str("queued"),
            Life::Starting => f.write_str("starting"),
            Life::Running => f.write_str("running"),
            Life::Recovering { from } => write!(f, "recovering from the checkpoint {from}"),
            Life::Stopped(_) => f.write_str("stopped"),
            Life::Failed(reason) => write!(f, "failed: {reason}"),
            Life::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}

/// How an epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The workload was asked for.
    Declared,
    /// It got a node.
    Assigned,
    /// It was moved.
    Transferred,
    /// Its owner began it again.
    Revived,
    /// It was taken from its owner.
    Reassigned,
}

/// What is wanted of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// That it runs, until it ends.
    Run,
    /// That it is stopped, and stays.
    Stop,
    /// That nothing is left of it. This is final.
    Remove,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wanted::Run => "run",
            Wanted::Stop => "stop",
            Wanted::Remove => "be removed",
        })
    }
}

/// How often a workload was begun again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restarts {
    /// By its owner.
    pub revived: u32,
    /// On another node, because its owner was gone or could not.
    pub recovered: u32,
}

/// A checkpoint that is complete on several nodes, or in a depot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointEntry {
    /// Which.
    pub id: CheckpointId,
    /// Its number among those of the workload: the higher, the newer.
    pub number: u64,
    /// When the last command about it was applied; set by the record.
    #[serde(default)]
    pub since: u64,
    /// When it was taken, milliseconds since 1970; for people.
    pub taken_ms: u64,
    /// Why it was taken.
    pub kind: CheckpointKind,
    /// Whether the workload was healthy then.
    pub healthy: bool,
    /// What it takes.
    pub bytes: u64,
    /// The nodes that have it.
    pub holders: BTreeSet<NodeName>,
    /// The depots that have it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub depots: BTreeSet<String>,
    /// Whether it was found to be damaged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// When all of it was last read and found to be as it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sound_ms: Option<u64>,
    /// When it was last restored for a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
}

/// A restore that was a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// Why a checkpoint was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointKind {
    /// It was time.
    Periodic,
    /// Somebody asked.
    Asked,
    /// The node is about to go.
    Drain,
    /// It was about to be stopped.
    BeforeStop,
}

/// What a look at a checkpoint has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Every byte is as it was taken.
    Sound {
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
    /// It was restored, up to the first instruction.
    Restored(Restored),
    /// No holder has all of it.
    Damaged,
}
