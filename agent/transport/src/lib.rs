//! How agents talk: ZeroMQ behind a TLS door, with credit, acknowledgement and resume of our own.
//!
//! From the bottom up:
//! - [`keys`]: who belongs to the cluster. [`door`]: TLS between nodes; nothing unauthenticated gets past it.
//! - [`link`]: what a connection is: authenticated, and allowed to lose everything. [`zmq`] is the real one, [`memory`] and
//!   [`faulty`] are its twins for tests.
//! - [`datagram`]: beside all that, what may be lost: sealed UDP.
//! - [`session`]: what the agent uses: an ordered, exactly-once, bounded stream of [`parcel::Parcel`]s each way.

pub mod allocation;
pub mod datagram;
pub mod door;
pub mod faulty;
pub mod keys;
pub mod link;
pub mod memory;
pub mod parcel;
pub mod session;
pub mod zmq;
