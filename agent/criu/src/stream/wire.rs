//! What goes over the socket: requests, answers and pipes.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use prost::Message;
use rustix::fs::{FileType, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::{MAX_NAME, MAX_REQUESTS, PIPE_BYTES, REQUEST_TIMEOUT, StreamError};

/// The longest request: a name, its length and its tag.
const MAX_REQUEST: usize = MAX_NAME + 16;
const SIZE_BYTES: usize = 4;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, required, tag = "1")]
    pub(super) filename: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(bool, required, tag = "1")]
    pub(super) exists: bool,
}

/// Which end of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PipeEnd {
    Read,
    Write,
}

/// CRIU's connection. What has been read of a request stays here, so that waiting for the rest can be cancelled.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UnixStream,
    partial: Vec<u8>,
    begun: Option<Instant>,
    requests: usize,
}

impl Wire {
    pub(super) fn new(socket: UnixStream) -> Wire {
        Wire { socket, partial: Vec::new(), begun: None, requests: 0 }
    }

    /// The name of the next image; `None` where CRIU has closed the socket.
    pub(super) async fn request(&mut self) -> Result<Option<String>, StreamError> {
        if !self.fill(SIZE_BYTES).await? {
            return Ok(None);
        }
        let size = self.partial.first_chunk().copied().map(u32::from_ne_bytes).ok_or(StreamError::Garbled)?;
        let length = usize::try_from(size).ok().filter(|length| *length <= MAX_REQUEST);
        let length = length.ok_or(StreamError::Oversized { size })?;
        self.fill(SIZE_BYTES + length).await?;

        let request = Request::decode(&self.partial[SIZE_BYTES..]).map_err(|_| StreamError::Garbled)?;
        self.partial.clear();
        self.requests += 1;
        if self.requests > MAX_REQUESTS {
            return Err(StreamError::TooMany);
        }
        check_name(&request.filename)?;
        Ok(Some(request.filename))
    }

    /// The pipe that follows a request for `name`.
    pub(super) async fn pipe(&mut self, name: &str, end: PipeEnd) -> Result<OwnedFd, StreamError> {
        let (bytes, descriptors) = self.receive(1).await?;
        if bytes.is_empty() {
            return Err(StreamError::Truncated);
        }
        self.begun = None;
        let mut descriptors = descriptors.into_iter();
        match (descriptors.next(), descriptors.next()) {
            (Some(pipe), None) if is_pipe(&pipe, end) => {
                // A small pipe is slower, not wrong.
                let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
                Ok(pipe)
            }
            _ => Err(StreamError::NoPipe { name: name.to_owned() }),
        }
    }

    pub(super) async fn answer(&mut self, exists: bool) -> Result<(), StreamError> {
        let body = Answer { exists }.encode_to_vec();
        let size = u32::try_from(body.len()).map_err(|_| StreamError::Garbled)?;
        let message = [&size.to_ne_bytes(), body.as_slice()].concat();
        self.socket.write_all(&message).await?;
        // How long the answer took was ours to choose; now a pipe is due, or nothing.
        self.begun = exists.then(Instant::now);
        Ok(())
    }

    /// Reads until `partial` has `length` bytes. `false` where the socket ended before the first one.
    async fn fill(&mut self, length: usize) -> Result<bool, StreamError> {
        while self.partial.len() < length {
            let (bytes, descriptors) = self.receive(length - self.partial.len()).await?;
            if !descriptors.is_empty() {
                return Err(StreamError::Garbled);
            }
            if bytes.is_empty() {
                return if self.partial.is_empty() { Ok(false) } else { Err(StreamError::Truncated) };
            }
            self.partial.extend(bytes);
        }
        Ok(true)
    }

    /// At most `length` bytes and what descriptors came with them; no bytes at the end. Never more than asked for, since
    /// a descriptor belongs to the very byte that it came with.
    async fn receive(&mut self, length: usize) -> Result<(Vec<u8>, Vec<OwnedFd>), StreamError> {
        let socket = &self.socket;
        let receive = socket.async_io(Interest::READABLE, || receive_now(socket, length));
        let received = match self.begun {
            None => receive.await?,
            Some(begun) => {
                tokio::time::timeout_at(begun + REQUEST_TIMEOUT, receive).await.map_err(|_| StreamError::Stalled)??
            }
        };
        self.begun.get_or_insert_with(Instant::now);
        Ok(received)
    }
}

fn receive_now(socket: &UnixStream, length: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    bytes.truncate(received.bytes);
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((bytes, descriptors))
}

/// A name becomes the name of a file on another node, so it is one plain component.
fn check_name(name: &str) -> Result<(), StreamError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain) {
        return Ok(());
    }
    Err(StreamError::BadName { shown: name.escape_debug().take(80).collect() })
}

/// Reading from or writing to anything but the right end of a pipe could block, or reach a file.
fn is_pipe(descriptor: &OwnedFd, end: PipeEnd) -> bool {
    let is_fifo =
        rustix::fs::fstat(descriptor).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Fifo);
    let wanted = match end {
        PipeEnd::Read => OFlags::RDONLY,
        PipeEnd::Write => OFlags::WRONLY,
    };
    is_fifo && rustix::fs::fcntl_getfl(descriptor).is_ok_and(|flags| flags & OFlags::RWMODE == wanted)
}
