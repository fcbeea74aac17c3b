//! Sealed datagrams: what the nodes of a cluster say to each other all the time and may lose.
//!
//! ```text
//! in clear   "MGRD"  version  key's name 8  boot number 16  counter 8          37 bytes, authenticated
//! sealed     kind 1  length of the name 1  the sender's name  body             then the tag, 16 bytes
//! ```
//! AES-256-GCM. The key belongs to one life of one sender: it is derived from a key of the ring and the sender's *boot number*, which is
//! drawn anew by every agent that starts. The nonce is the counter, so no pair of key and nonce is used twice. A datagram is
//! sealed under the first key of the ring and opened under any ([`DatagramKeys`]).
//!
//! [`Sealer`] and [`Opener`] open no socket and read no clock; [`SealedSocket`] puts them on UDP.
//!
//! What an opener promises:
//! - What comes out was sealed by somebody who has a key of the ring, byte for byte, and comes out once: copies are dropped, and so is
//!   what is [`WINDOW`] datagrams or more behind the newest of its sender. The name is the sender's own claim.
//! - Memory is bounded, whatever comes. Of [`MOST_BOOTS`] senders it remembers what was there; who was not heard for longest is forgotten.
//! - A stranger costs little: keys are derived at a bounded rate, for an address and in all. Those who have been heard are never held
//!   up by that, also if a stranger uses their address.
//!
//! What it does not: **a datagram is not addressed**. One that was recorded can be handed to another node, and once more to a node that
//! has been started anew or has forgotten the sender. So every body says what it is about, and old ones must be harmless: those
//! of `migrate_proto::cluster::lease` and `migrate-members` are made so. What comes back to its own sender is dropped.

mod drops;
mod keys;
mod open;
pub mod outside;
mod rates;
mod seal;
mod socket;
mod window;
mod wire;

#[cfg(test)]
mod tests;

pub use drops::{Dropped, Drops, Foreign};
pub use keys::{BootId, DatagramKeys};
pub use open::{Incoming, MOST_BOOTS, Opener};
pub use seal::{SealError, Sealer};
pub use socket::{SealedSocket, SocketError};
pub use window::WINDOW;
pub use wire::{HEADER_BYTES, MAX_BODY_BYTES, MAX_DATAGRAM_BYTES};
