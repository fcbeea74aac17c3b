//! Framing on the sandbox's own sockets: a length, JSON, and descriptors that ride with the first byte.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

const LIMIT: usize = 4 << 20;
const MAX_DESCRIPTORS: usize = 16;

/// Sends one message with the descriptors that belong to it.
pub(crate) fn send<T: Serialize>(socket: &mut UnixStream, message: &T, descriptors: &[RawFd]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&frame)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    socket.write_all(&frame[sent..])
}

/// A socket that is read until a deadline and no longer, in however small pieces the other side writes.
pub(crate) struct Until<'a> {
    /// From where.
    pub(crate) socket: &'a UnixStream,
    /// Until when.
    pub(crate) deadline: Instant,
}

impl Until<'_> {
    fn prepare(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))
    }
}

impl Read for Until<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.prepare()?;
        // A socket's own word for it.
        self.socket.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

/// Receives one message, however long it takes; `None` where the other side is done.
pub(crate) fn receive<T: DeserializeOwned>(socket: &mut UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut descriptors = Vec::new();
    let mut head = [0u8; 4];
    let first = receive_with_descriptors(socket, &mut head, &mut descriptors)?;
    Ok(rest_of_message(socket, head, first)?.map(|message| (message, descriptors)))
}

/// The same, but the whole message has to be there by the deadline.
pub(crate) fn receive_until<T: DeserializeOwned>(
    socket: &UnixStream,
    deadline: Instant,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut until = Until { socket, deadline };
    until.prepare()?;
    let mut descriptors = Vec::new();
    let mut head = [0u8; 4];
    let first = receive_with_descriptors(socket, &mut head, &mut descriptors)?;
    Ok(rest_of_message(&mut until, head, first)?.map(|message| (message, descriptors)))
}

/// Of the message's head, `first` bytes are there.
fn rest_of_message<T: DeserializeOwned>(
    socket: &mut impl Read,
    mut head: [u8; 4],
    first: usize,
) -> io::Result<Option<T>> {
    if first == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut head[first..])?;
    let length = u32::from_be_bytes(head) as usize;
    if length > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut body = vec![0u8; length];
    socket.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

#[allow(unsafe_code)]
fn receive_with_descriptors(socket: &UnixStream, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(into)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just put these descriptors into our table for us alone.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_takes_its_descriptors_along() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        send(&mut here, &vec!["x".repeat(100_000)], &[writer.as_raw_fd()]).unwrap();
        drop(writer);
        let (message, mut descriptors): (Vec<String>, _) = receive(&mut there).unwrap().unwrap();
        assert_eq!(message[0].len(), 100_000);
        std::fs::File::from(descriptors.pop().unwrap()).write_all(b"through").unwrap();
        assert_eq!(std::io::read_to_string(reader).unwrap(), "through");
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_allocated() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(receive::<String>(&mut there).is_err());
    }

    #[test]
    fn who_writes_byte_by_byte_gains_no_time() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let deadline = Instant::now() + std::time::Duration::from_millis(200);
        here.write_all(&100u32.to_be_bytes()).unwrap();
        let dripping = std::thread::spawn(move || {
            while here.write_all(b" ").is_ok() {
                std::thread::yield_now()
            }
        });
        // Far more bytes than that would come within the time of one read.
        let mut until = Until { socket: &there, deadline };
        let mut seen = 0u64;
        let error = loop {
            match until.read(&mut [0]) {
                Ok(count) => seen += count as u64,
                Err(error) => break error,
            }
        };
        assert!(seen > 4, "{seen}");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(there);
        dripping.join().unwrap();
    }

    #[test]
    fn the_end_is_no_error() {
        let (here, mut there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive::<String>(&mut there).unwrap().is_none());
    }
}
