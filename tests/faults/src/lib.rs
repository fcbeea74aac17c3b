//! Faults in every phase of real moves, judged from outside.
//!
//! A [`stage`] is a lab with real agents and real CRIU. On it a *witness* (`src/bin/witness.rs`) writes a journal to storage that all
//! nodes share, and is moved. The move is made to wait in a phase ([`halt`]), [`harm`] is done, the move goes on. What then has to
//! hold is judged without asking the agents ([`cell`]): the [`journal`] proves that there was one copy all the time and that
//! nothing acknowledged is gone, the process table that there is one now, and that nothing is left behind.
//!
//! [`matrix`] names the cells, [`report`] shows what came of them. `src/bin/faults.rs` runs them, `src/bin/chaos.rs` does harm at
//! random; `tests/sample.rs` is the part that runs with all other tests.

// A test instrument: what it needs and does not get ends it.
#![allow(clippy::unwrap_used)]

#[path = "../../harness/mod.rs"]
mod harness;

pub mod cell;
pub mod halt;
pub mod harm;
pub mod interrupt;
pub mod journal;
pub mod matrix;
pub mod report;
pub mod stage;
pub mod wire;
