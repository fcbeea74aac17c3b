//! The other end of a dump: takes the images that CRIU writes.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::net::UnixStream;

use super::listen::Listening;
use super::wire::{PipeEnd, Wire};
use super::{LAST_IMAGE, StreamError};

/// Waits for a dump to connect.
#[derive(Debug)]
pub struct Capture(Listening);

impl Capture {
    /// Listens in `images_dir`, which a dump will be given. Must be called inside a Tokio runtime.
    pub fn bind(images_dir: &Path) -> Result<Capture, StreamError> {
        Listening::bind(images_dir, "streamer-capture.sock").map(Capture)
    }

    /// Waits for CRIU, which connects when it starts. The socket's name is removed. The socket is within the workload's reach:
    /// `is_criu` says of a PID, as seen from here, whether it is CRIU's; whoever else connects is not heard.
    pub async fn accept(self, is_criu: impl Fn(i32) -> bool) -> Result<Capturing, StreamError> {
        Ok(Capturing::over(self.0.accept(is_criu).await?))
    }
}

/// An image on its way.
#[derive(Debug)]
pub struct Image {
    /// Its name: one plain path component.
    pub name: String,
    /// Its bytes, until the end of the pipe. Drain it beside the others: CRIU fills several at once.
    pub pipe: OwnedFd,
}

/// A dump that has connected.
#[derive(Debug)]
pub struct Capturing {
    wire: Wire,
    /// Requested, its pipe not yet here.
    pending: Option<String>,
    seen: HashSet<String>,
}

impl Capturing {
    /// A dump on the other end of `socket`.
    #[doc(hidden)]
    pub fn over(socket: UnixStream) -> Capturing {
        Capturing { wire: Wire::new(socket), pending: None, seen: HashSet::new() }
    }

    /// Whether the last image has been requested. The dump is complete when moreover every pipe is at its end.
    pub fn is_last(&self) -> bool {
        self.seen.contains(LAST_IMAGE)
    }

    /// The next image; `None` where CRIU has closed the socket: it is past its `post-dump` hook, or has failed.
    pub async fn next(&mut self) -> Result<Option<Image>, StreamError> {
        let name = match self.pending.take() {
            Some(name) => name,
            None => match self.wire.request().await? {
                Some(name) => name,
                None => return Ok(None),
            },
        };
        // Kept aside while waiting, so that a cancelled wait does not lose it.
        let name = self.pending.insert(name).clone();
        let pipe = self.wire.pipe(&name, PipeEnd::Read).await?;
        self.pending = None;
        if !self.seen.insert(name.clone()) {
            return Err(StreamError::Twice { name });
        }
        Ok(Some(Image { name, pipe }))
    }
}
