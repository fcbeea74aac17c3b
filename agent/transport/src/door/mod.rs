//! The door: the only way between this node's ZeroMQ, which listens on Unix sockets only, and the network.
//!
//! [`outgoing`] opens connections to the doors of peers, [`incoming`] takes theirs: TLS 1.3, both sides with certificates of the
//! cluster. Not a byte gets to ZeroMQ before the handshake has succeeded, and what gets there afterwards has been seen by a
//! [`zmtp::Watch`]. [`admission`] bounds who has not proved itself yet, `turnstile` how often it may try; [`shuttle`]
//! moves the bytes.

pub mod admission;
pub mod incoming;
pub mod outgoing;
pub mod shuttle;
mod turnstile;
pub mod zmtp;

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// How long a peer may take to prove who it is, and then to say so to ZeroMQ.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// One bulk parcel and a bit, so that a sender need not wait for every acknowledgement of the other kernel.
const SOCKET_BUFFER: usize = 4 << 20;

/// Gives a socket large buffers. Where that is not allowed, the kernel's own tuning does better than a small fixed size.
fn enlarge_buffers(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER);
    let _ = setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER);
}
