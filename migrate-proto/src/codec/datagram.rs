//! Datagrams to bytes and back, like messages: bounded, and nothing may follow.
//!
//! The kind is not among the bytes: it stands beside them in the sealed datagram.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::datagram::Datagram;

/// The longest body.
pub const MAX_DATAGRAM_BYTES: usize = 1200;

/// See [`super::MAX_BODY_BYTES`]: integers count with their full width.
const CONFIG: Configuration<LittleEndian, Varint, Limit<{ 8 * MAX_DATAGRAM_BYTES }>> =
    bincode::config::standard().with_limit::<{ 8 * MAX_DATAGRAM_BYTES }>();

/// Why a datagram could not be encoded or decoded.
#[derive(Debug, Error)]
pub enum DatagramError {
    /// Of a version that is not spoken here.
    #[error("a datagram of the unknown kind {0}")]
    UnknownKind(u8),
    /// It cannot be sent, or was not sent by an agent.
    #[error("a datagram of kind {kind} has {length} bytes; at most {MAX_DATAGRAM_BYTES} can be sent")]
    TooLong {
        /// Its kind.
        kind: u8,
        /// How long it is.
        length: usize,
    },
    /// It cannot be put into bytes.
    #[error("a datagram of kind {kind} cannot be encoded: {source}")]
    Encode {
        /// Its kind.
        kind: u8,
        /// What bincode says.
        source: bincode::error::EncodeError,
    },
    /// It is none.
    #[error("a datagram of kind {kind} cannot be decoded: {source}")]
    Decode {
        /// Its kind.
        kind: u8,
        /// What bincode says.
        source: bincode::error::DecodeError,
    },
    /// Something follows.
    #[error("a datagram of kind {kind} is followed by {bytes} bytes that do not belong to it")]
    Trailing {
        /// Its kind.
        kind: u8,
        /// How many.
        bytes: usize,
    },
}

/// The body of a datagram.
pub fn encode(datagram: &Datagram) -> Result<Vec<u8>, DatagramError> {
    let kind = datagram.kind();
    match datagram {
        Datagram::Renew(said) => body(kind, said),
        Datagram::Ack(said) => body(kind, said),
        Datagram::Ask(said) => body(kind, said),
        Datagram::Lapse(said) => body(kind, said),
        Datagram::Who(said) => body(kind, said),
        Datagram::Here(said) => body(kind, said),
        Datagram::Figures(said) => body(kind, said),
    }
}

/// The datagram that a body of this kind is. The whole of `body` must be that one datagram.
pub fn decode(kind: u8, body: &[u8]) -> Result<Datagram, DatagramError> {
    match kind {
        2 => said(kind, body).map(Datagram::Renew),
        3 => said(kind, body).map(Datagram::Ack),
        4 => said(kind, body).map(Datagram::Ask),
        5 => said(kind, body).map(Datagram::Lapse),
        7 => said(kind, body).map(Datagram::Who),
        9 => said(kind, body).map(Datagram::Here),
        10 => said(kind, body).map(Datagram::Figures),
        _ => Err(DatagramError::UnknownKind(kind)),
    }
}

fn body<T: Serialize>(kind: u8, said: &T) -> Result<Vec<u8>, DatagramError> {
    let body = bincode::serde::encode_to_vec(said, CONFIG).map_err(|source| DatagramError::Encode { kind, source })?;
    within(kind, body.len())?;
    Ok(body)
}

fn said<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, DatagramError> {
    within(kind, body.len())?;
    let (said, used) =
        bincode::serde::decode_from_slice(body, CONFIG).map_err(|source| DatagramError::Decode { kind, source })?;
    if used != body.len() {
        return Err(DatagramError::Trailing { kind, bytes: body.len() - used });
    }
    Ok(said)
}

fn within(kind: u8, length: usize) -> Result<(), DatagramError> {
    if length <= MAX_DATAGRAM_BYTES { Ok(()) } else { Err(DatagramError::TooLong { kind, length }) }
}

#[cfg(test)]
mod tests;
