//! Bad input and failure, with real CRIU: each gets a message that says what failed, where the workload is now and what to do,
//! the right exit code, and leaves exactly one running copy that goes on where it was.
//!
//! - `refusal`: how a refused move looks, to a person and to a program.
//! - `stage`: a move that is watched, so that a test can act in a phase of its choice.
//! - `questions`: moves that cannot be meant. `peers`: targets that cannot take it. `dumping`: workloads that cannot be moved.
//! - `deaths`: agents and nodes that die on the way. `doubts`: moves that nobody can settle for a while. `links`: links that are cut. `rivals`: commands in each other's way.
//! - `starting`: commands that cannot be run. `standing`: workloads that stopped. `bytes`: names and bytes of all kinds.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod bytes;
mod deaths;
mod doubts;
mod dumping;
mod links;
mod peers;
mod questions;
mod refusal;
mod rivals;
mod stage;
mod standing;
mod starting;
