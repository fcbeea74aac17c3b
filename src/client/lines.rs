//! An answer that is a stream of JSON objects, one a line.

use std::marker::PhantomData;
use std::path::PathBuf;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{ClientError, ConnectionTask};

/// A line may have this many bytes.
const LINE_LIMIT: usize = 16 << 20;

/// The stream. Dropping it closes the connection, which tells the agent that nobody waits any more.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    socket: PathBuf,
    body: Incoming,
    // Held only to be dropped with the stream.
    _connection: ConnectionTask,
    received: BytesMut,
    /// How much of `received` is known to hold no line's end.
    searched: usize,
    ended: bool,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(super) fn new(socket: PathBuf, body: Incoming, connection: ConnectionTask) -> Lines<T> {
        Lines {
            socket,
            body,
            _connection: connection,
            received: BytesMut::new(),
            searched: 0,
            ended: false,
            item: PhantomData,
        }
    }

    /// The next line; `None` at the end of the answer. May be dropped at any await without losing a line.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|source| ClientError::NotUnderstood {
                    socket: self.socket.clone(),
                    what: "a line of a stream".to_owned(),
                    source,
                });
            }
            if self.ended {
                return Ok(None);
            }
            if self.received.len() > LINE_LIMIT {
                return Err(ClientError::TooMuch { socket: self.socket.clone(), limit: LINE_LIMIT });
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(source)) => return Err(ClientError::Cut { socket: self.socket.clone(), source }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The error for an answer that ended without its last line.
    pub(crate) fn incomplete(&self) -> ClientError {
        ClientError::Incomplete { socket: self.socket.clone() }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        match self.received[self.searched..].iter().position(|b| *b == b'\n') {
            Some(at) => {
                let line = self.received.split_to(self.searched + at);
                self.received.advance(1);
                self.searched = 0;
                Some(line)
            }
            None if self.ended && !self.received.is_empty() => Some(self.received.split()),
            None => {
                self.searched = self.received.len();
                None
            }
        }
    }
}
