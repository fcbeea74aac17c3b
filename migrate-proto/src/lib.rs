//! The words, wire messages and state machines of migrate.
//!
//! Nothing in here does I/O, reads a clock, draws a random number or waits: time and randomness come in as arguments.

pub mod api;
pub mod care;
pub mod cluster;
pub mod codec;
pub mod cursor;
pub mod datagram;
pub mod error;
pub mod frame;
pub mod handover;
pub mod id;
pub mod key;
pub mod manifest;
pub mod message;
pub mod name;
pub mod phase;
pub mod policy;
pub mod spec;
pub mod text;
pub mod version;
