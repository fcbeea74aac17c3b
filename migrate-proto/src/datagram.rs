//! What members of a cluster say to each other in datagrams, and may lose.
//!
//! A datagram is not addressed and can come again, also to another node and much later: every one says what it is about, and an old one
//! is harmless. Its sender's name stands in the seal. The kinds are appended only; [`crate::codec::datagram`] makes bytes of them.

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterId;
use crate::cluster::lease::{Ack, Ask, Lapse, Renew};
use crate::error::Problem;
use crate::id::StateMark;
use crate::version::Versions;

/// The kind of the datagrams of `migrate-members`, which have bytes of their own.
pub const SWIM: u8 = 1;

/// A datagram that is not one of `migrate-members`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram {
    /// A holder wants its lease to go on.
    Renew(Renew),
    /// A voter has taken note of it.
    Ack(Ack),
    /// A leader asks whether a lease is over.
    Ask(Ask),
    /// A voter has not heard of it for long enough.
    Lapse(Lapse),
    /// May I join you?
    Who(Who),
    /// This is who I am, and whether you may.
    Here(Here),
    /// How full the sender is.
    Figures(Figures),
}

/// Whoever is about to join asks those it was told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Drawn by the asker; the answer repeats it.
    pub question: u64,
    /// The mark of its state directory.
    pub mark: StateMark,
    /// What it speaks.
    pub versions: Versions,
    /// The cluster that it belongs to already.
    pub cluster: Option<ClusterId>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// Which question.
    pub question: u64,
    /// The mark of the answering node's state directory.
    pub mark: StateMark,
    /// What it speaks.
    pub versions: Versions,
    /// The cluster that it belongs to, where that is known.
    pub cluster: Option<ClusterId>,
    /// Where the others reach it.
    pub address: String,
    /// Why the asker may not join.
    pub refused: Option<Problem>,
}

/// What a node says about itself, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Of which life: its generation as a member.
    pub generation: u64,
    /// Rises with every datagram of that life.
    pub count: u64,
    /// CPU use, in tenths of a percent.
    pub cpu_permille: u16,
    /// Memory in use.
    pub memory_used_bytes: u64,
    /// Memory there is.
    pub memory_total_bytes: u64,
    /// Free space where layers live.
    pub disk_free_bytes: u64,
    /// How many workloads it has.
    pub workloads: u32,
    /// How slow it takes itself for: 0 (not at all) to 8.
    pub slowness: u8,
    /// Version of its agent.
    pub agent_version: String,
    /// Version of its CRIU, where it has one.
    pub criu_version: Option<String>,
}

impl Datagram {
    /// The number of its kind.
    pub fn kind(&self) -> u8 {
        match self {
            Datagram::Renew(_) => 2,
            Datagram::Ack(_) => 3,
            Datagram::Ask(_) => 4,
            Datagram::Lapse(_) => 5,
            // 6 and 8 are kept for the leader's nudge and for images that a target holds.
            Datagram::Who(_) => 7,
            Datagram::Here(_) => 9,
            Datagram::Figures(_) => 10,
        }
    }
}
