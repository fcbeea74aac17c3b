//! Identities: handovers, epochs, digests.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One attempt to move one workload. Chosen by the source: the first half is the mark of its state, the rest is random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HandoverId(pub [u8; 16]);

impl HandoverId {
    /// An attempt of the node whose state has this mark.
    pub fn new(state: StateMark, random: [u8; 8]) -> HandoverId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&state.0);
        id[8..].copy_from_slice(&random);
        HandoverId(id)
    }

    /// Whether it was made by a node with this state. One that has lost its state remembers nothing of it, and must not
    /// take that for a memory of nothing.
    pub fn is_of(&self, state: StateMark) -> bool {
        self.0[..8] == state.0
    }
}

/// Tells the state directory of a node from every other, also from one that takes its place.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMark(pub [u8; 8]);

/// How often the owner of a workload has changed: the fencing token. It only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a workload that has never moved.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch after a change of owner.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }
    )*};
}
shown_as_hex!(HandoverId, StateMark, Digest);
