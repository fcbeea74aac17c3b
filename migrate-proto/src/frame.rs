//! The frame around every message: 16 bytes that say what follows and how long it is, then the body.
//!
//! ```text
//! 0       4         6      8                16
//! +-------+---------+------+----------------+------ - -
//! | magic | version | type | length of body | body
//! +-------+---------+------+----------------+------ - -
//! ```
//!
//! All numbers are big-endian. A header is judged from its 16 bytes alone, before anything is allocated for the body: a
//! peer that claims a terabyte costs nothing.

use thiserror::Error;

/// Length of a header.
pub const HEADER_BYTES: usize = 16;

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"MIGR";

/// The version of this framing and of the encoding of bodies. It is not the protocol's version, which two agents agree
/// on (see [`crate::version`]): messages can be added without touching it.
pub const VERSION: u16 = 1;

/// Why 16 bytes are no acceptable header.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Fewer bytes than a header has.
    #[error("a frame of {have} bytes: its header alone has {HEADER_BYTES}")]
    Short {
        /// How many there were.
        have: usize,
    },
    /// Something that is no frame of ours.
    #[error("not a frame: it starts with {found:02x?} instead of {MAGIC:02x?}")]
    Magic {
        /// What it starts with.
        found: [u8; 4],
    },
    /// A framing of another version.
    #[error("a frame of version {found}; this agent reads version {VERSION}")]
    Version {
        /// The version it has.
        found: u16,
    },
    /// More than the reader is willing to take.
    #[error("a frame with a body of {length} bytes; at most {limit} are accepted")]
    TooLong {
        /// What it claims.
        length: u64,
        /// What is allowed.
        limit: u64,
    },
}

/// A judged header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: u16,
    /// How many bytes the body has.
    pub length: u64,
}

impl Header {
    /// Reads a header from the first bytes of `bytes`. A body longer than `limit` is refused here.
    pub fn parse(bytes: &[u8], limit: u64) -> Result<Header, FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Short { have: bytes.len() });
        };
        let [m0, m1, m2, m3, v0, v1, k0, k1, length @ ..] = *header;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let version = u16::from_be_bytes([v0, v1]);
        if version != VERSION {
            return Err(FrameError::Version { found: version });
        }
        let length = u64::from_be_bytes(length);
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        Ok(Header { kind: u16::from_be_bytes([k0, k1]), length })
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_protocol_page() {
        let header = Header { kind: 0x0203, length: 0x0405 };
        assert_eq!(header.to_bytes(), *b"MIGR\x00\x01\x02\x03\x00\x00\x00\x00\x00\x00\x04\x05");
    }

    #[test]
    fn the_limit_is_the_last_length_accepted() {
        let of_length = |length| Header { kind: 1, length }.to_bytes();
        assert_eq!(Header::parse(&of_length(10), 10).unwrap().length, 10);
        assert_eq!(Header::parse(&of_length(11), 10), Err(FrameError::TooLong { length: 11, limit: 10 }));
        assert!(matches!(Header::parse(&of_length(u64::MAX), 1 << 40), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn foreign_and_newer_frames_are_told_apart() {
        let good = Header { kind: 1, length: 0 }.to_bytes();
        assert_eq!(Header::parse(&good[..15], 0), Err(FrameError::Short { have: 15 }));
        let mut foreign = good;
        foreign[..4].copy_from_slice(b"HTTP");
        assert_eq!(Header::parse(&foreign, 0), Err(FrameError::Magic { found: *b"HTTP" }));
        let mut newer = good;
        newer[5] = 2;
        assert_eq!(Header::parse(&newer, 0), Err(FrameError::Version { found: 2 }));
    }

    proptest! {
        #[test]
        fn every_header_survives(kind: u16, length: u64) {
            let header = Header { kind, length };
            prop_assert_eq!(Header::parse(&header.to_bytes(), u64::MAX).unwrap(), header);
        }

        #[test]
        fn no_bytes_make_it_panic_or_pass_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..40), limit: u64) {
            if let Ok(header) = Header::parse(&bytes, limit) {
                prop_assert!(header.length <= limit);
            }
        }
    }
}
