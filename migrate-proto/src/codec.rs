//! Messages to bytes and back, and [datagrams](datagram): the only place that knows bincode.
//!
//! A frame is a [header](crate::frame) whose `type` is the message's number, and a body in bincode's standard
//! configuration (little-endian, variable-length integers). What arrives is not trusted: the length is judged before the
//! body is read, decoding is bounded, nothing may follow the message, and the number in the header must be the message's.

pub mod datagram;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use thiserror::Error;

use crate::frame::{FrameError, HEADER_BYTES, Header};
use crate::message::{MOST_CHECKPOINTS, MOST_WANTED, Message};

/// The longest body of a message. Bulk bytes travel beside messages, not in them.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// What bincode may claim while it decodes one body. It counts every integer as if it had its full width (up to eight
/// bytes where the wire has one), so the bound that keeps every sendable body readable is eight times the body's.
const MAX_CLAIMED_BYTES: usize = 8 * MAX_BODY_BYTES;

const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_CLAIMED_BYTES>> =
    bincode::config::standard().with_limit::<MAX_CLAIMED_BYTES>();

/// Why a message could not be encoded or decoded.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The header is not acceptable.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame is not as long as its header says.
    #[error("a frame with a body of {have} bytes whose header says {said}")]
    Length {
        /// What the header says.
        said: u64,
        /// What there is.
        have: usize,
    },
    /// A message of a version that is not spoken here.
    #[error("a message of the unknown type {kind}")]
    UnknownType {
        /// Its number.
        kind: u16,
    },
    /// The header announces another message than the body holds.
    #[error("a frame of type {said} holds a message of type {found}")]
    WrongType {
        /// What the header says.
        said: u16,
        /// What the body is.
        found: u16,
    },
    /// The body is no message.
    #[error("a message of type {kind} cannot be decoded: {source}")]
    Decode {
        /// Its number.
        kind: u16,
        /// What bincode says.
        source: bincode::error::DecodeError,
    },
    /// Something follows the message.
    #[error("a message of type {kind} is followed by {bytes} bytes that do not belong to it")]
    Trailing {
        /// Its number.
        kind: u16,
        /// How many.
        bytes: usize,
    },
    /// The message cannot be put into bytes.
    #[error("a message of type {kind} cannot be encoded: {source}")]
    Encode {
        /// Its number.
        kind: u16,
        /// What bincode says.
        source: bincode::error::EncodeError,
    },
    /// The message lists more than one of its kind may.
    #[error("a message of type {kind} lists {count} things, of at most {most}")]
    TooMany {
        /// Its number.
        kind: u16,
        /// How many.
        count: usize,
        /// The limit.
        most: usize,
    },
    /// The message is longer than the other side would accept.
    #[error("a message of type {kind} has {length} bytes; at most {MAX_BODY_BYTES} can be sent")]
    TooLong {
        /// Its number.
        kind: u16,
        /// How long it is.
        length: usize,
    },
}

/// The frame of a message.
pub fn encode(message: &Message) -> Result<Vec<u8>, CodecError> {
    let kind = message.kind();
    bounded(message)?;
    let mut frame = vec![0; HEADER_BYTES];
    let length = bincode::serde::encode_into_std_write(message, &mut frame, CONFIG)
        .map_err(|source| CodecError::Encode { kind, source })?;
    if length > MAX_BODY_BYTES {
        return Err(CodecError::TooLong { kind, length });
    }
    frame[..HEADER_BYTES].copy_from_slice(&Header { kind, length: length as u64 }.to_bytes());
    Ok(frame)
}

/// The message in a frame. The whole of `frame` must be that one message.
pub fn decode(frame: &[u8]) -> Result<Message, CodecError> {
    let Header { kind, length } = Header::parse(frame, MAX_BODY_BYTES as u64)?;
    let body = &frame[HEADER_BYTES..];
    if body.len() as u64 != length {
        return Err(CodecError::Length { said: length, have: body.len() });
    }
    if !(1..=Message::LAST_KIND).contains(&kind) {
        return Err(CodecError::UnknownType { kind });
    }
    let (message, used): (Message, usize) =
        bincode::serde::decode_from_slice(body, CONFIG).map_err(|source| CodecError::Decode { kind, source })?;
    if used != body.len() {
        return Err(CodecError::Trailing { kind, bytes: body.len() - used });
    }
    if message.kind() != kind {
        return Err(CodecError::WrongType { said: kind, found: message.kind() });
    }
    bounded(&message)?;
    Ok(message)
}

/// Whether its lists are no longer than they may be.
fn bounded(message: &Message) -> Result<(), CodecError> {
    let (count, most) = match message {
        Message::Keep { checkpoints, .. } => (checkpoints.len(), MOST_CHECKPOINTS),
        Message::Holding { checkpoints } => (checkpoints.len(), MOST_CHECKPOINTS),
        Message::Want { segments } => (segments.len(), MOST_WANTED),
        _ => return Ok(()),
    };
    if count <= most { Ok(()) } else { Err(CodecError::TooMany { kind: message.kind(), count, most }) }
}

#[cfg(test)]
mod tests;
