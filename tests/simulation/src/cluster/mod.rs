//! A second world: a cluster that agrees, and heals itself.
//!
//! Around the real machines of `migrate_proto::cluster` (the record, `Holder`, `Promiser`, `leash`, `Gather` in a `Vigil`, `Steward`)
//! it has executors as the agent will have them, each effect a thing of its own: agents that renew, conduct what is theirs, take
//! checkpoints, move workloads by way of the record, and lead. What is not real is raft: one log that is never wrong, only
//! late, whose leader changes and whose answers get lost; and SWIM: a leader sees who answers, with delays and falsely at times.
//!
//! Everything that can go wrong does: see [`Fault`]. After each thing that happens the [`Invariant`]s are judged, some of them when
//! the faults have ended; that they judge anything is proven by [`Bug`]s.
//!
//! Not in here: the machines of a handover (they are the other world's), configurations that a deposed leader has written into
//! a few logs and clocks of voters that stand still (the proof of the leases has both), nodes that join, leave or lose their state
//! directory, machines that are suspended as a whole (there two copies are possible, and documented).

mod bug;
mod campaign;
mod checkpoints;
mod clock;
mod conduct;
mod faults;
mod genesis;
mod invariants;
mod keeper;
mod lead;
mod log;
mod moves;
mod node;
mod world;

pub use bug::Bug;
pub use campaign::{Outcome, Tally, run};
pub use faults::Fault;
pub use invariants::{Invariant, Violation};
pub use world::World;
