//! What members say, as bytes: little-endian numbers, lengths before text, everything bounded.
//!
//! A datagram is a header, and what foca puts behind it: a count (two bytes, big-endian) and that many members. What arrives is not
//! trusted: every length is judged before anything is made of it, and a number without a meaning is an error. Nothing is written
//! where there is no room for all of it, as foca demands.

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Message, State};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use thiserror::Error;

use crate::member::{InvalidMember, Member};

/// The first byte of every datagram: this way of saying it.
const FORMAT: u8 = 1;

/// Why bytes are not what a member says, or cannot become that.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WordsError {
    /// Written by a version that is not spoken here.
    #[error("a datagram in the format {0}, where {FORMAT} is spoken")]
    Format(u8),
    /// It ends too early.
    #[error("it ends where {wanted} more bytes must be")]
    Short {
        /// How many are missing at least.
        wanted: usize,
    },
    /// A number that means nothing.
    #[error("{what} cannot be {value}")]
    Number {
        /// What it is the number of.
        what: &'static str,
        /// The number.
        value: u8,
    },
    /// A name that is none, or text that is no text.
    #[error("{0} is not well-formed")]
    Text(&'static str),
    /// A member that cannot be.
    #[error(transparent)]
    Member(#[from] InvalidMember),
    /// It does not fit into the datagram.
    #[error("{wanted} bytes do not fit")]
    NoRoom {
        /// How long it is.
        wanted: usize,
    },
    /// A message that nobody here sends.
    #[error("a broadcast, which is not spoken here")]
    Broadcast,
}

/// The codec.
#[derive(Debug, Clone, Copy)]
pub struct Words;

impl Words {
    /// The header of a datagram, and nothing of what follows.
    pub fn header(mut datagram: &[u8]) -> Result<Header<Member>, WordsError> {
        read_header(&mut datagram)
    }

    /// A whole datagram as foca reads it: its header, and what it says about members.
    pub fn datagram(mut datagram: &[u8]) -> Result<(Header<Member>, Vec<foca::Member<Member>>), WordsError> {
        let header = read_header(&mut datagram)?;
        // Foca's own number, in its byte order. Where there is none, nothing is said.
        let count = if datagram.len() < 2 { 0 } else { u16::from_be_bytes(take(&mut datagram)?) };
        let said = (0..count).map(|_| read_said(&mut datagram)).collect::<Result<_, _>>()?;
        Ok((header, said))
    }
}

impl Codec<Member> for Words {
    type Error = WordsError;

    fn encode_header(&mut self, header: &Header<Member>, buf: impl BufMut) -> Result<(), WordsError> {
        let mut out = vec![FORMAT];
        write_member(&header.src, &mut out);
        out.put_u16_le(header.src_incarnation);
        write_member(&header.dst, &mut out);
        write_message(&header.message, &mut out)?;
        put_all(&out, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Member>, WordsError> {
        advancing(buf, read_header)
    }

    fn encode_member(&mut self, member: &foca::Member<Member>, buf: impl BufMut) -> Result<(), WordsError> {
        let mut out = Vec::with_capacity(128);
        write_member(member.id(), &mut out);
        out.put_u16_le(member.incarnation());
        out.put_u8(match member.state() {
            State::Alive => 1,
            State::Suspect => 2,
            State::Down => 3,
        });
        put_all(&out, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Member>, WordsError> {
        advancing(buf, read_said)
    }
}

/// Reads from the front of `buf` and takes off what was read. Foca's buffers are contiguous.
fn advancing<T>(mut buf: impl Buf, read: impl FnOnce(&mut &[u8]) -> Result<T, WordsError>) -> Result<T, WordsError> {
    let mut rest = buf.chunk();
    let before = rest.len();
    let value = read(&mut rest)?;
    let used = before - rest.len();
    buf.advance(used);
    Ok(value)
}

fn put_all(bytes: &[u8], mut buf: impl BufMut) -> Result<(), WordsError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(WordsError::NoRoom { wanted: bytes.len() });
    }
    buf.put_slice(bytes);
    Ok(())
}

fn read_header(from: &mut &[u8]) -> Result<Header<Member>, WordsError> {
    match byte(from)? {
        FORMAT => {}
        other => return Err(WordsError::Format(other)),
    }
    let src = read_member(from)?;
    let src_incarnation = u16::from_le_bytes(take(from)?);
    let dst = read_member(from)?;
    let message = read_message(from)?;
    Ok(Header { src, src_incarnation, dst, message })
}

fn read_said(from: &mut &[u8]) -> Result<foca::Member<Member>, WordsError> {
    let id = read_member(from)?;
    let incarnation = u16::from_le_bytes(take(from)?);
    let state = match byte(from)? {
        1 => State::Alive,
        2 => State::Suspect,
        3 => State::Down,
        value => return Err(WordsError::Number { what: "a state", value }),
    };
    Ok(foca::Member::new(id, incarnation, state))
}

fn write_message(message: &Message<Member>, out: &mut Vec<u8>) -> Result<(), WordsError> {
    let (kind, third, probe) = match message {
        Message::Ping(n) => (1, None, Some(n)),
        Message::Ack(n) => (2, None, Some(n)),
        Message::PingReq { target, probe_number } => (3, Some(target), Some(probe_number)),
        Message::IndirectPing { origin, probe_number } => (4, Some(origin), Some(probe_number)),
        Message::IndirectAck { target, probe_number } => (5, Some(target), Some(probe_number)),
        Message::ForwardedAck { origin, probe_number } => (6, Some(origin), Some(probe_number)),
        Message::Announce => (7, None, None),
        Message::Feed => (8, None, None),
        Message::Gossip => (9, None, None),
        Message::TurnUndead => (10, None, None),
        Message::Broadcast => return Err(WordsError::Broadcast),
    };
    out.push(kind);
    if let Some(member) = third {
        write_member(member, out);
    }
    out.extend(probe);
    Ok(())
}

fn read_message(from: &mut &[u8]) -> Result<Message<Member>, WordsError> {
    Ok(match byte(from)? {
        1 => Message::Ping(byte(from)?),
        2 => Message::Ack(byte(from)?),
        3 => Message::PingReq { target: read_member(from)?, probe_number: byte(from)? },
        4 => Message::IndirectPing { origin: read_member(from)?, probe_number: byte(from)? },
        5 => Message::IndirectAck { target: read_member(from)?, probe_number: byte(from)? },
        6 => Message::ForwardedAck { origin: read_member(from)?, probe_number: byte(from)? },
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::TurnUndead,
        value => return Err(WordsError::Number { what: "a message", value }),
    })
}

fn write_member(member: &Member, out: &mut Vec<u8>) {
    write_text(member.name().as_str(), out);
    out.put_slice(&member.mark().0);
    out.put_u64_le(member.generation());
    out.put_u8(u8::from(member.is_leaving()));
    write_text(member.address(), out);
}

fn read_member(from: &mut &[u8]) -> Result<Member, WordsError> {
    let name: NodeName = read_text(from, "a name")?.parse().map_err(|_| WordsError::Text("a name"))?;
    let mark = StateMark(take(from)?);
    let generation = u64::from_le_bytes(take(from)?);
    let leaving = match byte(from)? {
        0 => false,
        1 => true,
        value => return Err(WordsError::Number { what: "whether a member leaves", value }),
    };
    let address = read_text(from, "an address")?.to_owned();
    Ok(Member::decoded(name, mark, generation, leaving, address)?)
}

/// Names and addresses are at most 128 bytes long: their types see to that.
fn write_text(text: &str, out: &mut Vec<u8>) {
    debug_assert!(text.len() <= u8::MAX.into());
    out.push(text.len() as u8);
    out.put_slice(text.as_bytes());
}

fn read_text<'a>(from: &mut &'a [u8], what: &'static str) -> Result<&'a str, WordsError> {
    let length = usize::from(byte(from)?);
    let (text, rest) =
        from.split_at_checked(length).ok_or_else(|| WordsError::Short { wanted: length - from.len() })?;
    *from = rest;
    std::str::from_utf8(text).map_err(|_| WordsError::Text(what))
}

fn byte(from: &mut &[u8]) -> Result<u8, WordsError> {
    take(from).map(|[value]| value)
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], WordsError> {
    let (taken, rest) = from.split_first_chunk().ok_or_else(|| WordsError::Short { wanted: N - from.len() })?;
    *from = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests;
