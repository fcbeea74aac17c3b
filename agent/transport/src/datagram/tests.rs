//! Two nodes, strangers, and whoever stands between them: without a socket, and over real ones.
#![allow(clippy::unwrap_used)]

mod between;
mod sockets;
