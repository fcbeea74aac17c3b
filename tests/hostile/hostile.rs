//! A hostile client against real agents in a lab: what has no key, what replays, floods and dawdles, and a valid node that lies.
//! Each is refused in words that a person can use, the agents' memory stays within a stated bound, honest moves go on
//! meanwhile, and no workload is duplicated, lost or frozen for good. The table is in docs/reliability.md.
//!
//! - `field`: a lab with a place for the attacker, and honest moves while it attacks.
//! - `fake`: what stands there and speaks like an agent. `wire`: the session's header, written by hand from its documentation.
//! - `between`: a node with the key that passes a real move on and changes it on the way.
//! - `strangers`: without the key. `members`: with it, against the transport. `offers`: lies about handovers.
//! - `tampering`: lies about the bytes and the decision of a real move. `returning`: a node that comes back with an old state.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../failures/refusal.rs"]
mod refusal;

mod between;
mod fake;
mod field;
mod members;
mod offers;
mod returning;
mod strangers;
mod tampering;
mod wire;
