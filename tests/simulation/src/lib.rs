//! A cluster that exists only in memory: the real machines of `migrate_proto::handover`, and around them everything that can
//! go wrong. One seed is one history, always the same one.
//!
//! A [`World`] has three or four nodes, each with a clock and a disk of its own, and one to three workloads that are moved to
//! and fro. What an executor of the agent does is done here as the agent does it, in the same order and with the same
//! durability: `departure` and `arrival` say which writes are synced. Every effect is a thing of its own, and between
//! any two an agent may die, a node may lose power, a connection may end: see [`faults`].
//!
//! After each thing that happens four [`invariants`] are judged, and a fifth when the faults have ended. That they judge
//! anything is proven by [`bug`]: for every wrong executor there, a seed is found that it does not survive.

mod arrival;
pub mod bug;
pub mod campaign;
mod clock;
pub mod cluster;
pub mod coverage;
mod departure;
mod disk;
pub mod faults;
mod genesis;
mod guard;
pub mod invariants;
mod ledger;
mod network;
mod node;
mod random;
mod restart;
mod sides;
pub mod swim;
mod world;

pub use bug::Bug;
pub use coverage::Coverage;
pub use invariants::{Invariant, Violation};
pub use world::World;

/// Runs the history of a seed.
pub fn history(seed: u64, bug: Option<Bug>) -> (World, Result<(), Violation>) {
    let mut world = World::new(seed, bug, false);
    let verdict = world.live();
    (world, verdict)
}
