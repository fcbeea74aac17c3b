//! What a workload cannot reach, what processes of a node carry with them, and keys that change under way: with real agents and
//! real CRIU, in a lab.
//!
//! - `reach`: a workload that is root tries everything (`reach.py`).
//! - `carried`: environments, descriptors, capabilities and limits of the agent and of everything that it starts.
//! - `keys`: a key is replaced on three nodes, one by one, while a workload moves around.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod carried;
mod keys;
mod reach;
