//! The other end of CRIU's `--stream` option: images come and go through pipes.
//!
//! CRIU connects once to a socket in its images directory: [`capture`] listens on it for a dump, [`serve`] for a restore.
//! For every image it sends a request, a native-endian `u32` size and a protobuf `{1: filename}`, and one end of a pipe
//! with a message of one byte. A dump sends the pipe at once and its pipes are open side by side, so they must be drained
//! side by side. A restore waits for the answer `{1: exists}` and only then sends a pipe.
//!
//! Of the images a dump writes [`LAST_IMAGE`] last, and a restore reads it first. A dump keeps the socket open until its
//! `post-dump` hook has returned, so an image is complete when that image was requested and every pipe is at its end.
//!
//! The socket lies where the sandbox can reach it. So whatever comes over it is checked: lengths, names, their number,
//! what kind of descriptor it is, and that a request that has begun is finished in time. How long to wait *between*
//! requests only the caller can know: every wait here can be cancelled without losing anything, unless it says otherwise.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub mod capture;
mod listen;
pub mod serve;
mod wire;

#[cfg(test)]
mod tests;

/// The image that a dump writes last and a restore reads first.
pub const LAST_IMAGE: &str = "inventory.img";
/// The longest name of an image, in bytes: what a file system takes.
pub const MAX_NAME: usize = 255;
/// The most requests on one connection; a task makes about ten.
pub const MAX_REQUESTS: usize = 1 << 20;
/// How long CRIU may take to finish a request, counted from its first byte. It sends all of it at once.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How much a pipe should hold, where the kernel allows it.
pub const PIPE_BYTES: usize = 4 << 20;

/// What can go wrong between CRIU and us.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The socket could not be made.
    #[error("cannot listen for CRIU on {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// CRIU's connection could not be taken.
    #[error("cannot take CRIU's connection on {}: {source}", path.display())]
    Accept {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket failed.
    #[error("CRIU's image socket failed: {0}")]
    Socket(#[from] io::Error),
    /// The socket ended in the middle of a request.
    #[error("CRIU's image socket ended in the middle of a request")]
    Truncated,
    /// A request was begun and not finished.
    #[error("CRIU began to request an image and did not finish within {} s", REQUEST_TIMEOUT.as_secs())]
    Stalled,
    /// A request is too long to be one.
    #[error("CRIU's image socket carried a request of {size} bytes")]
    Oversized {
        /// What it claims.
        size: u32,
    },
    /// A request that is none.
    #[error("CRIU's image socket carried something that is no request")]
    Garbled,
    /// A name that no image can have.
    #[error("CRIU asked for an image called '{shown}'")]
    BadName {
        /// The name, escaped and shortened.
        shown: String,
    },
    /// More requests than any image has.
    #[error("CRIU made more than {MAX_REQUESTS} requests")]
    TooMany,
    /// A dump wrote an image a second time.
    #[error("CRIU wrote the image {name} twice")]
    Twice {
        /// Which.
        name: String,
    },
    /// No pipe came with a request, or something else did.
    #[error("CRIU sent no pipe for the image {name}")]
    NoPipe {
        /// Which.
        name: String,
    },
}
