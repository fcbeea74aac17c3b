//! What reads bytes from outside, for the fuzzer: as the programs here call it, with their private types left out.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::control::Request;
use crate::guard::{Hook, Order};
use crate::{guard, wire};

/// A request to a sandbox's PID 1, as it would be sent; `None` where the other side is done.
pub fn request(socket: &UnixStream, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let Some((request, _)) = wire::receive_until::<Request>(socket, deadline)? else { return Ok(None) };
    let body = serde_json::to_vec(&request)?;
    Ok(Some([&(body.len() as u32).to_be_bytes(), &body[..]].concat()))
}

/// An order to a guard.
pub fn order(agent: &UnixStream) -> Option<Order> {
    guard::read_order(agent)
}

/// What a hook of CRIU says to a guard.
pub fn hook(gate: &UnixStream, deadline: Instant) -> Option<Hook> {
    guard::read_hook(gate, deadline)
}
