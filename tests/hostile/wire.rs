//! ZMTP's greeting, and the session's header, written by hand from the layout in its documentation, so that a test can say what no
//! session says.

use bytes::Bytes;
use migrate_transport::link::Frames;
use xxhash_rust::xxh3::Xxh3;

/// The greeting of ZMTP 3, to which ZeroMQ would answer.
pub(crate) fn zmtp_greeting() -> Vec<u8> {
    let mut greeting = vec![0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

pub(crate) const OPEN: u8 = 1;
pub(crate) const WELCOME: u8 = 3;
pub(crate) const REFUSED: u8 = 4;
pub(crate) const DATA: u8 = 5;
pub(crate) const STATUS: u8 = 6;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    /// What the session is for; or why it is refused.
    pub(crate) detail: u8,
    pub(crate) session: [u8; 16],
    pub(crate) number: u64,
    pub(crate) received: u64,
    pub(crate) grant: u64,
}

impl Header {
    pub(crate) fn new(kind: u8, session: [u8; 16], number: u64) -> Header {
        Header { kind, detail: 0, session, number, received: 0, grant: 0 }
    }

    /// The message, with the parts of a parcel where there are any.
    pub(crate) fn frames(&self, parts: &[Bytes]) -> Frames {
        let mut bytes = vec![b'm', b'S', 1, self.kind, self.detail, 0, 0, 0];
        bytes.extend(self.session);
        for number in [self.number, self.received, self.grant, 0] {
            bytes.extend(number.to_le_bytes());
        }
        let mut check = Xxh3::new();
        check.update(&bytes);
        if !parts.is_empty() {
            for part in [parts.first(), parts.get(1)] {
                check.update(&part.map_or(0, |part| part.len() as u64).to_le_bytes());
            }
            parts.iter().for_each(|part| check.update(part));
        }
        bytes.extend(check.digest().to_le_bytes());
        [&[Bytes::from(bytes)], parts].concat()
    }

    pub(crate) fn read(frames: &Frames) -> Header {
        let bytes = &frames[0];
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Header {
            kind: bytes[3],
            detail: bytes[4],
            session: bytes[8..24].try_into().unwrap(),
            number: number(24),
            received: number(32),
            grant: number(40),
        }
    }
}
