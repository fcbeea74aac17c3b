//! The other end of a restore: gives CRIU the images that it asks for.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::net::UnixStream;

use super::StreamError;
use super::listen::Listening;
use super::wire::{PipeEnd, Wire};

/// Waits for a restore to connect.
#[derive(Debug)]
pub struct Serve(Listening);

impl Serve {
    /// Listens in `images_dir`, which a restore will be given. Must be called inside a Tokio runtime.
    pub fn bind(images_dir: &Path) -> Result<Serve, StreamError> {
        Listening::bind(images_dir, "streamer-serve.sock").map(Serve)
    }

    /// Waits for CRIU, as the dump does.
    pub async fn accept(self, is_criu: impl Fn(i32) -> bool) -> Result<Serving, StreamError> {
        Ok(Serving::over(self.0.accept(is_criu).await?))
    }
}

/// A restore that has connected.
#[derive(Debug)]
pub struct Serving {
    wire: Wire,
}

impl Serving {
    /// A restore on the other end of `socket`.
    #[doc(hidden)]
    pub fn over(socket: UnixStream) -> Serving {
        Serving { wire: Wire::new(socket) }
    }

    /// The next request; `None` where CRIU has closed the socket: it needs no more images, or has failed. CRIU waits for
    /// the answer, as long as it takes.
    pub async fn next(&mut self) -> Result<Option<Request<'_>>, StreamError> {
        let Some(name) = self.wire.request().await? else { return Ok(None) };
        Ok(Some(Request { name, wire: &mut self.wire }))
    }
}

/// An image that CRIU asks for. It must be answered before the next one comes; dropping it unanswered, or cancelling an
/// answer, leaves CRIU waiting until the connection is dropped.
#[derive(Debug)]
#[must_use]
pub struct Request<'a> {
    name: String,
    wire: &'a mut Wire,
}

impl Request<'_> {
    /// Which image: one plain path component.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// There is no such image. Many are optional.
    pub async fn absent(self) -> Result<(), StreamError> {
        self.wire.answer(false).await
    }

    /// There is such an image: fill the pipe with its bytes and close it. CRIU may close its end early.
    pub async fn present(self) -> Result<OwnedFd, StreamError> {
        self.wire.answer(true).await?;
        self.wire.pipe(&self.name, PipeEnd::Write).await
    }
}
