//! What two sessions say to each other: one fixed header of 64 bytes, then the parcel's frames, if any.
//!
//! ```text
//!  0  magic "mS" · version · kind
//!  4  detail (purpose, or reason) · three zero bytes
//!  8  session id, 16 bytes
//! 24  number, little-endian u64: attempt, or sequence number
//! 32  received, u64: how many items have arrived here, in order
//! 40  grant, u64: how many bytes the peer may send in all, counted from the beginning
//! 48  sent, u64: the newest item put on this link
//! 56  check: XXH3 of bytes 0–55, the lengths of both parts, and the parts
//! ```
//! The check finds accidents (a cut in the wrong place, a bug), not enemies: those stay in front of the door.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::SessionId;
use crate::link::Frames;
use crate::parcel::Parcel;

const MAGIC: [u8; 2] = *b"mS";
const VERSION: u8 = 1;
const HEADER: usize = 64;
const CHECKED: usize = HEADER - 8;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// First on a link: a session that the peer need not know.
    Open = 1,
    /// First on a link: a session that the peer must know.
    Resume = 2,
    /// The answer: go on from here.
    Welcome = 3,
    /// The answer: no; `detail` says why.
    Refused = 4,
    /// One parcel.
    Data = 5,
    /// Acknowledgement, credit and sign of life.
    Status = 6,
    /// The sender has nothing more to send; numbered like a parcel.
    End = 7,
    /// Both directions have ended and both sides know.
    Bye = 8,
    /// The sender gives the session up.
    Reset = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Open, Resume, Welcome, Refused, Data, Status, End, Bye, Reset].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why a session is refused: the `detail` of [`Kind::Refused`].
pub(super) mod refusal {
    /// The session ended a while ago; `received` says how much of it arrived.
    pub(in crate::session) const ENDED: u8 = 1;
    /// Nobody here knows it.
    pub(in crate::session) const UNKNOWN: u8 = 2;
    /// There are too many sessions.
    pub(in crate::session) const FULL: u8 = 3;
}

/// The header of every message. Fields that a kind has no use for are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) detail: u8,
    pub(super) session: SessionId,
    pub(super) number: u64,
    pub(super) received: u64,
    pub(super) grant: u64,
    pub(super) sent: u64,
}

/// A message that no session of ours sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a message has the wrong number of frames")]
    Frames,
    #[error("a message has no session header of this version")]
    Header,
    #[error("a message of an unknown kind")]
    Kind,
    #[error("a message was damaged on the way")]
    Damaged,
    #[error("a parcel is over the limit")]
    TooLarge,
}

impl Header {
    pub(super) fn new(kind: Kind, session: SessionId) -> Header {
        Header { kind, detail: 0, session, number: 0, received: 0, grant: 0, sent: 0 }
    }

    /// The message as frames; nothing of the parcel is copied.
    pub(super) fn encode(&self, parcel: Option<Parcel>) -> Frames {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, self.kind as u8, self.detail, 0, 0, 0]);
        bytes.extend_from_slice(&self.session.0);
        for number in [self.number, self.received, self.grant, self.sent] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&check(&bytes, parcel.as_ref()).to_le_bytes());
        let header = Bytes::from(bytes);
        match parcel {
            None => vec![header],
            Some(parcel) if parcel.bulk.is_empty() => vec![header, parcel.header],
            Some(parcel) => vec![header, parcel.header, parcel.bulk],
        }
    }

    /// Takes a message apart.
    pub(super) fn decode(frames: Frames) -> Result<(Header, Option<Parcel>), Malformed> {
        let mut frames = frames.into_iter();
        let bytes = frames.next().ok_or(Malformed::Frames)?;
        let parcel = frames.next().map(|header| Parcel { header, bulk: frames.next().unwrap_or_default() });
        if frames.next().is_some() {
            return Err(Malformed::Frames);
        }
        if bytes.len() != HEADER || bytes[..2] != MAGIC || bytes[2] != VERSION {
            return Err(Malformed::Header);
        }
        if parcel.as_ref().is_some_and(|parcel| parcel.check().is_err()) {
            return Err(Malformed::TooLarge);
        }
        if check(&bytes[..CHECKED], parcel.as_ref()) != u64_at(&bytes, CHECKED) {
            return Err(Malformed::Damaged);
        }
        let kind = Kind::from_byte(bytes[3]).ok_or(Malformed::Kind)?;
        if parcel.is_some() != (kind == Kind::Data) {
            return Err(Malformed::Frames);
        }
        let mut session = [0; 16];
        session.copy_from_slice(&bytes[8..24]);
        let header = Header {
            kind,
            detail: bytes[4],
            session: SessionId(session),
            number: u64_at(&bytes, 24),
            received: u64_at(&bytes, 32),
            grant: u64_at(&bytes, 40),
            sent: u64_at(&bytes, 48),
        };
        Ok((header, parcel))
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

fn check(header: &[u8], parcel: Option<&Parcel>) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    if let Some(parcel) = parcel {
        hash.update(&(parcel.header.len() as u64).to_le_bytes());
        hash.update(&(parcel.bulk.len() as u64).to_le_bytes());
        hash.update(&parcel.header);
        hash.update(&parcel.bulk);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn data() -> Header {
        Header { number: 7, received: 3, grant: 1 << 24, sent: 7, ..Header::new(Kind::Data, SessionId([9; 16])) }
    }

    fn parcel() -> Parcel {
        Parcel { header: Bytes::from_static(b"head"), bulk: Bytes::from_static(b"bulk bytes") }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(Header::decode(data().encode(Some(parcel()))), Ok((data(), Some(parcel()))));
        let status = Header::new(Kind::Status, SessionId([1; 16]));
        assert_eq!(Header::decode(status.encode(None)), Ok((status, None)));
        let without_bulk = Parcel::message(&b"head"[..]);
        assert_eq!(Header::decode(data().encode(Some(without_bulk.clone()))), Ok((data(), Some(without_bulk))));
    }

    #[test]
    fn the_layout_is_the_one_in_the_book() {
        let frames = data().encode(None);
        let mut expected = b"mS\x01\x05\0\0\0\0".to_vec();
        expected.extend([9; 16]);
        expected.extend([7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(frames[0][..CHECKED], expected[..]);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let frames = data().encode(Some(parcel()));
        for (at, frame) in frames.iter().enumerate() {
            for byte in 0..frame.len() {
                let mut damaged = frames.clone();
                let mut bytes = frame.to_vec();
                bytes[byte] ^= 0x10;
                damaged[at] = bytes.into();
                assert!(Header::decode(damaged).is_err(), "frame {at}, byte {byte}");
            }
        }
    }

    #[test]
    fn odd_messages_are_refused() {
        assert_eq!(Header::decode(vec![]), Err(Malformed::Frames));
        assert_eq!(Header::decode(vec![Bytes::from_static(b"mS")]), Err(Malformed::Header));
        assert_eq!(Header::decode(data().encode(None)), Err(Malformed::Frames), "data without a parcel");
        let mut long = data().encode(Some(parcel()));
        long.push(Bytes::new());
        assert_eq!(Header::decode(long), Err(Malformed::Frames));
        let huge = Parcel { header: Bytes::new(), bulk: vec![0; crate::parcel::MAX_BULK + 1].into() };
        assert_eq!(Header::decode(data().encode(Some(huge))), Err(Malformed::TooLarge));
    }
}
