//! Workloads that end, hang or are ill, with real agents: what was asked for is done, said, and survives the agent and a move.
//!
//! - `restarts`: policies, backoff, crash loops, stops. `health`: commands, connections, pages. `pulse`: signs of life, and workloads that hang.
//! - `moving`: all of it after a move.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod health;
mod moving;
mod pulse;
mod restarts;
mod watching;
