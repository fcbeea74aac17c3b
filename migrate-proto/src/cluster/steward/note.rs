//! What a leader tells people.

use std::fmt;

use crate::cluster::place::NoRoom;
use crate::cluster::{CheckpointId, Claim};
use crate::name::{NodeName, WorkloadName};

/// What a leader tells people. Said once for each reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are named by the sentences")]
pub enum Note {
    /// A node's lease is over.
    Fenced { claim: Claim, loads: usize },
    /// A workload goes on elsewhere.
    Recovered {
        load: WorkloadName,
        from: NodeName,
        to: NodeName,
        checkpoint: Option<CheckpointId>,
        lost_ms: Option<u64>,
        newer: Vec<String>,
    },
    /// A workload goes on from the image of its move: nothing is lost that was done before.
    TakenOver { load: WorkloadName, from: NodeName, to: NodeName },
    /// Nothing is left to bring it back from.
    Lost { load: WorkloadName, owner: NodeName, why: String },
    /// There is no node for it.
    NoRoom { load: WorkloadName, why: NoRoom },
    /// What it would be brought back from is on nodes that may yet answer.
    Waits { load: WorkloadName, places: Vec<String> },
    /// It was tried often enough.
    GivenUp { load: WorkloadName, tried: usize },
    /// Others vote.
    Voters { in_place: usize, of: usize },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Fenced { claim, loads } => {
                write!(f, "the lease of {claim} is over: {loads} workloads are brought back elsewhere")
            }
            Note::Recovered { load, from, to, checkpoint: None, .. } => {
                write!(f, "{load} of {from} begins afresh on {to}")
            }
            Note::Recovered { load, from, to, checkpoint: Some(checkpoint), lost_ms, newer } => {
                write!(f, "{load} of {from} is brought back on {to} from the checkpoint {checkpoint}")?;
                lost_ms.map_or(Ok(()), |lost| write!(f, ", which is {lost} ms old"))?;
                if newer.is_empty() {
                    return Ok(());
                }
                write!(
                    f,
                    "; what it did since is lost: nobody can get the newer ones, which are on {}",
                    newer.join(", ")
                )
            }
            Note::TakenOver { load, from, to } => {
                write!(f, "{load} of {from} goes on on {to}, which has the image of its move")
            }
            Note::Lost { load, owner, why } => write!(f, "{load} is lost with {owner}: {why}"),
            Note::NoRoom { load, why } => write!(f, "there is no node for {load}: {why}"),
            Note::Waits { load, places } => {
                write!(f, "{load} waits for its newest checkpoint, which is on {}", places.join(", "))
            }
            Note::GivenUp { load, tried } => write!(f, "{load} has failed on {tried} nodes and is not tried again"),
            Note::Voters { in_place, of } => write!(f, "{of} nodes shall vote, {in_place} of which do already"),
        }
    }
}
